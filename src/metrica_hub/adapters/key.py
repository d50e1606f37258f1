"""The hub's own key: an OpenSSH file, made by ``ssh-keygen`` when it is first needed, and used by it alone.

It signs what the hub says by itself (gates, commands, heads), and no operator's orders: no operator's key is ever here.
Devices believe it because the fleet repository's ``allowed_signers`` has its line; ``metrica-hub key`` prints that.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from metrica_fleet.errors import NotNow
from metrica_fleet.signed import COMMANDS, GATES, HEADS

NAMESPACES: Final = (GATES, COMMANDS, HEADS)
"""What the hub's key is good for."""
_PRINCIPAL: Final = "hub"
_ANSWER_S: Final = 10.0
_TYPE_AND_KEY: Final = 2
_LAST_WORDS: Final = 200


class Key:
    """One key file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._making = asyncio.Lock()
        self._read: tuple[int, str] | None = None
        """The line, and when the file was changed that it was read from."""

    async def line(self) -> str:
        """Return the line of ``allowed_signers`` that has devices believe this key; make the key if there is none.

        Raises:
            NotNow: ``key-unusable``.
        """
        await self._made()
        changed = self._changed()
        if self._read is not None and self._read[0] == changed:
            return self._read[1]
        said = await self._asked("-y", "-f", str(self._file))
        words = said.decode("ascii", "replace").split()[:_TYPE_AND_KEY]
        if len(words) < _TYPE_AND_KEY:
            raise self._unusable("ssh-keygen reads no key from it")
        line = f'{_PRINCIPAL} namespaces="{",".join(NAMESPACES)}" {" ".join(words)}'
        self._read = changed, line
        return line

    async def sign(self, text: bytes, namespace: str) -> bytes:
        """Return the armoured signature of ``text``; make the key if there is none.

        Raises:
            NotNow: ``key-unusable``.
        """
        await self._made()
        return await self._asked("-Y", "sign", "-n", namespace, "-f", str(self._file), said=text)

    async def _made(self) -> None:
        async with self._making:
            if self._file.exists():
                return
            try:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".key-", dir=self._file.parent) as folder:
                    new = Path(folder) / "new"
                    await self._asked("-q", "-t", "ed25519", "-N", "", "-C", _PRINCIPAL, "-f", str(new))
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
