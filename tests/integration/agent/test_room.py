"""What makes room, on a real small filesystem: the reserve, the ledger that gives it up, and what is cleaned."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.small_disk import MIB, SmallDisk
from tests.unit.agent.adapters.ledgers import STAMP

from metrica_agent.adapters.ledger import Ledger
from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.decisions.strain import Need
from metrica_agent.decisions.world import Memory, Saying
from metrica_agent.reserve import INODES, Reserve
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """64 MiB, a thousand files."""
    with SmallDisk(64, inodes=1024) as made:
        yield made


def talk(number: int, size: int = 3000) -> Saying:
    return Saying(kind="drift.repaired", message=f"{number} {'x' * size}")


# --- the reserve -----------------------------------------------------------------------------------------------


def test_the_reserve_is_bytes_and_inodes_and_comes_free_at_once(disk: SmallDisk) -> None:
    reserve = Reserve(disk.path, 32 * MIB)
    size_bytes = reserve.make()
    assert 0 < size_bytes <= 0.02 * 64 * MIB
    assert reserve.there
    disk.fill_inodes()
    disk.fill()
    assert reserve.give_up()
    assert not reserve.there
    assert disk.free_bytes >= size_bytes
    assert disk.free_inodes >= INODES
    assert not reserve.give_up()
    assert reserve.times_used == 1


def test_where_there_is_no_room_there_is_no_half_of_a_reserve(disk: SmallDisk) -> None:
    disk.fill(leave_bytes=MIB // 2)
    reserve = Reserve(disk.path, 32 * MIB)
    assert reserve.make() == 0
    assert not reserve.there
    assert not (disk.path / "reserve.new").exists()
    assert disk.free_bytes >= MIB // 4
    disk.empty()
    assert reserve.make() > 0


def test_what_an_interrupted_making_left_is_no_reserve_and_does_not_hinder(disk: SmallDisk) -> None:
    (disk.path / "reserve.new").mkdir()
    (disk.path / "reserve.new" / "bytes").write_bytes(b"half")
    reserve = Reserve(disk.path, MIB)
    assert not reserve.there
    assert reserve.make() > 0
    assert not (disk.path / "reserve.new").exists()


@pytest.mark.parametrize("lost", ["bytes", "inode-7", "half of its bytes"])
def test_what_a_death_left_of_a_reserve_that_was_given_up_is_made_whole(disk: SmallDisk, lost: str) -> None:
    reserve = Reserve(disk.path, MIB)
    size_bytes = reserve.make()
    assert reserve.whole
    if lost == "half of its bytes":
        os.truncate(disk.path / "reserve" / "bytes", size_bytes // 2)
    else:
        (disk.path / "reserve" / lost).unlink()
    assert (reserve.there, reserve.whole) == (True, False)
    assert reserve.make() == size_bytes
    assert reserve.whole


# --- the ledger ------------------------------------------------------------------------------------------------


async def test_a_ledger_whose_watermark_finds_no_room_closes_and_tells_a_little_again(disk: SmallDisk) -> None:
    ledger = await Ledger.open(disk.path / "agent.sqlite")
    await ledger.linked()
    (seq,) = await ledger.record(STAMP, sayings=[talk(1)])
    await ledger.forget(ledger.stream, seq)
    disk.fill()
    await ledger.close()
    disk.empty()
    again = await Ledger.open(disk.path / "agent.sqlite")
    assert [record.seq for record in await again.unsent(0, 9)] == [seq]
    await again.close()


async def fill_up(ledger: Ledger, said: list[int]) -> None:
    for _ in range(10_000):
        said += await ledger.record(STAMP, sayings=(talk(len(said)),))


async def test_a_ledger_on_a_full_disk_takes_the_reserve_and_loses_nothing(disk: SmallDisk) -> None:
    reserve = Reserve(disk.path, MIB)
    assert reserve.make()
    path = disk.path / "agent.sqlite"
    ledger = await Ledger.open(path, make_room=reserve.give_up)
    disk.fill()
    said: list[int] = []
    while reserve.there:
        said += await ledger.record(STAMP, memory=Memory(role=None), sayings=(talk(len(said)),))
    assert reserve.times_used == 1
    with pytest.raises(NotNow) as trouble:
        await fill_up(ledger, said)
    assert trouble.value.reason == "ledger-full"
    assert ledger.last_seq() == len(said)
    disk.empty()
    said += await ledger.record(STAMP, sayings=(talk(len(said)),))
    await ledger.close()
    assert said == list(range(1, len(said) + 1))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert [seq for (seq,) in db.execute("SELECT seq FROM outbox ORDER BY seq")] == said


async def test_a_ledger_is_opened_without_a_free_inode_by_those_of_the_reserve(disk: SmallDisk) -> None:
    reserve = Reserve(disk.path, MIB)
    assert reserve.make()
    path = disk.path / "agent.sqlite"
    await (await Ledger.open(path)).close()
    disk.fill_inodes()
    with pytest.raises(NotNow):
        await Ledger.open(path)
    ledger = await Ledger.open(path, make_room=reserve.give_up)
    assert not ledger.opened.fresh
    assert await ledger.record(STAMP, sayings=(talk(1),)) == (1,)
    await ledger.close()


# --- what is left over -----------------------------------------------------------------------------------------


def leftovers(folder: Path) -> Leftovers:
    return Leftovers(log_folders=[str(folder / "log")], journal=str(folder / "log" / "journal"), journal_kept_bytes=1)


async def test_only_what_was_rotated_is_taken_and_no_link_is_followed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (log / "nginx").mkdir(parents=True)
    (log / "journal").mkdir()
    outside = tmp_path / "outside.gz"
    outside.write_text("precious")
    rotated = ["syslog.1", "syslog.2.gz", "nginx/access.log.10", "dpkg.log.old", "boot.xz"]
    kept = ["syslog", "nginx/access.log", "wtmp", "v1.2.txt", "journal/system.1"]
    for number, name in enumerate([*rotated, *kept]):
        (log / name).write_text(name)
        os.utime(log / name, (number, number))
    (log / "link.gz").symlink_to(outside)
    (log / "folder.gz").symlink_to(tmp_path)
    found = await leftovers(tmp_path).rotated_logs()
    assert found == tuple(str(log / name) for name in rotated)
    assert all([await leftovers(tmp_path).remove_log(path) for path in found])
    assert not await leftovers(tmp_path).remove_log(found[0])
    assert outside.read_text() == "precious"


async def test_the_journal_is_shortened_where_there_is_one(tmp_path: Path) -> None:
    assert not await leftovers(tmp_path).vacuum_journal()
    if shutil.which("journalctl") is None:
        pytest.fail("journalctl is missing; ./scripts/test installs it (apt-get install systemd)")
    journal = tmp_path / "log" / "journal" / ("a" * 32)
    journal.mkdir(parents=True)
    assert await leftovers(tmp_path).vacuum_journal()


async def test_enough_is_enough_in_bytes_and_in_inodes(disk: SmallDisk) -> None:
    look = leftovers(disk.path)
    path = str(disk.path)
    assert await look.is_enough(Need(path=path, free_bytes=disk.free_bytes, free_inodes=disk.free_inodes))
    assert not await look.is_enough(Need(path=path, free_bytes=disk.free_bytes + 1, free_inodes=0))
    assert not await look.is_enough(Need(path=path, free_bytes=0, free_inodes=disk.free_inodes + 1))
    assert await look.share_a_disk(path, path)
    assert not await look.share_a_disk(path, "/proc")
    assert not await look.share_a_disk(path, f"{path}/nowhere")
    with pytest.raises(NotNow):
        await look.free_bytes(f"{path}/nowhere")
