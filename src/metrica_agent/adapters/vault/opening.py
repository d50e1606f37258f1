"""The child that opens secrets: one order from stdin, one answer on stdout.

Plain text is nowhere but in its memory, and in the files that containers mount. It is the only place of the agent that
knows pyrage, and the device's key.
"""

from __future__ import annotations

import ctypes
import hmac
import os
import resource
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import pyrage

from metrica_agent.adapters.vault import orders
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.sealed import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_MEMORY_BYTES: Final = 512 * 1024 * 1024
_PROCESSOR_S: Final = 20
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o444
"""Containers have users of their own; on the machine nobody but root comes into the folder."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_NOT_FOR_US: Final = "No matching keys found"
_PURPOSE: Final = b"metrica: digest of a secret, 1\n"
_LARGEST_KEY_BYTES: Final = 16 * 1024


class _Key:
    """One identity of the device."""

    def __init__(self, line: str) -> None:
        self.identity = pyrage.x25519.Identity.from_str(line)
        self._for_digests = sha256(_PURPOSE + line.encode()).digest()

    @property
    def recipient(self) -> str:
        return str(self.identity.to_public())

    def digest(self, plain: bytes) -> str:
        return hmac.digest(self._for_digests, plain, "sha256").hex()


def main() -> None:
    """Live."""
    _bound()
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=orders.Order)
    sys.stdout.buffer.write(msgspec.msgpack.encode(carried_out(order)))


def carried_out(order: orders.Order) -> orders.Answer:
    """Carry out ``order``; what the world or the content did wrong is an answer as well."""
    try:
        return _opened(order)
    except NotNow as error:
        return orders.NotNowAnswer(reason=error.reason, message=error.message)
    except Unusable as error:
        return orders.UnusableAnswer(reason=error.reason, message=error.message)


def _opened(order: orders.Order) -> orders.Opened:
    keys = _keys(Path(order.identity))
    if order.wanted:
        _require_memory(Path(order.folder))
    digests: dict[str, str] = {}
    written: set[str] = set()
    for secret in order.secrets:
        plain = _plain(secret, keys, order.device)
        digests[secret.name] = keys[0].digest(plain)
        for digest in {key.digest(plain) for key in keys} & set(order.wanted):
            _write(Path(order.folder) / digest, plain)
            written.add(digest)
    return orders.Opened(digests=digests, written=frozenset(written), recipient=keys[0].recipient)


def _keys(file: Path) -> Sequence[_Key]:
    """Return the identities in ``file``, as ``age-keygen`` writes them. Raises Unusable: ``secret-no-key``."""
    way_out = "enrol the device (metrica device add), or make a key: age-keygen -o FILE"
    try:
        with file.open("rb") as opened:
            text = opened.read(_LARGEST_KEY_BYTES).decode()
    except FileNotFoundError as error:
        message = f"this device has no key to open secrets with: {file} is missing; {way_out}"
        raise Unusable(message, reason="secret-no-key") from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Unusable(f"{file}, this device's key, can't be read: {why}; {way_out}", reason="secret-no-key") from error
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    try:
        keys = [_Key(line) for line in lines]
    except pyrage.IdentityError as error:
        raise Unusable(f"{file} holds no age identity; {way_out}", reason="secret-no-key") from error
    if not keys:
        raise Unusable(f"{file} holds no age identity; {way_out}", reason="secret-no-key")
    return keys


def _plain(secret: orders.Sealed, keys: Sequence[_Key], device: str) -> bytes:
    try:
        plain = pyrage.decrypt(secret.data, [key.identity for key in keys])
    except pyrage.DecryptError as error:
        if str(error) == _NOT_FOR_US:
            message = (
                f"{secret.path} is not sealed to this device's key, {keys[0].recipient}:"
                f' age = "…" in devices/{device}.toml has to be that key; then metrica secret rekey, and commit'
            )
        else:
            message = f"{secret.path} is damaged ({error}): set it anew, metrica secret set {secret.name}"
        raise Unusable(message, reason="secret-unreadable") from error
    if len(plain) > MOST_BYTES:
        message = f"{secret.path} holds {len(plain)} bytes, and a secret has at most {MOST_BYTES}: it is for memory"
        raise Unusable(message, reason="secret-unreadable")
    return plain


def _require_memory(folder: Path) -> None:
    """Make ``folder``, and make sure that nothing in it reaches a disk.

    Raises:
        NotNow: ``secrets-on-disk``.
    """
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(_FOLDER_MODE)
    except OSError as error:
        message = f"{folder} can't be made: {error.strerror}; correct secrets_dir in agent.toml"
        raise NotNow(message, reason="secrets-unopened") from error
    kind = _filesystem(folder.resolve())
    if kind not in _IN_MEMORY:
        message = (
            f"{folder} is on {kind}, where a stolen card would hold it, and secrets are kept in memory alone:"
            " mount a tmpfs there, or correct secrets_dir in agent.toml"
        )
        raise NotNow(message, reason="secrets-on-disk")


def _filesystem(path: Path) -> str:
    """Return the kind of the filesystem that ``path`` is on."""
    kind, longest = "an unknown filesystem", -1
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mount, _, about = line.partition(" - ")
        point = mount.split(" ")[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= longest:  # the last mount on a point covers those before
            kind, longest = about.split(" ")[0], len(point)
    return kind


def _write(path: Path, plain: bytes) -> None:
    """Write one file, whole or not at all. An engine may have made a directory where it was missing.

    Raises:
        NotNow: ``secrets-unopened``.
    """
    new = path.with_name(f".{path.name}")
    try:
        if path.is_dir():
            path.rmdir()
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(plain)
            os.fchmod(file.fileno(), _FILE_MODE)
        new.rename(path)
    except OSError as error:
        message = f"{path.parent} can't be written: {error.strerror}; it is in memory, see df {path.parent}"
        raise NotNow(message, reason="secrets-unopened") from error


def _bound() -> None:
    """Die with the agent; leave no core; let nobody look in; take no more than this can need."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_DUMPABLE, 0)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _PROCESSOR_S),
    ):
        _, hard = resource.getrlimit(what)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))
