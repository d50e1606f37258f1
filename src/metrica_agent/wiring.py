"""What the settings mean in paths and adapters: read by the agent that runs and by who asks at the console."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.git import Bounds, GitMirror, SshOptions
from metrica_agent.adapters.git.remote import Remote
from metrica_agent.adapters.releases import Releases
from metrica_agent.adapters.vault import Vault
from metrica_agent.certificates import trust
from metrica_agent.decisions.trust import usable
from metrica_agent.tasks.staging import SHIPPED_SAFE_MODE
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.signers import require_somebody

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from metrica_agent.adapters.papers import Identity
    from metrica_agent.settings import BusSettings, Settings

LEDGER: Final = "agent.sqlite"
AGE_KEY: Final = "device.age"
STICK: Final = "stick.bundle"
"""The history that was brought on a stick last: a remote that is always there."""


def engine_environment(settings: Settings) -> dict[str, str]:
    """Return our environment with what the settings say of the container engine; Compose sees only a part of it."""
    host = settings.compose.docker_host
    return dict(os.environ) | ({} if host is None else {"DOCKER_HOST": host})


def bus_tls(bus: BusSettings) -> Callable[[], ssl.SSLContext] | None:
    """Return what makes the context for the broker's TLS, at each connection; ``None`` where there is no TLS."""
    if bus.certificate_file is not None and bus.key_file is not None:
        from metrica_agent.adapters.papers import mutual  # noqa: PLC0415 - whoever has no certificate needs no papers

        return partial(mutual, bus.ca_file, Path(bus.certificate_file), Path(bus.key_file))
    return partial(_trusted, bus.ca_file) if bus.tls or bus.ca_file is not None else None


def own_identity(settings: Settings) -> Identity | None:
    """Return the device's identity where the bus is spoken to with it; ``None``: with a password, or with other files.

    Those other files are somebody else's to renew.
    """
    if settings.bus.certificate_file is None:
        return None
    from metrica_agent.adapters.papers import CERTIFICATE, Identity  # noqa: PLC0415 - as above

    folder = Path(settings.identity_dir)
    if settings.bus.certificate_file != str(folder / CERTIFICATE):
        return None
    return Identity(folder, settings.bus.ca_file)


def _trusted(ca_file: str | None) -> ssl.SSLContext:
    try:
        return trust(ca_file, newest=True)
    except OSError as error:  # one of ssl's, too
        message = f"{ca_file or 'the system'}: the broker's authority can't be read: {error.strerror or error}"
        raise NotNow(message, reason="bus-credentials") from error


def safe_mode_folder(settings: Settings) -> Path:
    """Return where the stack is that always works."""
    return Path(settings.safe_mode.folder) if settings.safe_mode.folder else SHIPPED_SAFE_MODE


def releases_of(settings: Settings) -> Releases:
    """Return the releases of this device."""
    return Releases(Path(settings.state_dir), secrets=Path(settings.secrets_dir))


def vault_of(settings: Settings) -> Vault:
    """Return what opens this device's secrets."""
    return Vault(Path(settings.identity_dir) / AGE_KEY, Path(settings.secrets_dir), device=settings.device)


def require_remotes(settings: Settings, file: Path) -> None:
    """Make sure that each remote is an address that Git could have.

    Raises:
        Unusable: ``bad-remote``; names the file and the key.
    """
    for url in settings.git.remotes:
        try:
            Remote(url)
        except Unusable as error:
            raise Unusable(f"{file}: git.remotes: {error.message}", reason=error.reason) from error


def mirror(settings: Settings) -> GitMirror:
    """Return the Git edge of this device."""
    git = settings.git
    ssh = SshOptions(key_file=git.ssh_key_file or "", known_hosts_file=git.known_hosts_file)
    fetch_bytes = git.fetch_mb * 1024 * 1024
    bounds = Bounds(
        poll_s=git.answer_s,
        fetch_bytes=fetch_bytes,
        mirror_bytes=max(Bounds().mirror_bytes, 2 * fetch_bytes),
    )
    return GitMirror(Path(settings.state_dir) / "mirror.git", branch=git.branch, ssh=ssh, bounds=bounds)


def own_signers(settings: Settings) -> str | None:
    """Return the device's own ``allowed_signers``; ``None`` when commits need no signature.

    Raises:
        Unusable: ``signers-unusable``: it can't be read, or nobody in it may sign commits.
    """
    if not settings.git.require_signatures:
        return None
    name = settings.git.allowed_signers_file
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        way_out = "write there who may sign commits (man ssh-keygen, ALLOWED SIGNERS), or set git.require_signatures"
        raise Unusable(f"{name}: {error.strerror}; {way_out} to false", reason="signers-unusable") from error
    require_somebody(content, at=None, name=name)
    return content.decode()


def spare_signers(settings: Settings) -> str | None:
    """Return the device's own ``allowed_signers`` if it can be used, whether commits need a signature or not.

    Orders need one always: it counts until a commit brings another.
    """
    try:
        return usable(Path(settings.git.allowed_signers_file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


async def verified(text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
    """Return who of ``signers`` has signed ``text``, found out by ssh-keygen in a thread. Raises Unusable or NotNow."""
    return await asyncio.to_thread(_verified, text, signature, signers, namespace, at)


def _verified(text: bytes, signature: bytes, signers: str, namespace: str, at: str) -> str:
    from metrica_agent.signatures import require_signer  # noqa: PLC0415 - seldom needed, and not small

    way_out = "have it signed by somebody who is in allowed_signers for this"
    return require_signer(
        text, signature, signers, namespace=namespace, at=at, what=f"the {namespace} text", way_out=way_out
    )
