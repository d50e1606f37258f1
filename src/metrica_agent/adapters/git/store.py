"""The mirror on disk: who may touch it, what an interrupted fetch left, what it holds, what comes before what.

History is read from the commits themselves, never from the ``shallow`` file: a commit whose parents are not here *is*
the boundary. So no crash between a pack and that file can make the mirror claim what it does not have.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Final, NamedTuple

from dulwich.errors import (
    ApplyDeltaError,
    ChecksumMismatch,
    FileFormatException,
    NotGitRepository,
    WrongObjectException,
)
from dulwich.file import FileLocked
from dulwich.object_store import DiskObjectStore, ObjectStoreGraphWalker
from dulwich.objects import S_ISGITLINK, Commit, ObjectID, Tree, TreeEntry, parse_tree
from dulwich.pack import UnresolvedDeltas
from dulwich.refs import Ref
from dulwich.repo import Repo

from metrica_agent.adapters.git import ls_refs, troubles
from metrica_agent.adapters.git.leftovers import beside, remove

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from metrica_agent.adapters.git.remote import Remote
    from metrica_fleet.identity import CommitId

GARBAGE: Final = (
    ApplyDeltaError,
    AssertionError,
    ChecksumMismatch,
    EOFError,
    FileFormatException,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    UnresolvedDeltas,
    ValueError,
    WrongObjectException,
    struct.error,
    zlib.error,
)
"""All that dulwich raises over objects and packs that are not what they should be."""
_MOST_OBJECTS_OF_A_COMMIT: Final = 500_000
_LARGEST_FOLDER_BYTES: Final = 16 * 1024 * 1024
_NAME_BYTES: Final = 20


class MirrorBrokenError(Exception):
    """What is on the disk is no good; it can be had again."""


class IncompleteError(Exception):
    """A commit is here, something that it needs is not."""


class Lineage(NamedTuple):
    """The part of a commit's history that is here."""

    known: frozenset[ObjectID]
    """Itself and its ancestors, those named included whose own commit is not here."""
    boundary: frozenset[ObjectID]
    """Commits that are here while a parent is not."""


class Store:
    """An open mirror."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self.objects: DiskObjectStore = repo.object_store

    def holds(self, commit: CommitId) -> bool:
        """Whether ``commit`` itself is here."""
        return name_of(commit) in self.objects

    def lineage(self, commit: CommitId) -> Lineage:
        """Return what is known of the history of ``commit``, which must be here."""
        known = {name_of(commit)}
        boundary: set[ObjectID] = set()
        waiting = deque(known)
        while waiting:
            name = waiting.popleft()
            found = self.objects[name]
            if not isinstance(found, Commit):
                raise IncompleteError(f"{name.decode()} is no commit")
            for parent in found.parents:
                if parent not in self.objects:
                    boundary.add(name)
                elif parent not in known:
                    waiting.append(parent)
                known.add(parent)
        return Lineage(frozenset(known), frozenset(boundary))

    def walker(self, have: CommitId | None) -> ObjectStoreGraphWalker:
        """Return what tells a server that the history of ``have`` is here, as far as it is."""
        if have is None:
            return ObjectStoreGraphWalker([], lambda _: [])
        boundary = self.lineage(have).boundary

        def parents(name: ObjectID) -> list[ObjectID]:
            found = self.objects[name]
            return list(found.parents) if isinstance(found, Commit) and name not in boundary else []

        return ObjectStoreGraphWalker([name_of(have)], parents, shallow=set(boundary))

    def check_complete(self, commit: CommitId) -> None:
        """Make sure that every tree and blob of ``commit`` is here: a server may leave some out.

        Raises:
            IncompleteError: Something is missing, or there is more than a fleet repository can hold.
        """
        found = self.objects[name_of(commit)]
        if not isinstance(found, Commit):
            raise IncompleteError(f"{commit} is no commit")
        seen = {found.tree}
        waiting = deque(seen)
        while waiting:
            for entry in self._entries(waiting.popleft()):
                if S_ISGITLINK(entry.mode) or entry.sha in seen:
                    continue
                seen.add(entry.sha)
                if len(seen) > _MOST_OBJECTS_OF_A_COMMIT:
                    raise IncompleteError(f"{commit} has more than {_MOST_OBJECTS_OF_A_COMMIT} files")
                if S_ISDIR(entry.mode):
                    waiting.append(entry.sha)
                elif entry.sha not in self.objects:
                    raise IncompleteError(f"a file of {commit} is missing")

    def _entries(self, tree: ObjectID) -> Iterator[TreeEntry]:
        try:
            kind, raw = self.objects.get_raw(tree)
        except KeyError:
            kind, raw = -1, b""
        if kind != Tree.type_num:
            raise IncompleteError(f"a folder, {tree.decode()}, is missing")
        if len(raw) > _LARGEST_FOLDER_BYTES:
            raise IncompleteError(f"a folder, {tree.decode()}, has {len(raw)} bytes of names")
        return (TreeEntry(path, mode, ObjectID(name)) for path, mode, name in parse_tree(raw, _NAME_BYTES))

    def packs(self) -> frozenset[str]:
        """Return the names of the packs, without suffix."""
        return frozenset(path.stem for path in self._pack_folder.glob("*.idx"))

    def drop(self, packs: frozenset[str]) -> None:
        """Remove packs; the index first, without which the rest is a leftover."""
        for suffix in (".idx", ".pack"):
            for name in packs:
                (self._pack_folder / name).with_suffix(suffix).unlink(missing_ok=True)
        self.objects.close()

    def outgrown(self, *, most_bytes: int, most_packs: int) -> bool:
        """Whether the mirror should be made anew."""
        sizes = [path.stat().st_size for path in self._pack_folder.glob("*.pack")]
        return len(sizes) > most_packs or sum(sizes) > most_bytes

    def point(self, branch: str, commit: CommitId) -> None:
        """Let ``git log`` in the mirror show what is followed; nothing here reads it."""
        self.repo.refs[Ref(f"refs/heads/{branch}".encode())] = name_of(commit)
        boundary = self.lineage(commit).boundary
        stale = set(self.repo.get_shallow()) - boundary
        self.repo.update_shallow(set(boundary), stale)

    @property
    def _pack_folder(self) -> Path:
        return Path(os.fsdecode(self.objects.pack_dir))


def name_of(commit: CommitId) -> ObjectID:
    """Return a commit's name as dulwich has it."""
    return ObjectID(commit.encode())


@contextmanager
def opened(path: Path) -> Generator[Store]:
    """Open the mirror.

    Raises:
        MirrorBrokenError: There is none, or nothing that could be read as one.
    """
    if not ((path / "HEAD").is_file() and (path / "objects" / "pack").is_dir()):
        raise MirrorBrokenError("there is no mirror")
    try:
        repo = Repo(str(path))
    except (NotGitRepository, OSError, *GARBAGE) as error:
        raise MirrorBrokenError(str(error)) from error
    try:
        yield Store(repo)
    finally:
        with suppress(BufferError):  # an error found in a pack holds on to it: that error is what counts
            repo.close()


@contextmanager
def made(path: Path, branch: str) -> Generator[Store]:
    """Make an empty mirror at ``path``, where nothing may be."""
    repo = Repo.init_bare(str(path), mkdir=True, default_branch=branch.encode())
    with repo:
        config = repo.get_config()
        config.set((b"core",), b"fsyncObjectFiles", value=True)
        config.write_to_path()
    with opened(path) as store:
        yield store


def put_in_place(mirror: Path, new: Path) -> None:
    """Let the mirror be ``new``. A crash in the middle leaves no mirror, which is made again."""
    old = beside(mirror, "old")
    with suppress(FileNotFoundError):
        mirror.rename(old)
    new.rename(mirror)
    remove(old)


def branch_of_folder(remote: Remote, branch: str) -> CommitId | None:
    """Return the commit of ``branch`` in the repository that ``remote`` names.

    Raises:
        NotNow: ``git-refused``, when there is no repository.
    """
    try:
        with Repo(remote.path) as repo:
            found = repo.refs[Ref(f"refs/heads/{branch}".encode())]
    except KeyError:
        return None
    except (NotGitRepository, FileLocked, OSError, ValueError) as error:
        raise troubles.refused(remote, f"there is no readable repository in this folder ({error})") from error
    return ls_refs.branch_in([found + f" refs/heads/{branch}".encode()], branch)
