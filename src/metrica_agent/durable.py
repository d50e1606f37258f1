"""File operations that a power cut may interrupt anywhere. Each has a name: a fault can be put there."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final, TypeVar

from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")

FILE: Final = 0o444
EXECUTABLE: Final = 0o555
DIRECTORY: Final = 0o555
_NO_HARD_LINK: Final = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def undisturbed(_operation: str) -> None:
    """What happens at an operation on an ordinary day: nothing more."""


class Disk:
    """Writes that last. ``at`` is told the name of every operation before it is done."""

    def __init__(self, at: Callable[[str], None] = undisturbed) -> None:
        self._at = at

    def directory(self, path: Path, mode: int) -> None:
        """Make ``path`` and what is missing above it."""
        if path.is_dir():
            return
        self.directory(path.parent, 0o755)
        self._at("directory:make")
        path.mkdir(exist_ok=True)
        path.chmod(mode)
        self._sync(path.parent)

    def write(self, step: str, path: Path, data: bytes, mode: int = FILE) -> None:
        """Write a new file, read-only or as ``mode`` says."""
        self._at(f"{step}:write")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            self._at(f"{step}:fsync")
            os.fsync(file.fileno())

    def replace(self, step: str, path: Path, data: bytes, mode: int = FILE) -> None:
        """Write a file in the place of one that may be there: whole, or not at all."""
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)  # of a power cut
        self.write(step, new, data, mode)
        self.rename(step, new, path)

    def keep(self, step: str, path: Path, *, executable: bool) -> None:
        """Make a file that somebody else wrote last, and read-only."""
        path.chmod(EXECUTABLE if executable else FILE)
        self._at(f"{step}:fsync")
        self._sync(path)

    def sync(self, step: str, path: Path) -> None:
        """Make a file's content, or a directory's names, last."""
        self._at(f"{step}:fsync")
        self._sync(path)

    def keep_directories(self, step: str, root: Path) -> None:
        """Make every directory of a tree last, the innermost first; all but ``root`` become read-only."""
        for folder, _, _ in os.walk(root, topdown=False):
            self._at(f"{step}:fsync-directory")
            self._sync(folder)
            if folder != str(root):
                os.chmod(folder, DIRECTORY)  # noqa: PTH101 - os.walk gives text

    def link(self, step: str, source: Path, target: Path) -> None:
        """Give a kept file another name; a copy where the filesystem has no hard links."""
        self._at(f"{step}:link")
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
            shutil.copyfile(source, target)
            self.keep(step, target, executable=bool(source.stat().st_mode & stat.S_IXUSR))

    def rename(self, step: str, source: Path, target: Path) -> None:
        """Rename, and make it last in both directories."""
        self._at(f"{step}:rename")
        source.rename(target)
        self._at(f"{step}:fsync-directory")
        self._sync(target.parent)
        if source.parent != target.parent:
            self._sync(source.parent)

    def point(self, step: str, link: Path, target: str) -> None:
        """Make ``link`` lead to ``target``, whatever it led to before, by one rename."""
        new = link.with_name(f"{link.name}.new")
        new.unlink(missing_ok=True)
        self._at(f"{step}:symlink")
        new.symlink_to(target)
        self.rename(step, new, link)

    def unlink(self, step: str, path: Path) -> None:
        """Remove a file or link."""
        self._at(f"{step}:unlink")
        path.unlink(missing_ok=True)
        self._sync(path.parent)

    def remove(self, step: str, path: Path) -> None:
        """Remove a file or a whole tree, read-only or not. Not atomic: rename it out of the way first."""
        self._at(f"{step}:remove")
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)  # noqa: PTH101 - os.walk gives text
        shutil.rmtree(path)

    @staticmethod
    def _sync(path: Path | str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def in_thread(work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns, done in one piece beside the loop.

    A cancelled caller goes on only when the work has ended: nobody may clear up under a thread that writes.

    Raises:
        NotNow: ``disk-full`` or ``disk-failed``, for what the operating system says.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
    except OSError as error:
        reason = "disk-full" if error.errno in _FULL else "disk-failed"
        raise NotNow(f"{error.filename or 'the state directory'}: {error.strerror}", reason=reason) from error
