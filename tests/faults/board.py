"""The harness's side of the shim (shim/durable.c): what it counts, when it kills, what finds no room, its journal.

    board = Board(folder, root=agent.state)
    agent.environment |= board.environment
    board.arm(17)                 # the agent that runs, or starts next, dies at the 17th operation from now
    …
    assert board.killed
    board.fill(17, stays=True)    # from the 17th operation on that needs room there is none
    …
    board.free()

The C structures are read and written in place here; ``test_shim.py`` holds the two layouts together.
"""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(__file__).parent / "shim" / "durable.c"
_BOARD_BYTES: Final = 4312
_COUNT, _KILL_AT, _KILLED, _BYTES, _DONE, _SYNC_NS, _AGENT, _MODE = 0, 8, 16, 24, 32, 152, 160, 164
_KILLED_KIND, _KILLED_PATH, _ROOT, _JOURNAL, _TEXT_BYTES = 172, 176, 1200, 2224, 1024
_NEEDING, _FULL_FROM, _FULL_UNTIL, _REFUSED, _REFUSED_KIND, _REFUSED_PATH = 3248, 3256, 3264, 3272, 3280, 3284
_NEVER: Final = 2**63 - 1
_ENTRY: Final = struct.Struct("<IIQQQIHH")


class Kind(IntEnum):
    """What an operation does."""

    CREATE = 0
    TRUNCATE = 1
    WRITE = 2
    FSYNC = 3
    RENAME = 4
    LINK = 5
    SYMLINK = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    CHMOD = 10


class Mode(IntFlag):
    """What the shim does besides counting."""

    COUNT = 0
    KILL = 1
    TORN = 2
    JOURNAL = 4
    NO_SYNC = 8
    FULL = 16


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of the journal."""

    kind: Kind
    inode: int
    path: str
    other: str
    """The new name of a rename or link; where a symbolic link leads."""
    offset: int
    """Of a write; the new size of a truncation."""
    mode: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was done so far."""

    operations: int
    syncs: int
    sync_s: float
    """How long they took, over all threads and processes."""
    written_bytes: int

    def __sub__(self, before: Counts) -> Counts:
        return Counts(
            self.operations - before.operations,
            self.syncs - before.syncs,
            self.sync_s - before.sync_s,
            self.written_bytes - before.written_bytes,
        )


class Board:
    """One agent's shim."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Watch what is done below ``root``; board, journal and a copy of the library are in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = folder / "journal"
        self._library = folder / "durable.so"
        self._root = root.resolve()
        shutil.copyfile(library(), self._library)
        path = folder / "board"
        path.write_bytes(bytes(_BOARD_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _BOARD_BYTES)
        self._text(_ROOT, str(self._root))
        self._text(_JOURNAL, str(self.journal))

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process use the shim."""
        return {"LD_PRELOAD": str(self._library)}

    # --- before a life ---

    def born(self, mode: Mode = Mode.COUNT) -> None:
        """Forget the process that was killed: the next that starts is the agent."""
        self._put("<q", _KILL_AT, 0)
        self._put("<q", _KILLED, 0)
        self._put("<I", _MODE, mode)
        self._put("<i", _AGENT, 0)

    def arm(self, operations: int, *, torn: bool = False) -> None:
        """Have the agent killed when it is about to do the n-th operation from now (half of it, if a torn write)."""
        self._put("<q", _KILL_AT, self.count + operations)
        self._put("<I", _MODE, Mode.KILL | (Mode.TORN if torn else Mode.COUNT))

    def syncs(self, *, really: bool) -> None:
        """Let fsync and fdatasync do what they say, or nothing."""
        self._put("<I", _MODE, Mode.COUNT if really else Mode.NO_SYNC)

    def disarm(self) -> bool:
        """Kill no more; return whether it was done already."""
        self._put("<I", _MODE, Mode.COUNT)
        return self.killed

    def fill(self, operation: int, *, stays: bool = False) -> None:
        """Let the n-th operation from now that needs room find none; with ``stays`` those after it, until ``free``."""
        number = self.needing + operation
        self._put("<Q", _REFUSED, 0)
        self._put("<Q", _FULL_FROM, number)
        self._put("<Q", _FULL_UNTIL, _NEVER if stays else number + 1)
        self._put("<I", _MODE, Mode.FULL)

    def free(self) -> None:
        """Let there be room again; operations that need some are counted on."""
        self._put("<Q", _FULL_FROM, _NEVER)

    # --- what happened ---

    @property
    def needing(self) -> int:
        """How many operations needed room."""
        return self._get("<Q", _NEEDING)

    @property
    def refused(self) -> int:
        """How many of them found none since ``fill``."""
        return self._get("<Q", _REFUSED)

    @property
    def refused_at(self) -> str:
        """What the first of those was, for people."""
        return self._in_words(_REFUSED_KIND, _REFUSED_PATH)

    @property
    def count(self) -> int:
        """How many operations there were."""
        return self._get("<Q", _COUNT)

    @property
    def killed(self) -> bool:
        """Whether the agent was killed."""
        return self._get("<Q", _KILLED) > 0

    @property
    def killed_at(self) -> str:
        """What it was killed at, for people."""
        return self._in_words(_KILLED_KIND, _KILLED_PATH)

    def _in_words(self, kind_at: int, path_at: int) -> str:
        path = os.fsdecode(self._map[path_at : self._map.find(b"\0", path_at)])
        kind = Kind(self._get("<I", kind_at)).name.lower()
        return f"{kind} {path.removeprefix(f'{self._root}/')}"

    def counts(self) -> Counts:
        """Return what was done since the board was made."""
        syncs = self._get("<Q", _DONE + 8 * Kind.FSYNC)
        return Counts(self.count, syncs, self._get("<Q", _SYNC_NS) / 1e9, self._get("<Q", _BYTES))

    def operations(self) -> Iterator[Operation]:
        """Yield the journal, in order; paths are relative to the root."""
        raw = memoryview(self.journal.read_bytes()) if self.journal.exists() else memoryview(b"")
        at = 0
        while at < len(raw):
            kind, _, inode, offset, size, mode, path_bytes, other_bytes = _ENTRY.unpack_from(raw, at)
            at += _ENTRY.size
            path = os.fsdecode(bytes(raw[at : at + path_bytes]))
            at += path_bytes
            other = os.fsdecode(bytes(raw[at : at + other_bytes]))
            at += other_bytes
            data = b""
            if kind == Kind.WRITE:
                data = bytes(raw[at : at + size])
                at += size
            if kind != Kind.SYMLINK:
                other = self._relative(other)
            yield Operation(Kind(kind), inode, self._relative(path), other, offset, mode, data)

    def _relative(self, path: str) -> str:
        root = str(self._root)
        return "" if path == root else path.removeprefix(f"{root}/")

    # --- the map ---

    def _get(self, form: str, at: int) -> int:
        (found,) = struct.unpack_from(form, self._map, at)
        return found

    def _put(self, form: str, at: int, value: int) -> None:
        struct.pack_into(form, self._map, at, value)

    def _text(self, at: int, text: str) -> None:
        raw = os.fsencode(text)
        assert len(raw) < _TEXT_BYTES
        self._map[at : at + len(raw) + 1] = raw + b"\0"


@functools.cache
def library() -> Path:
    """Compile the shim, once a run; return where it is."""
    target = Path(tempfile.mkdtemp(prefix="shim-", dir=os.environ.get("METRICA_TEST_DIR"))) / "durable.so"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(target), str(SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise AssertionError("gcc is not installed; ./scripts/test installs it") from None
    assert done.returncode == 0, done.stderr
    return target
