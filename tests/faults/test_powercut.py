"""The model of a disk keeps what was synced, all of it, and of the rest only what POSIX allows."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.faults.board import Kind, Operation
from tests.faults.powercut import Disk, states

if TYPE_CHECKING:
    from pathlib import Path


CHANCE = random.Random(1)


def made(kind: Kind, path: str, other: str = "", *, inode: int = 7, offset: int = 0, data: bytes = b"") -> Operation:
    return Operation(kind, inode, path, other, offset, 0o644, data)


def after(*operations: Operation) -> list[dict[str, bytes | str | None]]:
    """Return what may be on an empty disk after these."""
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return [{path: content for path, (_, content) in state.entries.items()} for state in states(disk, CHANCE, 20)]


CREATED = made(Kind.CREATE, "a")
WRITTEN = made(Kind.WRITE, "a", data=b"whole")
SYNCED = made(Kind.FSYNC, "a")
ROOT_SYNCED = made(Kind.FSYNC, "", inode=1)


def test_without_a_sync_a_file_may_be_missing_empty_torn_or_whole() -> None:
    found = after(CREATED, WRITTEN)
    assert {} in found
    assert {"a": b""} in found
    assert {"a": b"whole"} in found
    assert {"a": b"\0" * 5} in found
    assert any(0 < len(one.get("a") or b"") < 5 for one in found)


def test_a_synced_file_is_whole_or_has_no_name() -> None:
    assert {frozenset(one.items()) for one in after(CREATED, WRITTEN, SYNCED)} == {
        frozenset(),
        frozenset({("a", b"whole")}),
    }


def test_a_synced_file_in_a_synced_folder_is_there() -> None:
    assert after(CREATED, WRITTEN, SYNCED, ROOT_SYNCED) == [{"a": b"whole"}]


def test_a_rename_that_was_not_synced_is_done_or_not_and_never_half() -> None:
    two = (made(Kind.MKDIR, "x", inode=2), made(Kind.MKDIR, "y", inode=3), ROOT_SYNCED)
    there = (made(Kind.CREATE, "x/a"), made(Kind.FSYNC, "x", inode=2), made(Kind.FSYNC, "x/a"))
    found = after(*two, *there, made(Kind.RENAME, "x/a", "y/a"))
    assert {tuple(sorted(one)) for one in found} == {("x", "x/a", "y"), ("x", "y", "y/a")}
    synced = after(*two, *there, made(Kind.RENAME, "x/a", "y/a"), made(Kind.FSYNC, "y", inode=3))
    assert [sorted(one) for one in synced] == [["x", "y", "y/a"]]


def test_a_name_that_was_moved_away_does_not_come_back() -> None:
    moved = (made(Kind.RENAME, "a", "b"), ROOT_SYNCED)
    assert after(CREATED, SYNCED, *moved) == [{"b": b""}]


def test_a_removed_name_may_still_be_there_until_its_folder_is_synced() -> None:
    found = after(CREATED, SYNCED, ROOT_SYNCED, made(Kind.UNLINK, "a"))
    assert {} in found
    assert {"a": b""} in found


def test_what_the_world_has_seen_is_never_lost() -> None:
    world = (made(Kind.MKDIR, "world", inode=2), made(Kind.CREATE, "world/sent"))
    said = made(Kind.WRITE, "world/sent", data=b"said")
    assert all(one.get("world/sent") == b"said" for one in after(ROOT_SYNCED, *world, ROOT_SYNCED, said))


def test_a_state_is_written_as_it_was_read_names_of_one_file_and_modes_included(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "plain").write_bytes(b"text")
    (source / "folder" / "plain").chmod(0o555)
    (source / "again").hardlink_to(source / "folder" / "plain")
    (source / "link").symlink_to("folder/plain")
    (source / "folder").chmod(0o500)
    copy.mkdir()
    [state] = states(Disk.read(source), CHANCE)
    state.write(copy)
    assert (copy / "link").readlink() == (source / "link").readlink()
    assert (copy / "again").samefile(copy / "folder" / "plain")
    assert (copy / "again").stat().st_mode & 0o777 == 0o555
    assert (copy / "folder").stat().st_mode & 0o777 == 0o500
