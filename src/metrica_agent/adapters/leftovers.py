"""What lies on the machine's disks and nobody will miss: rotated logs and old journal; and how full the disks are."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Final

from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metrica_agent.decisions.strain import Need

_ROTATED: Final = re.compile(r".\.gz$|.\.xz$|.\.[1-9][0-9]?$|.\.old$")
_VACUUM_S: Final = 60.0


class Leftovers:
    """Logs and journal of one machine; of none, unless it is told where they are."""

    def __init__(self, *, log_folders: Sequence[str] = (), journal: str = "", journal_kept_bytes: int = 0) -> None:
        self._log_folders = tuple(Path(folder) for folder in log_folders)
        self.journal: Final = journal
        self._journal_kept_bytes = journal_kept_bytes

    async def free_bytes(self, path: str) -> int:
        """Return what is free at ``path``.

        Raises:
            NotNow: ``disk-failed``.
        """
        status = await self._status(path)
        return status.f_bavail * status.f_frsize

    async def is_enough(self, need: Need) -> bool:
        """Whether so much is free as is needed. Raises NotNow."""
        status = await self._status(need.path)
        return status.f_bavail * status.f_frsize >= need.free_bytes and status.f_favail >= need.free_inodes

    @staticmethod
    async def _status(path: str) -> os.statvfs_result:
        try:
            return await asyncio.to_thread(os.statvfs, path)
        except OSError as error:
            raise NotNow(f"{path}: {error.strerror}", reason="disk-failed") from error

    async def share_a_disk(self, path: str, other: str) -> bool:
        """Whether both are on one filesystem; false when one of them is not there."""
        try:
            devices = [(await asyncio.to_thread(os.stat, one)).st_dev for one in (path, other)]
        except OSError:
            return False
        return devices[0] == devices[1]

    async def rotated_logs(self) -> tuple[str, ...]:
        """Return the logs that were rotated away, the oldest first. No link is followed."""
        return await asyncio.to_thread(lambda: tuple(str(path) for _, path in sorted(self._rotated())))

    def _rotated(self) -> Iterator[tuple[float, Path]]:
        for folder in self._log_folders:
            for within, _, names in os.walk(folder):
                for name in names:
                    path = Path(within) / name
                    with suppress(OSError):
                        status = path.lstat()
                        if _ROTATED.search(name) and S_ISREG(status.st_mode) and not self._is_journal(path):
                            yield status.st_mtime, path

    def _is_journal(self, path: Path) -> bool:
        return path.is_relative_to(self.journal)

    async def remove_log(self, path: str) -> bool:
        """Remove a log; false when it can't be."""
        try:
            await asyncio.to_thread(Path(path).unlink)
        except OSError:
            return False
        return True

    async def vacuum_journal(self) -> bool:
        """Shorten the journal to what is kept of it; false where there is none, or no journalctl."""
        program = shutil.which("journalctl")
        if program is None or not await asyncio.to_thread(Path(self.journal).is_dir):
            return False
        process = await asyncio.create_subprocess_exec(
            program,
            f"--directory={self.journal}",
            f"--vacuum-size={self._journal_kept_bytes}",
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        try:
            async with asyncio.timeout(_VACUUM_S):
                _, complaint = await process.communicate()
        except TimeoutError as error:
            raise NotNow(f"journalctl did not end within {_VACUUM_S:g} s", reason="journal-stuck") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            said = complaint.decode("utf-8", "replace").strip()[-300:]
            raise NotNow(f"journalctl: {said}", reason="journal-stuck")
        return True
