"""What is on disk, as values: the files of a folder, and MANIFEST, which says what they were once."""

from __future__ import annotations

import os
import re
import stat
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.decisions.manifest import EXECUTABLE, LINK, PLAIN, FileEntry, Folder
from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MANIFEST: Final = "MANIFEST"
_CONTENT: Final = "content"
_LOCK: Final = "lock"
_LINE: Final = re.compile(r"(100644|100755|120000|content) ([0-9a-f]{64}) (.+)")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a release was when it was published."""

    files: tuple[FileEntry, ...]
    contents: tuple[str, ...]
    """Digests under ``content/`` that its services mount."""

    def text(self) -> str:
        """Return the lines: mode, digest, path."""
        files = [f"{entry.mode} {entry.sha256} {entry.path}\n" for entry in self.files]
        contents = [f"{_CONTENT} {digest} -\n" for digest in self.contents]
        return "".join(sorted(files) + sorted(contents))


def read_manifest(release: Path) -> Manifest | None:
    """Return the MANIFEST of ``release``; ``None`` when there is none that can be read."""
    text = manifest_text(release)
    return None if text is None else manifest_of_text(text)


def manifest_text(release: Path) -> str | None:
    """Return what MANIFEST of ``release`` says; ``None`` when it can't be read."""
    try:
        return (release / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, UnicodeDecodeError):
        return None


def manifest_of_text(text: str) -> Manifest | None:
    """Return the MANIFEST that ``text`` is; ``None`` for none."""
    lines = text.splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    parts = [match.groups() for match in matches if match is not None]
    if not parts or len(parts) != len(matches):
        return None
    return Manifest(
        files=tuple(
            FileEntry(path=path, mode=mode, sha256=digest, bytes=0) for mode, digest, path in parts if mode != _CONTENT
        ),
        contents=tuple(digest for mode, digest, _ in parts if mode == _CONTENT),
    )


def scan(folder: Path) -> tuple[FileEntry, ...]:
    """Return every file below ``folder``, by path; links are not followed.

    Raises:
        Unusable: ``bad-file-name``, ``bad-file-type``.
    """
    return tuple(sorted(_entries(folder), key=lambda entry: entry.path))


def content_digest(path: Path) -> str | None:
    """Return the digest of what is at ``path`` now, as ``Folder.digest`` counts it; ``None`` for nothing."""
    if path.is_dir():
        return Folder(scan(path)).digest(".")
    if not path.exists():
        return None
    return Folder([entry_of(path, path.name)]).digest(path.name)


def differences(release: Path, contents: Path, published: str | None = None) -> tuple[str, ...]:
    """Return one sentence for each difference of ``release`` and the contents it mounts from its MANIFEST.

    Each begins with the path, below the release or ``content/<digest>``. ``published`` is the text of MANIFEST, where
    it is known from elsewhere.
    """
    manifest = read_manifest(release)
    if published is not None and (manifest is None or manifest_text(release) != published):
        manifest = manifest_of_text(published)
        return (f"{MANIFEST} was changed", *(() if manifest is None else _differences(release, contents, manifest)))
    if manifest is None:
        return (f"{MANIFEST} is missing or can't be read",)
    return _differences(release, contents, manifest)


def _differences(release: Path, contents: Path, manifest: Manifest) -> tuple[str, ...]:
    then = {entry.path: (entry.mode, entry.sha256) for entry in manifest.files}
    try:
        now = {entry.path: (entry.mode, entry.sha256) for entry in scan(release) if entry.path != MANIFEST}
    except Unusable as error:
        return (error.message,)
    found = [f"{path} is missing" for path in then.keys() - now.keys()]
    found += [f"{path} was added" for path in now.keys() - then.keys()]
    found += [f"{path} was changed" for path in then.keys() & now.keys() if then[path] != now[path]]
    for digest in manifest.contents:
        there = content_digest(contents / digest)
        if there != digest:
            found.append(f"content/{digest} {'is missing' if there is None else 'was changed'}")
    return tuple(sorted(found))


def glance(release: Path, contents: Path) -> str:
    """Return a digest over names, sizes, times and inodes of ``release`` and its contents: no file is read."""
    manifest = read_manifest(release)
    roots = [release, *(contents / digest for digest in (manifest.contents if manifest is not None else ()))]
    seen = sha256()
    for root in roots:
        for line in sorted(_glances(root)):
            seen.update(line)
    return seen.hexdigest()


def _glances(root: Path) -> Iterator[bytes]:
    """Yield a line for each thing at or below ``root``."""
    yield _glance_at(os.fsencode(root))
    for at, folders, files in os.walk(os.fsencode(root)):
        for name in (*folders, *files):
            yield _glance_at(at + b"/" + name)


def _glance_at(path: bytes) -> bytes:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return path
    kept = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return path + b"\0" + repr(kept).encode()


def held_locks(folder: Path) -> frozenset[str]:
    """Return the names of the folders below ``folder`` in which there is something called ``lock``."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - before every decision while a commit waits
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    return frozenset(name for name in names if os.path.lexists(f"{folder}/{name}/{_LOCK}"))


def _entries(folder: Path) -> Iterator[FileEntry]:
    waiting, above = [str(folder)], len(f"{folder}/")
    while waiting:
        at = waiting.pop()
        try:
            with os.scandir(at) as found:
                entries = list(found)
        except (FileNotFoundError, NotADirectoryError):
            continue  # nothing is below it
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                yield entry_of(Path(entry.path), entry.path[above:])


def entry_of(path: Path, relative: str) -> FileEntry:
    """Return what is at ``path``, as ``relative``.

    Raises:
        Unusable: ``bad-file-name``, ``bad-file-type``.
    """
    if _UNPRINTABLE.search(relative):
        shown = relative.encode("utf-8", "backslashreplace").decode()
        msg = f"{shown!r}: a file name must be UTF-8 without control characters"
        raise Unusable(msg, reason="bad-file-name")
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = str(path.readlink())
        digest = sha256(target.encode("utf-8", "surrogateescape")).hexdigest()
        return FileEntry(path=relative, mode=LINK, sha256=digest, bytes=len(target), target=target)
    if not stat.S_ISREG(status.st_mode):
        msg = f"{relative} is neither a file, a directory nor a link"
        raise Unusable(msg, reason="bad-file-type")
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    mode = EXECUTABLE if status.st_mode & stat.S_IXUSR else PLAIN
    return FileEntry(path=relative, mode=mode, sha256=digest, bytes=status.st_size)


def manifest_of(files: Sequence[FileEntry], written: dict[str, bytes], contents: Sequence[str]) -> Manifest:
    """Return the MANIFEST of the exported ``files`` and of what the agent has ``written`` beside them."""
    exported = [
        FileEntry(path=f"files/{entry.path}", mode=entry.mode, sha256=entry.sha256, bytes=entry.bytes)
        for entry in files
    ]
    ours = [
        FileEntry(path=name, mode=PLAIN, sha256=sha256(data).hexdigest(), bytes=len(data))
        for name, data in written.items()
    ]
    return Manifest(files=(*exported, *ours), contents=tuple(contents))
