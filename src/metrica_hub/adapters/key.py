"""The hub's keys: OpenSSH files, used by ``ssh-keygen`` alone.

Its own is made when it is first needed. It signs what the hub says by itself (gates, commands, heads), and no orders.
Another one, for orders, is there only where somebody put it, at their own risk (docs/decisions/0040): none is made.
No operator's key is ever here. Devices believe a key because the fleet repository's ``allowed_signers`` has its line;
``metrica-hub key`` prints that.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metrica_fleet.errors import NotNow
from metrica_fleet.signed import COMMANDS, GATES, HEADS, ORDERS
from metrica_hub.errors import Misconfigured

NAMESPACES: Final = (GATES, COMMANDS, HEADS)
"""What the hub's key is good for."""
_PRINCIPAL: Final = "hub"
_FOR_ORDERS: Final = "hub-stop"
_OPEN_TO_OTHERS: Final = 0o077
_OPEN_TO_MORE_THAN_A_GROUP: Final = 0o037
_ANSWER_S: Final = 10.0
_TYPE_AND_KEY: Final = 2
_LAST_WORDS: Final = 200


class Key:
    """One key file."""

    def __init__(
        self, file: Path, *, name: str = _PRINCIPAL, namespaces: tuple[str, ...] = NAMESPACES, is_given: bool = False
    ) -> None:
        """``name`` and ``namespaces`` are in its line; one that ``is_given`` is not made where there is none."""
        self._file = file
        self._name = name
        self._namespaces = namespaces
        self._is_given = is_given
        self._making = asyncio.Lock()
        self._read: tuple[int, str] | None = None
        """The line, and when the file was changed that it was read from."""

    @property
    def is_there(self) -> bool:
        """Whether there is such a file."""
        return self._file.exists()

    async def line(self) -> str:
        """Return the line of ``allowed_signers`` that has devices believe this key.

        Raises:
            NotNow: ``key-unusable``.
        """
        await self._made()
        changed = self._changed()
        if self._read is not None and self._read[0] == changed:
            return self._read[1]
        said = await self._asked("-y", "-P", "", "-f", str(self._file))
        words = said.decode("ascii", "replace").split()[:_TYPE_AND_KEY]
        if len(words) < _TYPE_AND_KEY:
            raise self._unusable("ssh-keygen reads no key from it")
        line = f'{self._name} namespaces="{",".join(self._namespaces)}" {" ".join(words)}'
        self._read = changed, line
        return line

    async def sign(self, text: bytes, namespace: str) -> bytes:
        """Return the armoured signature of ``text``.

        Raises:
            NotNow: ``key-unusable``.
        """
        await self._made()
        return await self._asked("-Y", "sign", "-n", namespace, "-f", str(self._file), said=text)

    async def _made(self) -> None:
        async with self._making:
            if self._is_given or self.is_there:
                return
            try:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".key-", dir=self._file.parent) as folder:
                    new = Path(folder) / "new"
                    await self._asked("-q", "-t", "ed25519", "-N", "", "-C", self._name, "-f", str(new))
                    self._keep(new)
            except OSError as error:
                raise self._unusable(f"it can't be made ({error.strerror})") from error

    def _changed(self) -> int:
        try:
            return self._file.stat().st_mtime_ns
        except OSError as error:
            raise self._unusable(str(error.strerror)) from error

    def _keep(self, new: Path) -> None:
        """Put the key in place, whole and on the disk, unless another hub was quicker."""
        with new.open("rb") as made:
            os.fsync(made.fileno())
        with suppress(FileExistsError):
            os.link(new, self._file)
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def _asked(self, *arguments: str, said: bytes | None = None) -> bytes:
        try:
            running = await asyncio.create_subprocess_exec(
                "ssh-keygen",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL if said is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )
        except OSError as error:
            raise self._unusable(f"ssh-keygen can't be run ({error.strerror}); install openssh-client") from error
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer, complaint = await running.communicate(said)
        except TimeoutError as error:
            raise self._unusable("ssh-keygen does not answer; has the key a passphrase?") from error
        except (OSError, RuntimeError) as error:  # uvloop's, of one that has gone before it was told all
            raise self._unusable("ssh-keygen ends before it has heard what to sign") from error
        finally:
            if running.returncode is None:
                with suppress(ProcessLookupError):
                    running.kill()
                await running.wait()
        if running.returncode:
            why = " ".join(complaint.decode("utf-8", "replace").split())[-_LAST_WORDS:]
            raise self._unusable(why or "ssh-keygen refuses it")
        return answer

    def _unusable(self, why: str) -> NotNow:
        return NotNow(f"the hub's key {self._file} can't be used: {why}", reason="key-unusable")


@dataclass(frozen=True, slots=True)
class OrderKey:
    """A key that somebody gave to this hub, to sign orders for operators."""

    line: str
    """Of ``allowed_signers``, so that devices believe it, and for orders alone."""
    key: Key

    async def sign(self, text: bytes) -> bytes:
        """Return the armoured signature of an order.

        Raises:
            NotNow: ``key-unusable``.
        """
        return await self.key.sign(text, ORDERS)


async def order_key(file: Path, own: Path) -> OrderKey:
    """Return the key in ``file``, which is to be another one than the hub's ``own``.

    Raises:
        Misconfigured: it is not there, others may read it, it can't be used as it is, or it is the hub's own.
    """
    _require_guarded(file)
    key, hubs = (Key(one, name=_FOR_ORDERS, namespaces=(ORDERS,), is_given=True) for one in (file, own))
    try:
        line = await key.line()
        is_hubs = hubs.is_there and await hubs.line() == line
    except NotNow as error:
        why = "a key that ssh-keygen made, without a passphrase, is wanted"
        raise Misconfigured(f"[stop] key_file {file}: {error.message}; {why}") from error
    if is_hubs:
        way_out = "make another, for orders alone: ssh-keygen -t ed25519"
        raise Misconfigured(f"[stop] key_file {file} is the key of [hub] key_file, which signs no orders; {way_out}")
    return OrderKey(line, key)


def _require_guarded(file: Path) -> None:
    """Refuse what is no file, or is open to others. A secret of a container is another's, and open to a group."""
    try:
        found = file.stat()
    except OSError as error:
        way_out = "mend its path or permissions, or take it out of the settings"
        raise Misconfigured(f"[stop] key_file {file} can't be read ({error.strerror}); {way_out}") from error
    if not stat.S_ISREG(found.st_mode):
        raise Misconfigured(f"[stop] key_file {file} is no file; name the private key itself")
    is_ours = found.st_uid == os.getuid()
    if found.st_mode & (_OPEN_TO_OTHERS if is_ours else _OPEN_TO_MORE_THAN_A_GROUP):
        mode = stat.S_IMODE(found.st_mode)
        raise Misconfigured(f"[stop] key_file {file} has mode {mode:04o}, so that others get at it; chmod 600 {file}")
