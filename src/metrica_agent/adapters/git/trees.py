"""Files out of a commit: plain files, folders and tame links alone, and nothing outside the target."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dulwich.errors import FileFormatException
from dulwich.objects import S_ISGITLINK, Blob, Commit, ObjectID, Tree, TreeEntry, parse_tree
from msgspec.structs import replace

from metrica_agent.adapters.git import names, orders
from metrica_agent.adapters.git.leftovers import locked, remove
from metrica_agent.adapters.git.store import (
    GARBAGE,
    MirrorBrokenError,
    Store,
    name_of,
    opened,
)
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import short

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from metrica_agent.decisions.references import Reference
    from metrica_fleet.identity import CommitId

_PLAIN_MODES: Final = {0o100644: 0o644, 0o100755: 0o755}
_FOLDER_MODE: Final = 0o755
_LONGEST_LINK_BYTES: Final = 1024
_LARGEST_FOLDER: Final = 100_000
_NAME_BYTES: Final = 20


class _Entry(NamedTuple):
    path: str
    mode: int
    content: ObjectID


def read(order: orders.Read) -> dict[str, bytes]:
    """Return the content of those of the order's paths that exist.

    Raises:
        NotNow, Unusable: See ``GitMirror.read``.
    """
    with _reading(order) as reader:
        found = {path: reader.content_of(path) for path in order.paths}
    return {path: content for path, content in found.items() if content is not None}


def export(order: orders.Export, named_in: Callable[[Path], tuple[Reference, ...]]) -> orders.Exported:
    """Look at the whole folder first, then write it; answer with what ``named_in`` finds in what was written.

    Raises:
        NotNow, Unusable: See ``GitMirror.export``.
    """
    into = Path(order.into)
    with _reading(order) as reader:
        entries = reader.entries_below(order.folder)
        _make(into)
        try:
            written = reader.written(entries, into)
            return replace(written, references=named_in(into))
        except OSError as error:
            shutil.rmtree(into, ignore_errors=True)
            raise NotNow(f"{into} can't be written: {error}; is there room?", reason="disk-full") from error
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise


def _make(into: Path) -> None:
    try:
        into.mkdir(mode=_FOLDER_MODE)
        into.chmod(_FOLDER_MODE)
    except OSError as error:
        raise NotNow(f"{into} can't be made: {error}", reason="target-unusable") from error


@contextmanager
def _reading(order: orders.Read | orders.Export) -> Generator[Reader]:
    """Open the mirror for the order's commit. One that turns out to be damaged is removed, to be made anew."""
    mirror = Path(order.mirror)
    try:
        with locked(mirror), opened(mirror) as store:
            yield Reader(store, order.commit, order.bounds)
    except FileFormatException as error:
        raise Unusable(f"an object of {short(order.commit)} is malformed: {error}", reason="tree-broken") from error
    except MemoryError:
        raise _too_large(order.commit, "more than the memory that may be used") from None
    except (MirrorBrokenError, *GARBAGE) as error:
        remove(mirror)
        raise NotNow(
            f"{short(order.commit)} is not whole in the mirror ({error}); it is fetched again",
            reason="commit-missing",
        ) from error


class Reader:
    """One commit of an open mirror. What it gives out was hashed again on the way.

    Attributes:
        raw: The commit's own bytes.
    """

    def __init__(self, store: Store, commit: CommitId, bounds: orders.Bounds) -> None:
        if not store.holds(commit):
            raise NotNow(f"{short(commit)} is not in the mirror; it is to be fetched again", reason="commit-missing")
        self._store, self._commit, self._bounds = store, commit, bounds
        self.raw = self._raw(name_of(commit), Commit.type_num)
        self._root = Commit.from_string(self.raw).tree

    def content_of(self, path: str) -> bytes | None:
        """Return the content of the file at ``path``, or ``None``."""
        entry = self.entry_of(path)
        if entry is None:
            return None
        if entry.mode not in _PLAIN_MODES:
            raise Unusable(f"{path} is not a plain file in {short(self._commit)}", reason="not-a-file")
        content = self._raw(entry.sha, Blob.type_num)
        if len(content) > self._bounds.blob_bytes:
            raise _too_large(
                self._commit, f"{path} has {len(content)} bytes, at most {self._bounds.blob_bytes} are read"
            )
        return content

    def entries_below(self, folder: str) -> list[_Entry]:
        """Return everything below ``folder``, folders before what is in them, names and links checked."""
        top = self.entry_of(folder)
        if top is None or not stat.S_ISDIR(top.mode):
            raise Unusable(f"{short(self._commit)} has no folder {folder}", reason="folder-missing")
        entries: list[_Entry] = []
        waiting = [("", top.sha)]
        while waiting:
            path, tree = waiting.pop()
            for entry in self._entries_in(path, tree):
                entries.append(entry)
                if len(entries) > self._bounds.export_files:
                    most = self._bounds.export_files
                    raise Unusable(
                        f"{folder} of {short(self._commit)} holds more than {most} files",
                        reason="too-many-files",
                    )
                if stat.S_ISDIR(entry.mode):
                    waiting.append((entry.path, entry.content))
        names.check_links({entry.path: self._target(entry) for entry in entries if stat.S_ISLNK(entry.mode)})
        return entries

    def written(self, entries: Sequence[_Entry], into: Path) -> orders.Exported:
        """Write ``entries`` below the empty folder ``into``; links last, so that none is written through."""
        left = self._bounds.export_bytes
        for entry in entries:
            if stat.S_ISDIR(entry.mode):
                (into / entry.path).mkdir(mode=_FOLDER_MODE)
                (into / entry.path).chmod(_FOLDER_MODE)
        for entry in entries:
            if stat.S_ISREG(entry.mode):
                content = self._raw(entry.content, Blob.type_num)
                left -= len(content)
                if left < 0:
                    raise _too_large(self._commit, f"more than {self._bounds.export_bytes} bytes of files")
                _write(into / entry.path, content, _PLAIN_MODES[entry.mode])
        for entry in entries:
            if stat.S_ISLNK(entry.mode):
                (into / entry.path).symlink_to(self._target(entry))
        files = sum(not stat.S_ISDIR(entry.mode) for entry in entries)
        return orders.Exported(files=files, total_bytes=self._bounds.export_bytes - left)

    def entry_of(self, path: str) -> TreeEntry | None:
        """Return the entry at ``path``; links are not followed."""
        found = TreeEntry(b"", stat.S_IFDIR, self._root)
        for part in path.encode().split(b"/"):
            if not stat.S_ISDIR(found.mode):
                return None
            below = [entry for entry in self._tree(found.sha) if entry.path == part]
            if len(below) > 1:
                raise Unusable(f"{path} is there twice in {short(self._commit)}", reason="tree-broken")
            if not below:
                return None
            [found] = below
        return found

    def _entries_in(self, folder: str, tree: ObjectID) -> Iterator[_Entry]:
        if folder.count("/") + 1 > self._bounds.export_depth:
            raise Unusable(f"{folder} lies deeper than {self._bounds.export_depth} folders", reason="too-deep")
        taken: dict[str, str] = {}
        for entry in self._tree(tree):
            name = names.checked_name(entry.path, folder)
            path = f"{folder}/{name}" if folder else name
            rival = taken.get(names.folded(name))
            if rival is not None:
                raise Unusable(f"{rival} and {path} differ at most in case; rename one", reason="case-collision")
            taken[names.folded(name)] = path
            _check_mode(entry.mode, path)
            yield _Entry(path, entry.mode, entry.sha)

    def _target(self, link: _Entry) -> str:
        raw = self._raw(link.content, Blob.type_num)
        if len(raw) > _LONGEST_LINK_BYTES:
            raise Unusable(f"the link {link.path} is longer than {_LONGEST_LINK_BYTES} bytes", reason="symlink-escapes")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Unusable(f"the target of the link {link.path} is not UTF-8", reason="name-not-utf8") from None

    def _tree(self, name: ObjectID) -> list[TreeEntry]:
        """Return a folder's entries as they stand there: dulwich's own ``Tree`` would hide a name that comes twice."""
        entries: list[TreeEntry] = []
        raw = self._raw(name, Tree.type_num)
        try:
            for path, mode, content in parse_tree(raw, _NAME_BYTES):
                entries.append(TreeEntry(path, mode, ObjectID(content)))
                if len(entries) > _LARGEST_FOLDER:
                    raise Unusable(f"a folder of {short(self._commit)} is too large", reason="too-many-files")
        except (ValueError, FileFormatException) as error:
            raise Unusable(f"a folder of {short(self._commit)} is malformed: {error}", reason="tree-broken") from error
        return entries

    def _raw(self, name: ObjectID, kind: int) -> bytes:
        """Return an object's bytes, having made sure that they are what the name says."""
        found, raw = self._store.objects.get_raw(name)
        header = f"{_KINDS[kind]} {len(raw)}\0".encode()
        if found != kind or hashlib.sha1(header + raw, usedforsecurity=False).hexdigest() != name.decode():
            raise MirrorBrokenError(f"{name.decode()} is not what it should be")
        return raw


_KINDS: Final = {Commit.type_num: "commit", Tree.type_num: "tree", Blob.type_num: "blob"}


def _check_mode(mode: int, path: str) -> None:
    if S_ISGITLINK(mode):
        raise Unusable(f"{path} is a submodule; put its files into the repository", reason="submodule")
    if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or mode in _PLAIN_MODES):
        raise Unusable(
            f"{path} has mode {mode:06o}; only plain files, folders and links are deployed",
            reason="mode-unsupported",
        )


def _write(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123 a descriptor, opened so as to follow no link
        file.write(content)
        os.fchmod(file.fileno(), mode)


def _too_large(commit: CommitId, what: str) -> Unusable:
    return Unusable(f"{short(commit)} is too large: {what}", reason="too-large")
