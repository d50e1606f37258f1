"""What a disk may hold after the power was cut: the journal of a run, replayed up to any operation.

POSIX promises only what was synced. What was not may be there or not:

- the data of a file since its last fsync: all, none, the first of its writes, half of one, or zeros of the right length
- the names in a directory since its last fsync (created, renamed, linked, removed): the first of them, any number.
  A rename is one thing: it is there in both of its directories, or in neither.

A directory's fsync keeps the names in it, a file's only the file. That is stricter than ext4, which keeps names in one
order over all directories; those states are among the ones made here. Files below ``world/`` are no disk: they are
what others have seen, and is never lost.

    disk = Disk.read(folder)                      # before the run; all of it is durable
    for operation in board.operations():
        disk.apply(operation)
        for state in states(disk, chance): state.write(elsewhere)
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.faults.board import Kind

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.faults.board import Operation

WORLD: Final = "world/"
ROOT: Final = 0


@dataclass(slots=True)
class File:
    """A file: what is surely on the disk, and what was written since."""

    content: bytes = b""
    mode: int = 0o600
    durable_mode: int = 0o600
    pending: list[Operation] = field(default_factory=list["Operation"])

    def now(self) -> bytes:
        """Return what a reader sees."""
        return written(self.content, self.pending)


@dataclass(slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(slots=True)
class Folder:
    """A directory: the names surely on the disk, and those that a reader sees."""

    durable: dict[str, int] = field(default_factory=dict[str, int])
    now: dict[str, int] = field(default_factory=dict[str, int])
    mode: int = 0o700
    durable_mode: int = 0o700


@dataclass(slots=True, eq=False)
class Naming:
    """A change of names that is not surely on the disk yet: the names that go, then those that come."""

    gone: tuple[tuple[int, str], ...]
    come: tuple[tuple[int, str, int], ...]

    @property
    def folders(self) -> frozenset[int]:
        """The directories that it changes."""
        return frozenset({folder for folder, _ in self.gone} | {folder for folder, _, _ in self.come})


Node = File | Link | Folder


@dataclass(frozen=True)
class State:
    """One thing that may be on the disk: path -> (mode, content), a link's target as text, ``None`` for a directory."""

    how: str
    entries: Mapping[str, tuple[int, bytes | str | None]]
    same: Mapping[str, tuple[str, ...]]
    """First path of a file -> its other names."""

    def only(self, *beginnings: str) -> State:
        """Return it with those paths only that begin so, and the directories above them."""
        above = {one[:place] for one in beginnings for place in range(len(one)) if one[place] == "/"}
        entries = {path: entry for path, entry in self.entries.items() if path in above or path.startswith(beginnings)}
        return State(self.how, entries, {first: others for first, others in self.same.items() if first in entries})

    def key(self) -> int:
        """Return the same for what is the same, within one process."""
        return hash(frozenset(self.entries.items()))

    def write(self, folder: Path) -> None:
        """Make it so in ``folder``, which is empty."""
        folders: list[tuple[str, int]] = []
        for path, (mode, content) in sorted(self.entries.items()):
            whole = f"{folder}/{path}"
            if content is None:
                os.mkdir(whole, 0o700)  # noqa: PTH102 - thousands of times
                folders.append((whole, mode))
            elif isinstance(content, str):
                os.symlink(content, whole)  # noqa: PTH211
            elif path in self.same:
                with open(whole, "wb") as file:  # noqa: PTH123
                    file.write(content)
                os.chmod(whole, mode)  # noqa: PTH101
        for first, others in self.same.items():
            for other in others:
                os.link(f"{folder}/{first}", f"{folder}/{other}")
        for whole, mode in reversed(folders):
            os.chmod(whole, mode)  # noqa: PTH101


class Disk:
    """A folder and all in it, as the journal says."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {ROOT: Folder()}
        self.pending: list[Naming] = []
        self._inodes: dict[int, int] = {}
        self._made = ROOT

    @classmethod
    def read(cls, folder: Path) -> Disk:
        """Return what is in ``folder`` now, taken for durable."""
        disk = cls()
        disk._read(folder, ROOT)
        return disk

    def _read(self, folder: Path, number: int) -> None:
        here = self.nodes[number]
        assert isinstance(here, Folder)
        for path in sorted(folder.iterdir()):
            status = path.lstat()
            known = self._inodes.get(status.st_ino)
            if known is None:
                known = self._new(status.st_ino, _node(path, status))
                if stat.S_ISDIR(status.st_mode):
                    self._read(path, known)
            here.now[path.name] = here.durable[path.name] = known

    def _new(self, inode: int, node: Node) -> int:
        self._made += 1
        self.nodes[self._made] = node
        self._inodes[inode] = self._made
        return self._made

    # --- the journal ----------------------------------------------------------------------------------------

    def apply(self, operation: Operation) -> None:
        """Do what the operation did."""
        made = {Kind.MKDIR: Folder, Kind.CREATE: lambda: File(mode=operation.mode, durable_mode=operation.mode)}
        match operation.kind:
            case Kind.CREATE | Kind.MKDIR:
                self._name((), ((operation.path, self._new(operation.inode, made[operation.kind]())),))
            case Kind.SYMLINK:
                self._name((), ((operation.path, self._new(operation.inode, Link(operation.other))),))
            case Kind.LINK | Kind.RENAME:
                gone = (operation.path,) if operation.kind is Kind.RENAME else ()
                self._name(gone, ((operation.other, self._at(operation.path)),))
            case Kind.UNLINK | Kind.RMDIR:
                self._name((operation.path,), ())
            case Kind.WRITE | Kind.TRUNCATE:
                self._write(operation)
            case Kind.CHMOD:
                node = self.nodes[self._at(operation.path)]
                if not isinstance(node, Link):
                    node.mode = operation.mode
            case Kind.FSYNC:
                self._sync(self._inodes.get(operation.inode, ROOT))

    def _write(self, operation: Operation) -> None:
        number = self._inodes.get(operation.inode)
        node = self.nodes[number] if number is not None else None
        if isinstance(node, File):  # a file that never had a name is nobody's
            node.pending.append(operation)
            if operation.path.startswith(WORLD):
                self._sync(self._inodes[operation.inode])

    def _name(self, gone: tuple[str, ...], come: tuple[tuple[str, int], ...]) -> None:
        naming = Naming(
            gone=tuple(self._place(path) for path in gone),
            come=tuple((*self._place(path), number) for path, number in come),
        )
        for folder, name in naming.gone:
            self._folder(folder).now.pop(name, None)
        for folder, name, number in naming.come:
            self._folder(folder).now[name] = number
        self.pending.append(naming)
        if any(path.startswith(WORLD) for path, _ in come):
            self._keep(naming)

    def _sync(self, number: int) -> None:
        node = self.nodes[number]
        if isinstance(node, File):
            node.content, node.pending, node.durable_mode = node.now(), [], node.mode
        elif isinstance(node, Folder):
            node.durable_mode = node.mode
            for naming in [one for one in self.pending if number in one.folders]:
                self._keep(naming)

    def _keep(self, naming: Naming) -> None:
        """Make a change of names last; what it took away does not come back by an older change."""
        if naming not in self.pending:
            return
        self.pending.remove(naming)
        _change({folder: self._folder(folder).durable for folder in naming.folders}, naming)
        taken = {*naming.gone, *((folder, name) for folder, name, _ in naming.come)}
        for older in list(self.pending):
            if any((folder, name) in taken for folder, name, _ in older.come) and self._is_older(older, naming):
                self.pending.remove(older)

    @staticmethod
    def _is_older(older: Naming, naming: Naming) -> bool:
        numbers = {number for _, _, number in naming.come}
        return any(number in numbers for _, _, number in older.come)

    # --- finding --------------------------------------------------------------------------------------------

    def _place(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rpartition("/")
        return (self._at(parent) if parent else ROOT), name

    def _at(self, path: str) -> int:
        number = ROOT
        for part in path.split("/"):
            number = self._folder(number).now[part]
        return number

    def _folder(self, number: int) -> Folder:
        found = self.nodes[number]
        assert isinstance(found, Folder)
        return found

    # --- a state --------------------------------------------------------------------------------------------

    def state(self, how: str, names: list[Naming], data: Mapping[int, bytes], *, modes: bool) -> State:
        """Return the disk with these of the pending names, and this data of the files that have pending writes."""
        folders = {number: dict(node.durable) for number, node in self.nodes.items() if isinstance(node, Folder)}
        for naming in names:
            _change(folders, naming)
        entries: dict[str, tuple[int, bytes | str | None]] = {}
        first: dict[int, str] = {}
        same: dict[str, tuple[str, ...]] = {}
        waiting = [(f"{name}", number) for name, number in folders[ROOT].items()]
        while waiting:
            path, number = waiting.pop()
            node = self.nodes[number]
            if isinstance(node, Link):
                entries[path] = (0o777, node.target)
            elif isinstance(node, Folder):
                entries[path] = (node.mode if modes else node.durable_mode, None)
                waiting += [(f"{path}/{name}", inner) for name, inner in folders[number].items()]
            else:
                entries[path] = (node.mode if modes else node.durable_mode, data.get(number, node.content))
                known = first.setdefault(number, path)
                same[known] = (*same.get(known, ()), path) if known != path else same.get(known, ())
        return State(how, entries, same)


def states(disk: Disk, chance: random.Random, drawn: int = 2) -> Iterator[State]:
    """Yield what may be on the disk if the power is cut now: the extremes, and ``drawn`` others."""
    unsynced = {n: node for n, node in disk.nodes.items() if isinstance(node, File) and node.pending}
    everything = {number: node.now() for number, node in unsynced.items()}
    yield disk.state("nothing that was not synced", [], {}, modes=False)
    if not unsynced and not disk.pending:
        return
    yield disk.state("everything", disk.pending, everything, modes=True)
    yield disk.state("all names, no data", disk.pending, {}, modes=True)
    yield disk.state("all data, no names", [], everything, modes=True)
    zeros = {
        number: node.content[: len(now)].ljust(len(now), b"\0")
        for (number, now), node in zip(everything.items(), unsynced.values(), strict=True)
    }
    yield disk.state("all names, zeros for data", disk.pending, zeros, modes=False)
    for number in range(drawn):
        names = _first_of_each(disk, chance) if number % 2 else disk.pending[: chance.randint(0, len(disk.pending))]
        data = {file: _some(node, chance) for file, node in unsynced.items()}
        yield disk.state(f"names and data by chance ({number})", names, data, modes=chance.random() < 0.5)


def _first_of_each(disk: Disk, chance: random.Random) -> list[Naming]:
    """Return the first few changes of each directory; one of two directories needs to be among both's."""
    folders = sorted({folder for naming in disk.pending for folder in naming.folders})
    allowed = {
        folder: chance.randint(0, sum(folder in naming.folders for naming in disk.pending)) for folder in folders
    }
    kept: list[Naming] = []
    for naming in disk.pending:
        if all(allowed[folder] > 0 for folder in naming.folders):
            kept.append(naming)
            for folder in naming.folders:
                allowed[folder] -= 1
        else:
            for folder in naming.folders:
                allowed[folder] = 0
    return kept


def _some(node: File, chance: random.Random) -> bytes:
    """Return the file with the first few of its unsynced writes, the last of them perhaps torn."""
    kept = node.pending[: chance.randint(0, len(node.pending))]
    content = written(node.content, kept)
    if kept and kept[-1].kind is Kind.WRITE and chance.random() < 0.5:
        before = written(node.content, kept[:-1])
        last = kept[-1]
        half = last.data[: chance.randint(0, len(last.data))]
        return _patched(before, last.offset, half)
    return content


def written(content: bytes, operations: list[Operation]) -> bytes:
    """Return ``content`` after ``operations`` on it."""
    for one in operations:
        if one.kind is Kind.WRITE:
            content = _patched(content, one.offset, one.data)
        else:
            content = content[: one.offset].ljust(one.offset, b"\0")
    return content


def _patched(content: bytes, offset: int, data: bytes) -> bytes:
    before = content[:offset].ljust(offset, b"\0") if data else content[:offset]
    return before + data + content[offset + len(data) :]


def _change(folders: Mapping[int, dict[str, int]], naming: Naming) -> None:
    for folder, name in naming.gone:
        folders[folder].pop(name, None)
    for folder, name, number in naming.come:
        folders[folder][name] = number


def _node(path: Path, status: os.stat_result) -> Node:
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return Folder(mode=mode, durable_mode=mode)
    if stat.S_ISLNK(status.st_mode):
        return Link(str(path.readlink()))
    return File(content=path.read_bytes(), mode=mode, durable_mode=mode)
