"""The shim sees every operation that changes what a disk holds, in order, with its data; fails or kills where told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.faults.board import Board, Kind, Mode

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = """
import os, shutil, sqlite3, sys
from pathlib import Path
root = Path(sys.argv[1])
(root / "a").write_bytes(b"one")                     # create, write
with open(root / "a", "r+b", 0) as file:
    os.pwrite(file.fileno(), b"T", 1)                 # write at 1
    os.ftruncate(file.fileno(), 2)                    # truncate
    os.fsync(file.fileno())                           # fsync
(root / "a").rename(root / "b")                       # rename
(root / "c").hardlink_to(root / "b")                  # link
(root / "d").symlink_to("nowhere")                    # symlink
(root / "e").mkdir()                                  # mkdir
(root / "e").chmod(0o700)                             # chmod
(root / "e").rmdir()                                  # rmdir
(root / "d").unlink()                                 # unlink
shutil.copyfile(root / "b", root / "f")               # create, write
Path(sys.argv[2]).write_text("elsewhere")             # not ours
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def run(board: Board, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, **board.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_every_operation_is_journaled_in_its_order_with_its_data(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    board.born(Mode.JOURNAL)
    done = run(board, EVERYTHING, root, tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    seen = [(one.kind, one.path, one.other, one.offset, one.data) for one in board.operations()]
    assert seen == [
        (Kind.CREATE, "a", "", 0, b""),
        (Kind.WRITE, "a", "", 0, b"one"),
        (Kind.WRITE, "a", "", 1, b"T"),
        (Kind.TRUNCATE, "a", "", 2, b""),
        (Kind.FSYNC, "a", "", 0, b""),
        (Kind.RENAME, "a", "b", 0, b""),
        (Kind.LINK, "b", "c", 0, b""),
        (Kind.SYMLINK, "d", "nowhere", 0, b""),
        (Kind.MKDIR, "e", "", 0, b""),
        (Kind.CHMOD, "e", "", 0, b""),
        (Kind.RMDIR, "e", "", 0, b""),
        (Kind.UNLINK, "d", "", 0, b""),
        (Kind.CREATE, "f", "", 0, b""),
        (Kind.WRITE, "f", "", 0, b"oT"),
    ]
    assert len({one.inode for one in board.operations() if one.path in {"a", "b"}}) == 1


def test_sqlite_is_seen_too(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    board.born(Mode.JOURNAL)
    script = """
import sqlite3, sys
db = sqlite3.connect(f"{sys.argv[1]}/db", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL"); db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE t (x)"); db.execute("INSERT INTO t VALUES (1)")
"""
    done = run(board, script, root)
    assert done.returncode == 0, done.stderr
    log = [one for one in board.operations() if one.path == "db-wal"]
    assert [one.kind for one in log][:2] == [Kind.CREATE, Kind.WRITE]
    assert Kind.FSYNC in {one.kind for one in log}


def test_the_agent_is_killed_before_each_operation_in_turn(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    script = "import sys; from pathlib import Path\nfor n in '123': (Path(sys.argv[1]) / n).mkdir()"
    for number in (1, 2, 3):
        board.born()
        board.arm(1)
        done = run(board, script.replace("mkdir()", "mkdir(exist_ok=True)"), root)
        assert done.returncode == -signal.SIGKILL
        assert board.killed_at == "mkdir 1"
        (root / str(number)).mkdir()
    board.born()
    board.arm(4)
    assert run(board, script.replace("mkdir()", "mkdir(exist_ok=True)"), root).returncode == 0
    assert not board.disarm()


def test_a_torn_write_is_half_done(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    board.born()
    board.arm(2, torn=True)
    done = run(board, "import sys; open(f'{sys.argv[1]}/a', 'wb', 0).write(b'12345678')", root)
    assert done.returncode == -signal.SIGKILL
    assert (root / "a").read_bytes() == b"1234"


def test_a_child_is_counted_and_takes_the_agent_with_it(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    board.born()
    board.arm(2)
    child = "import os, sys; os.mkdir(f'{sys.argv[1]}/child'); os.mkdir(f'{sys.argv[1]}/more')"
    script = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {child!r}, sys.argv[1]]); time.sleep(20)"
    )
    assert run(board, script, root).returncode == -signal.SIGKILL
    assert [path.name for path in root.iterdir()] == ["child"]


def test_without_syncs_nothing_else_changes(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    board.born(Mode.NO_SYNC)
    assert run(board, EVERYTHING, root, tmp_path / "elsewhere").returncode == 0
    assert (board.counts().syncs, board.counts().written_bytes) == (1, 6)


NEEDING = (
    *("create a", "write a", "write a", "fsync a", "rename b", "link c"),
    *("symlink d", "mkdir e", "create f", "write f"),
)
"""What needs room in ``EVERYTHING``: not what makes shorter, changes a mode, or removes."""


def test_each_operation_that_needs_room_finds_none_in_turn_and_is_not_done(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    for number, what in enumerate(NEEDING, start=1):
        emptied(root)
        board.born()
        board.fill(number)
        done = run(board, EVERYTHING, root, tmp_path / "elsewhere")
        assert "OSError: [Errno 28] No space left on device" in done.stderr, (what, done.stderr)
        assert (board.refused, board.refused_at) == (1, what)
        kind, _, name = what.partition(" ")
        assert kind in {"write", "fsync"} or not (root / name).exists()
    emptied(root)
    board.fill(len(NEEDING) + 1)
    assert run(board, EVERYTHING, root, tmp_path / "elsewhere").stderr == ""
    assert board.refused == 0


def emptied(folder: Path) -> None:
    """Remove what a script left that was ended in the middle."""
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def test_a_disk_that_stays_full_is_full_until_it_is_freed(tmp_path: Path, root: Path) -> None:
    board = Board(tmp_path / "shim", root)
    board.born()
    board.fill(2, stays=True)
    tries = """
import os, sys
from contextlib import suppress
for n in range(9):
    with suppress(OSError):
        os.mkdir(f"{sys.argv[1]}/{n}")
try:
    os.posix_fallocate(os.open(sys.argv[1] + "/made", os.O_CREAT | os.O_WRONLY), 0, 4096)
except OSError as error:
    print(error.errno)
"""
    assert run(board, tries, root).stdout == "28\n"
    assert [path.name for path in root.iterdir()] == ["0"]
    assert board.refused == 9
    board.free()
    assert run(board, tries, root).stdout == ""
    assert (root / "made").stat().st_size == 4096
