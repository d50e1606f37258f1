"""A reserve on disk: room that is ours, to be given up when there is no other left.

Bytes in one preallocated file, inodes in many empty ones: a ledger that is opened needs two for its WAL. All that the
agent must write on a full disk (what it remembers, and what it has to say) goes into what this frees.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.strain import reserve_bytes

if TYPE_CHECKING:
    from pathlib import Path

INODES: Final = 32
_CHUNK: Final = bytes(1024 * 1024)
_NO_FALLOCATE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Reserve:
    """The reserve of one state directory. Any thread may give it up; one at a time makes it."""

    def __init__(self, state: Path, size_bytes: int) -> None:
        self._folder = state / "reserve"
        self._making = state / "reserve.new"
        self._size_bytes = size_bytes
        self.times_used = 0

    @property
    def there(self) -> bool:
        """Whether there is one, or what is left of one."""
        return self._folder.is_dir()

    @property
    def whole(self) -> bool:
        """Whether all of it is there; not so after a death in the middle of giving it up."""
        try:
            has_bytes = (self._folder / "bytes").stat().st_size >= self._affordable()
            return has_bytes and len(os.listdir(self._folder)) > INODES  # noqa: PTH208 - names alone
        except OSError:
            return False

    def give_up(self) -> bool:
        """Free the reserve; false when there was none."""
        freed = self._remove(self._folder)
        self.times_used += freed
        return freed

    def make(self) -> int:
        """Make the reserve, whole or not at all; return how large it is, 0 where there is no room for it."""
        self._remove(self._making)
        self._remove(self._folder)  # what is left of one
        try:
            size_bytes = self._affordable()
            self._fill(size_bytes)
            self._making.rename(self._folder)
            _sync(self._folder.parent)
        except OSError:
            self._remove(self._making)
            return 0
        return size_bytes

    def _affordable(self) -> int:
        disk = os.statvfs(self._folder.parent)
        return reserve_bytes(self._size_bytes, disk.f_blocks * disk.f_frsize)

    def _fill(self, size_bytes: int) -> None:
        self._making.mkdir(mode=0o700)
        for number in range(INODES):
            (self._making / f"inode-{number}").touch(mode=0o600)
        with (self._making / "bytes").open("wb") as file:
            _allocate(file.fileno(), size_bytes)
            os.fsync(file.fileno())
        _sync(self._making)

    @staticmethod
    def _remove(folder: Path) -> bool:
        if not folder.is_dir():
            return False
        with suppress(OSError):  # the large one first: the directory itself may need a block to be changed
            (folder / "bytes").unlink()
        shutil.rmtree(folder, ignore_errors=True)
        return True


def _allocate(descriptor: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        for at in range(0, size_bytes, len(_CHUNK)):
            os.pwrite(descriptor, _CHUNK[: size_bytes - at], at)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
