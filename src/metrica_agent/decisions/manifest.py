"""The files of an exported role folder, as values: what a path leads to, and what its content's digest is."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LINK: Final = "120000"
PLAIN: Final = "100644"
EXECUTABLE: Final = "100755"
_LINKS_FOLLOWED: Final = 40
"""As the kernel does."""


class FileEntry(Value, frozen=True):
    """One file of the exported role folder."""

    path: str
    """Relative to the folder, with ``/``."""
    mode: str
    """As Git has it: 100644, 100755, or 120000 for a symbolic link."""
    sha256: str
    """Of the bytes; of the target's text for a link."""
    bytes: int
    target: str | None = None
    """Where a symbolic link leads."""


class Folder:
    """The entries of one folder, to be asked by path."""

    def __init__(self, entries: Sequence[FileEntry]) -> None:
        self._files = {entry.path: entry for entry in entries}
        self._directories = {"."} | {parent for path in self._files for parent in _parents(path)}

    def directories(self) -> frozenset[str]:
        """Return every directory, ``.`` for the folder itself."""
        return frozenset(self._directories)

    def is_directory(self, path: str) -> bool:
        """Whether files lie under ``path``, links followed."""
        return self.follow(path) in self._directories

    def follow(self, path: str) -> str | None:
        """Return where ``path`` leads, all links on the way followed; ``None``: out of the folder."""
        done: list[str] = []
        ahead = [part for part in path.split("/") if part not in {"", "."}][::-1]
        followed = 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                if not done:
                    return None
                done.pop()
                continue
            done.append(part)
            entry = self._files.get("/".join(done))
            if entry is None or entry.target is None:
                continue
            followed += 1
            if entry.target.startswith("/") or followed > _LINKS_FOLLOWED:
                return None
            done.pop()
            ahead.extend(step for step in reversed(entry.target.split("/")) if step not in {"", "."})
        return "/".join(done) or "."

    def digest(self, path: str) -> str | None:
        """Return the digest of the file or directory at ``path`` (links followed), or ``None``."""
        if path in self._files:
            return tree_digest([("", self._files[path].mode, self._files[path].sha256)])
        if path not in self._directories:
            return None
        return tree_digest(
            (inner, self._files[whole].mode, self._files[whole].sha256) for inner, whole in self.below(path)
        )

    def below(self, path: str) -> list[tuple[str, str]]:
        """Return (path within the directory ``path``, path within the folder) of every file under it."""
        prefix = "" if path == "." else f"{path}/"
        return [(whole.removeprefix(prefix), whole) for whole in self._files if whole.startswith(prefix)]

    @staticmethod
    def digest_of_text(text: str) -> str:
        """Return the digest of a plain file that holds ``text``."""
        return tree_digest([("", PLAIN, sha256(text.encode()).hexdigest())])


def tree_digest(files: Iterable[tuple[str, str, str]]) -> str:
    """Return the digest of (path, mode, sha256) triples; a single file's path is empty."""
    lines = sorted(f"{mode} {digest} {path}\n" for path, mode, digest in files)
    return sha256("".join(lines).encode()).hexdigest()


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
