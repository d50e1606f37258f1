"""Commits to a bare repository, written directly: a push that costs milliseconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dulwich.object_store import tree_lookup_path
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from metrica_fleet.identity import CommitId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_BRANCH: Final = Ref(b"refs/heads/main")
_WHO: Final = b"An Operator <operator@example.invalid>"


class Lost:
    """A loose object that is not in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.rename(self._elsewhere)

    @property
    def _elsewhere(self) -> Path:
        return self._path.with_name("gone")

    def give_back(self) -> None:
        """Put it into its place again."""
        self._elsewhere.rename(self._path)


class Commits:
    """The fleet repository, as its operators push to it."""

    def __init__(self, path: Path, *, sign: Callable[[bytes], bytes] | None = None) -> None:
        """Go on with the repository at ``path``, or begin it; ``sign`` returns the signature of a commit."""
        self.path = path
        self._sign = sign
        self._repo = Repo(str(path)) if path.exists() else Repo.init_bare(str(path), mkdir=True, default_branch=b"main")
        self._tip: ObjectID | None = self._repo.refs.as_dict().get(_BRANCH)
        self._known: set[ObjectID] = set()

    def push(self, files: Mapping[str, str]) -> CommitId:
        """Make ``files`` (path -> text) all there is, as the newest commit; return its id."""
        return self.publish(self.commit(files))

    def publish(self, commit: CommitId) -> CommitId:
        """Let the branch be ``commit``; return it."""
        self._repo.refs[_BRANCH] = self._tip = ObjectID(commit.encode())
        return commit

    def lose(self, path: str) -> Lost:
        """Let the file ``path`` of the newest commit be gone: refs are told as ever, and no pack with it is given."""
        assert self._tip is not None
        tip = self._repo[self._tip]
        assert isinstance(tip, Commit)
        _, name = tree_lookup_path(self._repo.__getitem__, tip.tree, path.encode())
        text = name.decode()
        return Lost(self.path / "objects" / text[:2] / text[2:])

    def commit(self, files: Mapping[str, str]) -> CommitId:
        """Make ``files`` a commit that follows the newest, without the branch."""
        commit = Commit()
        commit.tree = self._tree({path: text.encode() for path, text in files.items()})
        commit.parents = [] if self._tip is None else [self._tip]
        commit.author = commit.committer = _WHO
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = b"a change"
        if self._sign is not None:
            commit.gpgsig = self._sign(commit.as_raw_string()).rstrip(b"\n")
        self._add(commit)
        return CommitId(commit.id.decode())

    def _tree(self, files: Mapping[str, bytes]) -> ObjectID:
        tree, folders = Tree(), dict[str, dict[str, bytes]]()
        for path, content in files.items():
            name, _, rest = path.partition("/")
            if rest:
                folders.setdefault(name, {})[rest] = content
            else:
                blob = Blob.from_string(content)
                self._add(blob)
                tree.add(name.encode(), 0o100644, blob.id)
        for name, inner in folders.items():
            tree.add(name.encode(), 0o040000, self._tree(inner))
        self._add(tree)
        return tree.id

    def _add(self, thing: Blob | Tree | Commit) -> None:
        if thing.id not in self._known:
            self._repo.object_store.add_object(thing)
            self._known.add(thing.id)
