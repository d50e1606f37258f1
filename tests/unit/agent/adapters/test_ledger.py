from __future__ import annotations

# ruff: noqa: ASYNC240
# pyright: reportPrivateUsage=false
import sqlite3
import stat
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.agent.adapters.ledgers import (
    LATER,
    STAMP,
    decision,
    remembering,
    saying,
    status,
)

from metrica_agent.adapters.ledger import (
    BootCount,
    Bounds,
    Ledger,
    recent_decisions,
    recent_events,
    remembered,
)
from metrica_agent.adapters.ledger.opening import MIGRATIONS
from metrica_agent.decisions.outbox import Covered, Place, event_of
from metrica_agent.decisions.world import Memory, Saying
from metrica_fleet.codec import encode
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.identity import BootId, StreamId
from metrica_fleet.records import Event, Heartbeat, advanced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agent.sqlite"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(path)
    yield opened
    await opened.close()


async def asked(ledger: Ledger, sql: str) -> Any:
    """Ask on the ledger's own connection."""
    return await ledger._do(lambda: ledger._book._db.execute(sql).fetchone()[0])


# --- memory, decisions, events --------------------------------------------------------------------------------


async def test_a_new_ledger_remembers_nothing(ledger: Ledger) -> None:
    assert ledger.opened.fresh
    assert ledger.memory() == Memory()
    assert (ledger.stored(), ledger.last_seq()) == (0, 0)
    assert await ledger.unsent(0, 10) == ()


async def test_all_of_a_record_is_there_after_reopening(path: Path) -> None:
    ledger = await Ledger.open(path)
    seqs = await ledger.record(
        STAMP, memory=remembering(3), sayings=[saying("one"), saying("two")], decision=decision(1)
    )
    await ledger.close()
    again = await Ledger.open(path)
    assert not again.opened.fresh
    assert seqs == (1, 2)
    assert again.memory() == remembering(3)
    assert await again.decisions(5) == ((STAMP, decision(1)),)
    assert [(event.seq, event.message) for event in await again.recent_events(5)] == [(2, "two"), (1, "one")]
    assert again.stream != ledger.stream
    assert {event.stream for event in await again.recent_events(5)} == {ledger.stream}
    await again.close()


async def test_an_event_carries_what_was_said_and_when(ledger: Ledger) -> None:
    said = saying("seen", reason="pushed", commit="c" * 40, release="d" * 64, detail={"behind": 2})
    await ledger.record(STAMP, sayings=[said])
    (event,) = await ledger.unsent(0, 10)
    assert isinstance(event, Event)
    assert (event.stream, event.seq, event.prev) == (ledger.stream, 1, 0)
    assert (event.kind, event.reason, event.message, event.detail) == ("commit.seen", "pushed", "seen", {"behind": 2})
    assert (event.boot_id, event.uptime_s) == ("boot-1", 12.5)
    assert event.at is not None
    assert event.at.isoformat() == "2026-11-23T20:52:00.123000+00:00"


async def test_a_heartbeat_tells_the_status(ledger: Ledger) -> None:
    assert await ledger.heartbeat(LATER, status(mode="trial")) == 1
    (beat,) = await ledger.unsent(0, 10)
    assert isinstance(beat, Heartbeat)
    assert (beat.mode, beat.at, beat.uptime_s, beat.vitals) == ("trial", None, 99.0, status().vitals)


async def test_what_cannot_be_said_is_refused_and_nothing_of_the_record_is_kept(ledger: Ledger) -> None:
    with pytest.raises(Ours) as unregistered:
        await ledger.record(STAMP, memory=remembering(1), sayings=[saying("fine"), Saying(kind="no.such")])
    with pytest.raises(Ours) as unsayable:
        await ledger.record(STAMP, memory=remembering(1), sayings=[saying(reason="Not A Slug")])
    assert (unregistered.value.reason, unsayable.value.reason) == ("unregistered-kind", "unsayable")
    assert ledger.memory() == Memory()
    assert await ledger.unsent(0, 10) == ()
    assert await ledger.record(STAMP, sayings=[saying("next")]) == (1,)


async def test_what_is_too_long_or_no_text_is_cut_to_what_the_bus_carries(ledger: Ledger) -> None:
    output = "\udcff" + "é" * 10_000
    await ledger.record(STAMP, sayings=[saying(output, detail={f"k{n}": "\x00" * 900 for n in range(200)})])
    (event,) = await ledger.unsent(0, 10)
    assert isinstance(event, Event)
    assert event.message.startswith("?éé")
    assert len(event.message) == 1000
    assert event.detail == {"shortened": True}


async def test_decisions_are_bounded(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(decisions=5))
    for number in range(12):
        await ledger.record(STAMP, decision=decision(number))
    assert [kept.facts["number"] for _, kept in await ledger.decisions(100)] == [11, 10, 9, 8, 7]
    await ledger.close()


async def test_boots_and_starts_are_counted(path: Path) -> None:
    counts: list[BootCount] = []
    for boot in ("a", "a", "b", "a"):
        ledger = await Ledger.open(path)
        counts.append(await ledger.started(BootId(boot)))
        await ledger.close()
    assert [(count.boots, count.starts) for count in counts] == [(1, 1), (1, 2), (2, 1), (3, 1)]


async def test_whoever_wants_to_know_is_told_of_each_append(path: Path) -> None:
    told: list[str] = []
    ledger = await Ledger.open(path, appended=lambda: told.append("appended"))
    await ledger.record(STAMP, memory=remembering(1))
    assert told == []
    await ledger.record(STAMP, sayings=[saying()])
    await ledger.heartbeat(STAMP, status())
    assert told == ["appended", "appended"]
    await ledger.close()


# --- the outbox -------------------------------------------------------------------------------------------------


async def test_prev_leads_from_each_record_to_the_one_before(ledger: Ledger) -> None:
    await ledger.linked()
    for number in range(5):
        await ledger.record(STAMP, sayings=[saying(str(number))])
    assert [(r.seq, r.prev) for r in await ledger.unsent(0, 10)] == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert [(r.seq, r.prev) for r in await ledger.unsent(2, 2)] == [(3, 2), (4, 3)]
    await ledger.forget(ledger.stream, 3)
    assert [(r.seq, r.prev) for r in await ledger.unsent(0, 10)] == [(4, 3), (5, 4)]


async def test_prev_after_a_record_that_was_thinned_away_is_the_one_before_it(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(outbox_bytes=8_000, thinned_at_least=4))
    for _ in range(40):
        await ledger.heartbeat(STAMP, status())
    seqs = [record.seq for record in await ledger.unsent(0, 100)]
    gone = next(seq for seq in range(2, 40) if seq not in seqs)
    after = (await ledger.unsent(gone, 1))[0]
    assert (after.seq, after.prev) == (
        min(seq for seq in seqs if seq > gone),
        max((seq for seq in seqs if seq < gone), default=0),
    )
    await ledger.close()


async def test_any_watermark_is_harmless(ledger: Ledger) -> None:
    await ledger.linked()
    await ledger.record(STAMP, sayings=[saying(str(number)) for number in range(5)])
    assert await ledger.forget("f" * 32, 1000) is Covered.FOREIGN
    assert await ledger.forget(ledger.stream, 3) is Covered.MOVED
    assert await ledger.forget(ledger.stream, 3) is Covered.KNOWN
    assert await ledger.forget(ledger.stream, 1) is Covered.BEHIND
    assert ledger.stored() == 3
    assert [record.seq for record in await ledger.unsent(0, 10)] == [4, 5]


async def test_numbers_go_on_when_all_is_forgotten(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(events=0))
    await ledger.linked()
    await ledger.record(STAMP, sayings=[saying(str(number)) for number in range(5)])
    await ledger.forget(ledger.stream, 5)
    await ledger.close()
    again = await Ledger.open(path)
    assert (again.stored(), again.last_seq()) == (5, 5)
    assert await again.record(STAMP, sayings=[saying()]) == (6,)
    assert [(record.seq, record.prev) for record in await again.unsent(0, 10)] == [(6, 0)]
    await again.close()


async def test_the_last_events_stay_for_people_when_the_hub_has_them(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(events=3, settle_after=1))
    await ledger.linked()
    for number in range(10):
        await ledger.record(STAMP, sayings=[saying(str(number))])
        await ledger.heartbeat(STAMP, status())
    await ledger.forget(ledger.stream, 20)
    assert [event.message for event in await ledger.recent_events(100)] == ["9", "8", "7"]
    assert await ledger.unsent(0, 100) == ()
    await ledger.close()


async def test_connection_numbers_only_grow(path: Path) -> None:
    numbers: list[int] = []
    for _ in range(3):
        ledger = await Ledger.open(path, bounds=Bounds(connections_ahead=4))
        numbers += [await ledger.connections() for _ in range(6)]
        await ledger.close()
    assert numbers == sorted(set(numbers))


async def test_a_record_that_this_agent_cannot_read_is_told_in_its_place(path: Path) -> None:
    ledger = await Ledger.open(path)
    await ledger.record(STAMP, sayings=[saying(str(number)) for number in range(3)])
    await ledger.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE outbox SET document = ? WHERE seq = 2", (b'{"type":"opinion"}',))
    again = await Ledger.open(path)
    records = await again.unsent(0, 10)
    assert [(record.seq, record.prev) for record in records] == [(1, 0), (2, 1), (3, 2)]
    assert isinstance(records[1], Event)
    assert (records[1].kind, records[1].message) == ("record.unreadable", '{"type":"opinion"}')
    await again.close()


# --- streams ------------------------------------------------------------------------------------------------------


async def places(ledger: Ledger) -> list[tuple[str, int, int]]:
    return [(record.stream, record.seq, record.prev) for record in await ledger.unsent(0, 100)]


async def opened_to_tell(path: Path, count: int) -> str:
    """Open the ledger, tell something, close it; return the stream."""
    ledger = await Ledger.open(path)
    await ledger.record(STAMP, sayings=[saying(str(number)) for number in range(count)])
    await ledger.close()
    return ledger.stream


async def test_each_opening_begins_a_stream_and_the_numbers_go_on(path: Path) -> None:
    one, two = await opened_to_tell(path, 3), await opened_to_tell(path, 2)
    ledger = await Ledger.open(path)
    await ledger.record(STAMP, sayings=[saying()])
    assert await places(ledger) == [
        (one, 1, 0),
        (one, 2, 1),
        (one, 3, 2),
        (two, 4, 0),
        (two, 5, 4),
        (ledger.stream, 6, 0),
    ]
    assert len({one, two, ledger.stream}) == 3
    await ledger.close()


async def test_what_waits_of_earlier_streams_is_forgotten_in_its_turn(path: Path) -> None:
    one, two = await opened_to_tell(path, 3), await opened_to_tell(path, 2)
    ledger = await Ledger.open(path)
    assert await ledger.forget(two, 5) is Covered.KNOWN
    assert ledger.stored() == 0
    assert await ledger.forget(one, 2) is Covered.MOVED
    assert await places(ledger) == [(one, 3, 2), (two, 4, 0), (two, 5, 4)]
    assert await ledger.forget(one, 3) is Covered.MOVED
    assert (ledger.stored(), await places(ledger)) == (5, [])
    assert await ledger.forget(one, 3) is Covered.FOREIGN
    await ledger.close()
    again = await Ledger.open(path)
    assert (again.stored(), again.last_seq()) == (5, 5)
    assert await asked(again, "SELECT count(*) FROM streams") == 0
    await again.close()


async def test_an_opening_that_says_nothing_leaves_no_stream(path: Path) -> None:
    await opened_to_tell(path, 1)
    for _ in range(5):
        await opened_to_tell(path, 0)
    ledger = await Ledger.open(path)
    assert await asked(ledger, "SELECT count(*) FROM streams") == 1
    await ledger.close()


async def test_what_copies_say_never_bears_the_same_number_and_stream(path: Path) -> None:
    one = await opened_to_tell(path, 3)
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    original, clone = await Ledger.open(path), await Ledger.open(copy)
    for ledger in (original, clone):
        await ledger.record(STAMP, sayings=[saying("after")])
    ours, theirs = await places(original), await places(clone)
    assert ours[:3] == theirs[:3] == [(one, 1, 0), (one, 2, 1), (one, 3, 2)]
    assert (ours[3][1:], theirs[3][1:]) == ((4, 0), (4, 0))
    assert ours[3][0] != theirs[3][0]
    await original.close()
    await clone.close()


async def test_the_last_record_of_a_stream_is_never_thinned(path: Path) -> None:
    """Else nobody could tell that the hub has the stream to its end."""
    bounds = Bounds(outbox_bytes=8_000, thinned_at_least=4)
    ends: list[int] = []
    for _ in range(12):
        ledger = await Ledger.open(path, bounds=bounds)
        for _ in range(7):
            await ledger.heartbeat(STAMP, status())
        ends.append(ledger.last_seq())
        await ledger.close()
    ledger = await Ledger.open(path, bounds=bounds)
    records = await ledger.unsent(0, 1000)
    assert len(records) < ends[-1], "it was thinned"
    assert set(ends) <= {record.seq for record in records}
    hub: dict[str, int] = {}
    for record in records:
        hub[record.stream] = advanced(hub.get(record.stream, 0), record)
    for stream, seq in hub.items():
        await ledger.forget(stream, seq)
    assert ledger.stored() == ledger.last_seq()
    await ledger.close()


@pytest.mark.parametrize("outbox_bytes", range(2_000, 9_000, 1_000))
@pytest.mark.parametrize("first", [1, 2, 3])
async def test_an_agent_that_starts_for_each_heartbeat_never_thins_the_newest(
    path: Path, first: int, outbox_bytes: int
) -> None:
    """Nearly every record of such a device ends a stream and stays; the number of the newest is taken."""
    bounds = Bounds(outbox_bytes=outbox_bytes, thinned_at_least=2)
    for heartbeats in (first, *[1] * 20):
        ledger = await Ledger.open(path, bounds=bounds)
        for _ in range(heartbeats):
            seq = await ledger.heartbeat(STAMP, status())
            assert seq in [record.seq for record in await ledger.unsent(0, 1000)]
        await ledger.close()


async def test_a_ledger_of_the_agent_before_keeps_its_stream_for_what_waits(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(MIGRATIONS[0])
        db.execute("INSERT INTO life (id, stream, stored) VALUES (1, ?, 2)", ("a" * 32,))
        document = encode(event_of(saying("before"), STAMP, Place(StreamId("b" * 32), 3, 2)))
        db.execute("INSERT INTO outbox VALUES (3, 'event', 1, ?)", (document,))
        db.execute("PRAGMA user_version = 1")
    ledger = await Ledger.open(path)
    await ledger.record(STAMP, sayings=[saying("after")])
    assert await places(ledger) == [("a" * 32, 3, 2), (ledger.stream, 4, 0)]
    assert await ledger.forget("a" * 32, 3) is Covered.MOVED
    await ledger.close()


# --- the bound ----------------------------------------------------------------------------------------------------


async def test_past_the_bound_heartbeats_are_thinned_events_are_not_and_it_is_told(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(outbox_bytes=60_000, thinned_at_least=10))
    for number in range(400):
        await ledger.heartbeat(STAMP, status())
        if number % 10 == 0:
            await ledger.record(STAMP, sayings=[saying(str(number))])
    records = await ledger.unsent(0, 10_000)
    told = [r for r in records if isinstance(r, Event) and r.kind == "outbox.thinned"]
    messages = [r.message for r in records if isinstance(r, Event) and r.kind == "commit.seen"]
    beats = sum(isinstance(record, Heartbeat) for record in records)
    assert messages == [str(number) for number in range(0, 400, 10)]
    assert told
    assert sum(int(str(event.detail["dropped"])) for event in told) + beats == 400
    assert await asked(ledger, "SELECT sum(length(document)) FROM outbox") <= 60_500
    stored = 0
    for record in records:
        stored = advanced(stored, record)
    assert stored == records[-1].seq == ledger.last_seq()
    await ledger.close()


async def test_a_thinned_outbox_keeps_old_times_thinly_and_new_ones_fully(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(outbox_bytes=60_000, thinned_at_least=10))
    for _ in range(400):
        await ledger.heartbeat(STAMP, status())
    seqs = [record.seq for record in await ledger.unsent(0, 10_000) if isinstance(record, Heartbeat)]
    gaps = [after - before for before, after in pairwise(seqs)]
    third = len(gaps) // 3
    assert sum(gaps[:third]) > 2 * sum(gaps[-third:])
    assert max(gaps[-third:]) <= 2
    await ledger.close()


async def test_an_outbox_full_of_events_only_grows(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=Bounds(outbox_bytes=10_000))
    for number in range(200):
        await ledger.record(STAMP, sayings=[saying(str(number))])
    assert len(await ledger.unsent(0, 1000)) == 200
    await ledger.close()


# --- the file -----------------------------------------------------------------------------------------------------


async def test_only_the_owner_may_read_it(ledger: Ledger, path: Path) -> None:
    await ledger.record(STAMP, sayings=[saying()])
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["agent.sqlite", "agent.sqlite-shm", "agent.sqlite-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_it_is_durable(ledger: Ledger) -> None:
    assert await asked(ledger, "PRAGMA journal_mode") == "wal"
    assert await asked(ledger, "PRAGMA synchronous") == 2


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Unusable, match="written by a newer agent") as refused:
        await Ledger.open(path)
    assert refused.value.reason == "ledger-too-new"
    assert [file.name for file in path.parent.iterdir() if "unreadable" in file.name] == []


@pytest.mark.parametrize("damage", ["text", "header", "page", "memory"])
async def test_a_file_that_cannot_be_read_is_set_aside_and_a_fresh_one_begun(path: Path, damage: str) -> None:
    ledger = await Ledger.open(path)
    for number in range(50):
        await ledger.record(STAMP, memory=remembering(number), sayings=[saying("x" * 300)])
    await ledger.close()
    _damage(path, damage)
    broken = path.read_bytes()
    again = await Ledger.open(path)
    aside = again.opened.set_aside
    assert again.opened.fresh
    assert again.opened.why
    assert aside == path.with_name("agent.sqlite.unreadable-1")
    assert aside is not None
    assert aside.read_bytes() == broken
    assert again.memory() == Memory()
    assert again.stream != ledger.stream
    await again.close()


def _damage(path: Path, damage: str) -> None:
    if damage == "text":
        path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    elif damage == "header":
        path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    elif damage == "page":
        content = bytearray(path.read_bytes())
        content[8 * 4096 : 12 * 4096] = b"\xa5" * (4 * 4096)
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE memory SET document = ?", (b'{"trial": 5}',))


async def test_no_more_than_three_are_set_aside(path: Path) -> None:
    path.parent.mkdir()
    for number in range(5):
        path.write_bytes(f"broken {number}".encode() * 100)
        await (await Ledger.open(path)).close()
    kept = sorted(file.name for file in path.parent.iterdir() if "unreadable" in file.name)
    assert kept == [f"agent.sqlite.unreadable-{number}" for number in (1, 2, 3)]
    assert b"broken 4" in path.with_name("agent.sqlite.unreadable-3").read_bytes()


async def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(NotNow) as refused:
        await Ledger.open(tmp_path / "file" / "agent.sqlite")
    assert refused.value.reason == "ledger-unavailable"


async def test_a_full_disk_is_not_now_and_nothing_is_half_written(ledger: Ledger) -> None:
    await ledger.record(STAMP, memory=remembering(1), sayings=[saying("before")])
    pages = await asked(ledger, "PRAGMA page_count")
    await asked(ledger, f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NotNow) as refused:
        await ledger.record(STAMP, memory=remembering(2), sayings=[saying("x" * 3000) for _ in range(20)])
    assert refused.value.reason == "ledger-full"
    assert ledger.memory() == remembering(1)
    await asked(ledger, "PRAGMA max_page_count = 100000")
    assert await ledger.record(STAMP, sayings=[saying("after")]) == (2,)


# --- another process ------------------------------------------------------------------------------------------------


async def test_others_read_while_the_agent_writes(ledger: Ledger, path: Path) -> None:
    await ledger.record(STAMP, memory=remembering(4), sayings=[saying("one")], decision=decision(1))
    assert remembered(path) == remembering(4)
    assert [event.message for event in recent_events(path, 10)] == ["one"]
    assert recent_decisions(path, 10) == ((STAMP, decision(1)),)
    await ledger.record(STAMP, sayings=[saying("two")])
    assert [event.message for event in recent_events(path, 10)] == ["two", "one"]


async def test_others_read_when_the_agent_is_gone(path: Path) -> None:
    ledger = await Ledger.open(path)
    await ledger.record(STAMP, memory=remembering(4))
    await ledger.close()
    assert remembered(path) == remembering(4)


def test_others_are_told_in_a_sentence_that_there_is_none(path: Path) -> None:
    with pytest.raises(NotNow, match="has an agent run here"):
        recent_events(path, 10)


async def test_a_reader_that_stays_does_not_hold_the_agent_up(ledger: Ledger, path: Path) -> None:
    await ledger.record(STAMP, sayings=[saying("one")])
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM outbox").fetchone() == (1,)
        for _ in range(50):
            await ledger.record(STAMP, sayings=[saying("more")])
        assert reader.execute("SELECT count(*) FROM outbox").fetchone() == (1,)
    assert ledger.last_seq() == 51


# --- a flood of events ------------------------------------------------------------------------------------------


FLOODED = Bounds(events_bytes=4_000)


async def told(ledger: Ledger) -> list[tuple[str, object]]:
    records = await ledger.unsent(0, 1000)
    return [(record.message, record.detail.get("times")) for record in records if isinstance(record, Event)]


async def test_a_flood_of_events_is_counted_and_not_kept_one_by_one(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=FLOODED)
    for number in range(1000):
        await ledger.record(
            STAMP, sayings=[saying(f"up {number}", reason="up"), saying(f"down {number}", reason="down")]
        )
    kept = await told(ledger)
    assert len(kept) < 30
    up = [(message, times) for message, times in kept if message.startswith("up")]
    assert sum(times if isinstance(times, int) else 1 for _, times in up) == 1000
    assert up[-1][0] == "up 999"
    await ledger.close()


async def test_an_event_that_may_have_been_sent_is_never_changed(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=FLOODED)
    for number in range(100):
        await ledger.record(STAMP, sayings=[saying(f"before {number}")])
    await ledger.linked()
    before = await ledger.unsent(0, 1000)
    while_linked = await ledger.record(STAMP, sayings=[saying("while linked")])
    assert while_linked[0] > before[-1].seq
    await ledger.unlinked()
    for number in range(100):
        await ledger.record(STAMP, sayings=[saying(f"after {number}")])
    records = await ledger.unsent(0, 1000)
    assert records[: len(before)] == before
    assert [message for message, _ in await told(ledger)][len(before) :] == ["while linked", "after 99"]
    await ledger.close()


async def test_another_reason_commit_or_release_is_another_event_in_a_flood_too(path: Path) -> None:
    ledger = await Ledger.open(path, bounds=FLOODED)
    for number in range(100):
        await ledger.record(STAMP, sayings=[saying(str(number))])
    mark = ledger.last_seq()
    for more in ({"reason": "one"}, {"reason": "two"}, {"commit": "c" * 40}, {"release": "d" * 64}):
        await ledger.record(STAMP, sayings=[saying("other", **more)])
    assert ledger.last_seq() == mark + 4
    await ledger.close()


async def test_below_the_bound_every_event_is_kept_by_itself(path: Path) -> None:
    ledger = await Ledger.open(path)
    for _ in range(500):
        await ledger.record(STAMP, sayings=[saying("the same")])
    assert len(await ledger.unsent(0, 1000)) == 500
    await ledger.close()
