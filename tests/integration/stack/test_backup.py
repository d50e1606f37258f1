"""The shipped backup and restore, on Debian's Postgres with checksums, pgBackRest and restic, and a real hub.

``./scripts/rehearse restore`` runs the same with a large database, and prints how long each step took.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.backed_up import Machine
from tests.fixtures.broker import Broker
from tests.integration.agent.reporting import device
from tests.integration.hub.waiting import until

from metrica_agent.tasks.report import Timing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from tests.integration.agent.reporting import Device

ROWS = int(os.environ.get("METRICA_REHEARSAL_ROWS", "20000"))
"""Heartbeats of others that are in the database, too."""
BEATING = Timing(heartbeat_s=0.5, reconnect_base_s=0.1, reconnect_cap_s=1, resend_base_s=2, resend_cap_s=8)
OTHER = "00000000-0000-4000-8000-000000000000"
FILL = f"""
INSERT INTO heartbeats (device, stream, seq, received_at, boot_id, uptime_s, mode, load_1m, temperature_celsius)
SELECT 'other-' || n % 500, '{OTHER}', n, now(), 'boot', n, 'steady', random(), 40 + random()
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO streams (device, stream, stored_seq)
SELECT 'other-' || n, '{OTHER}', {ROWS} FROM generate_series(0, 499) AS n
"""  # noqa: S608 - our own words


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def vps(broker: Broker) -> Iterator[Machine]:
    """With the first backup taken, as docs/how-to/backup.md has it: no WAL is archived before."""
    with Machine(broker.port) as machine:
        made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'heartbeats'::regclass"
        machine.wait(lambda: machine.execute(made) != "0", "the hub made room")
        machine.execute(FILL)
        tell(machine.backup("now", "database"))
        yield machine


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the device keeps from test to test."""
    return tmp_path_factory.mktemp("card")


def said(vps: Machine) -> Counter[str]:
    return Counter(vps.execute("SELECT message FROM events WHERE kind = 'commit.seen'").splitlines())


async def is_stored(vps: Machine, pi: Device, text: str) -> None:
    await pi.say(text)
    await until(lambda: said(vps)[text] == 1, within_s=90, what=f"{text} is stored")


def tell(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def restored_in(report: str) -> None:
    """Print how long each step took: ``./scripts/rehearse`` shows it."""
    tell("\n".join(line for line in report.splitlines() if line.startswith("✔")))


@pytest.mark.long
async def test_a_damaged_page_is_found_at_once_and_restored_without_loss(
    vps: Machine, broker: Broker, card: Path
) -> None:
    async with device(card, broker.port, timing=BEATING) as pi:
        await is_stored(vps, pi, "before the backup")
        tell(await asyncio.to_thread(vps.backup, "now"))
        await is_stored(vps, pi, "after the backup")
        size_mib = int(vps.execute("SELECT pg_database_size('metrica') / 1048576"))
        before = vps.figures()
        assert [before[f'metrica_backup_failed{{kind="{kind}"}}'] for kind in ("database", "files")] == [0, 0]
        assert before['metrica_backup_size_bytes{kind="database"}'] > 20_000_000
        leaf = vps.execute(
            "SELECT relid::regclass FROM pg_partition_tree('heartbeats') WHERE isleaf ORDER BY 1 LIMIT 1"
        )

        await asyncio.to_thread(vps.damage, leaf)
        began_s = time.monotonic()
        await asyncio.to_thread(vps.start)
        # Nobody has to look: the hub reads what is new, to sum it up.
        await until(lambda: damage_told(vps) >= 1, within_s=60, what="the hub tells the damage")
        tell(f"damage told {time.monotonic() - began_s:.1f} s after Postgres and the hub were started on it")
        assert "the database is damaged" in vps.asked("/readyz")
        assert '"event":"database.damaged"' in vps.hub_log
        assert int(vps.execute("SELECT checksum_failures FROM pg_stat_database WHERE datname = 'metrica'")) >= 1
        await is_stored(vps, pi, "while it was damaged")

        # A backup of it is none, says so, and stands in the way of nothing.
        assert "pages that are damaged" in await asyncio.to_thread(vps.backup, "now", "database", fails=True)
        after = vps.figures()
        assert after['metrica_backup_failed{kind="database"}'] == 1
        success = 'metrica_backup_last_success_timestamp_seconds{kind="database"}'
        assert after[success] == before[success]

        began_s = time.monotonic()
        report = await asyncio.to_thread(vps.restore, "--only", "database")
        tell(f"a damaged database of {size_mib} MiB was restored in {time.monotonic() - began_s:.1f} s")
        restored_in(report)
        assert said(vps) == Counter(["before the backup", "after the backup", "while it was damaged"])
        assert int(vps.execute("SELECT count(*) FROM heartbeats WHERE device LIKE 'other-%'")) == ROWS
        await is_stored(vps, pi, "restored")
        assert vps.figures()['metrica_backup_failed{kind="database"}'] == 0
        assert damage_told(vps) == 0


async def test_a_machine_that_burned_comes_back_and_devices_bring_what_the_archive_had_not(
    vps: Machine, broker: Broker, card: Path
) -> None:
    async with device(card, broker.port, timing=BEATING) as pi:
        await is_stored(vps, pi, "archived")
        await asyncio.to_thread(vps.backup, "now", "files")
        key = (vps.files / "hub.toml").read_bytes()
        await asyncio.to_thread(archived, vps)
        await is_stored(vps, pi, "in no archive yet")
        beats = int(vps.execute("SELECT count(*) FROM heartbeats WHERE device = 'pi-01'"))
        await until(lambda: int(vps.execute("SELECT count(*) FROM heartbeats WHERE device = 'pi-01'")) > beats + 2)
        await asyncio.to_thread(vps.burns)
        vps.root.chmod(0o755)  # on another machine the folders above are what they are there
        began_s = time.monotonic()
        report = await asyncio.to_thread(vps.restore)
        assert vps.root.stat().st_mode & 0o777 == 0o755
        tell(f"a machine of which nothing was left was restored in {time.monotonic() - began_s:.1f} s")
        restored_in(report)
        assert (vps.files / "hub.toml").read_bytes() == key
        with closing(sqlite3.connect(vps.files / "grafana.db")) as grafana:
            assert grafana.execute("SELECT title FROM dashboard").fetchall() == [("Fleet",)]
        await is_stored(vps, pi, "goes on")
        await until(lambda: said(vps)["in no archive yet"] == 1, within_s=90, what="what was lost comes again")
        assert set(said(vps).values()) == {1}
        assert int(vps.execute("SELECT count(*) FROM events WHERE kind = 'hub.set_back'")) == 1
        assert vps.execute("SELECT action FROM trail ORDER BY number DESC LIMIT 1") == "database.restored"
        assert vps.execute("SELECT count(*) FROM dead_letters") == "0"


@pytest.mark.long
async def test_a_backup_is_verified_by_restoring_it_and_one_that_is_broken_is_told(vps: Machine) -> None:
    report = await asyncio.to_thread(vps.backup, "verify")
    tell(report)
    assert "the trail holds" in report
    found = vps.figures()
    assert found['metrica_backup_last_verified_timestamp_seconds{kind="database"}'] > time.time() - 600
    assert found['metrica_backup_last_verified_timestamp_seconds{kind="files"}'] > time.time() - 600
    assert "✘" not in await asyncio.to_thread(vps.backup, "status")
    with broken(vps):
        assert "verify database failed" in await asyncio.to_thread(vps.backup, "verify", "database", fails=True)
    assert vps.figures()['metrica_backup_failed{kind="database"}'] == 1
    assert re.search(r"✘ database: the last try failed", await asyncio.to_thread(vps.backup, "status", fails=True))
    # An increment would rest on what was damaged.
    assert "✔ database: full backup" in await asyncio.to_thread(vps.backup, "now", "database")
    with broken(vps):
        report = await asyncio.to_thread(vps.backup, "verify", "database", fails=True)
    assert "the backup is whole" in report
    assert re.search(
        r"backup: \S+F, status: invalid.*✘ a file that is kept is not as it was written", report, re.DOTALL
    )
    assert "✔ database: full backup" in await asyncio.to_thread(vps.backup, "now", "database")


async def test_wal_that_postgres_puts_into_a_folder_is_taken_to_the_archive_as_in_the_stack(
    vps: Machine,
) -> None:
    with vps.serving() as folder:
        await asyncio.to_thread(vps.wait, (folder / "wanted").exists, "somebody takes WAL away")
        # pgBackRest wants its name in archive_command, whoever calls it in the end.
        put = f"test ! -e {folder}/%f && cp %p {folder}/.new && mv {folder}/.new {folder}/%f # pgbackrest"
        with vps.set("archive_command", put):
            report = await asyncio.to_thread(vps.backup, "now", "database")  # waits for its WAL in the archive
        assert "✔ database: incr backup" in report
        await asyncio.to_thread(
            vps.wait, lambda: [path.name for path in folder.iterdir()] == ["wanted"], "all is taken"
        )


@pytest.mark.long
async def test_wal_that_does_not_leave_is_told_and_when_it_does_that_is_over(vps: Machine) -> None:
    away = vps.repository.with_name("away")
    with vps.serving() as folder:
        await asyncio.to_thread(vps.wait, (folder / "wanted").exists, "somebody takes WAL away")
        vps.repository.rename(away)
        vps.repository.touch()  # a file: nothing can be put below it
        put = f"test ! -e {folder}/%f && cp %p {folder}/.new && mv {folder}/.new {folder}/%f # pgbackrest"
        try:
            with vps.set("archive_command", put):
                vps.execute("SELECT pg_logical_emit_message(true, 'test', 'a'); SELECT pg_switch_wal()")
                await asyncio.to_thread(vps.wait, lambda: pieces(folder), "a piece of WAL waits")
                long_ago_s = time.time() - 700
                for piece in pieces(folder):
                    os.utime(piece, (long_ago_s, long_ago_s))
                await asyncio.to_thread(vps.wait, lambda: late(vps) == 1, "it is told that WAL waits")
                assert "✘ WAL waits for the repository" in await asyncio.to_thread(vps.backup, "status", fails=True)
                _mended(vps, away)
                await asyncio.to_thread(vps.wait, lambda: late(vps) == 0, "it has left")
                assert not pieces(folder)
        finally:
            _mended(vps, away)


def _mended(vps: Machine, away: Path) -> None:
    if away.exists():
        vps.repository.unlink()
        away.rename(vps.repository)


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("0*"))


def late(vps: Machine) -> float | None:
    return vps.figures().get('metrica_backup_failed{kind="wal"}')


@contextmanager
def broken(vps: Machine) -> Generator[None]:
    """Let the first backup lose a bit of its largest file meanwhile; or, where it is far away, forget the password."""
    first = min(vps.repository.glob("database/backup/metrica/2*F"), default=None)
    largest = (
        max((path for path in first.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        if first is not None
        else vps.secrets / "backup_password"
    )
    kept = largest.read_bytes()
    largest.write_bytes(kept[: len(kept) // 2] + bytes([kept[len(kept) // 2] ^ 1]) + kept[len(kept) // 2 + 1 :])
    try:
        yield
    finally:
        largest.write_bytes(kept)


def archived(vps: Machine) -> None:
    """Return when all that is stored by now is in the archive, as it is within a minute."""
    segment = vps.execute("SELECT pg_walfile_name(pg_switch_wal())")
    vps.wait(lambda: vps.execute("SELECT last_archived_wal FROM pg_stat_archiver") >= segment, "archived")


def damage_told(vps: Machine) -> float:
    found = re.search(r"^metrica_hub_database_damage (\S+)$", vps.asked("/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0
