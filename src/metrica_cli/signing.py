"""An operator's own signature on an order: ``ssh-keygen -Y sign``, with a key on disk, in an agent or on a token.

The private key stays where it is; the hub never sees it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.signed import Signed

if TYPE_CHECKING:
    from collections.abc import Generator

_DEFAULTS: Final = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
_LITERAL: Final = "key::"


def signed(text: str, key: str | None, namespace: str) -> Signed:
    """Return ``text`` with its signature; ssh-keygen asks for a passphrase or a touch by itself.

    Args:
        text: what is signed, to the byte.
        key: a file, private or public (then the agent has the private one), or ``key::`` and a public key; else Git's
            own ``user.signingkey``, else ``~/.ssh/id_ed25519``.
        namespace: what the signature is good for.

    Raises:
        Trouble: there is no key, or it does not sign.
    """
    with _file_of(key or _own_key()) as file:
        try:
            done = subprocess.run(
                ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", file],
                input=text.encode(),
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise Trouble("ssh-keygen can't be run", code=Exit.NO, why=error.strerror or str(error)) from error
    signature = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0 or not signature.startswith("-----BEGIN SSH SIGNATURE-----"):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else "ssh-keygen said nothing"
        raise Trouble(f"the key {key or _own_key()} did not sign", code=Exit.NO, why=why, advice="--key FILE")
    return Signed(text, signature)


def _own_key() -> str:
    """Return the key that Git signs with, else the first of those that ssh would take."""
    if _git("gpg.format") == "ssh":
        configured = _git("user.signingkey")
        if configured:
            return str(Path(configured).expanduser()) if not configured.startswith((_LITERAL, "ssh-")) else configured
    folder = Path.home() / ".ssh"
    for name in _DEFAULTS:
        if (folder / name).exists() or (folder / f"{name}.pub").exists():
            return str(folder / name)
    raise Trouble("there is no key to sign with", code=Exit.USAGE, why=f"none in {folder}", advice="--key FILE")


def _git(name: str) -> str:
    try:
        done = subprocess.run(["git", "config", "--get", name], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


@contextmanager
def _file_of(key: str) -> Generator[str]:
    """Give the file to name to ssh-keygen; a public key that is given itself gets one of its own."""
    literal = key.removeprefix(_LITERAL)
    if literal == key and not key.startswith(("ssh-", "ecdsa-", "sk-")):
        file = Path(key).expanduser()
        if not file.exists() and not file.with_name(f"{file.name}.pub").exists():
            raise Trouble(f"there is no key {file}", code=Exit.USAGE, advice="--key FILE")
        yield str(file if file.exists() else file.with_name(f"{file.name}.pub"))
        return
    descriptor, name = tempfile.mkstemp(suffix=".pub", prefix="metrica-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{literal}\n")
        yield name
    finally:
        Path(name).unlink(missing_ok=True)
