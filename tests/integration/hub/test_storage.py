"""What is stored, in a real Postgres: each record once, cut by time, dropped when old, summed up for long."""
# ruff: noqa: S608 - the names in the statements are ours

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from msgspec import structs
from tests.fixtures.database import Cluster, Database
from tests.integration.hub.stored import TABLES, Store, opened
from tests.unit.hub.values import STREAM, event, heartbeat, said, status

from metrica_fleet.identity import CommitId, DeviceId, ReleaseDigest, StreamId
from metrica_fleet.records import Record, Vitals
from metrica_hub.adapters.store.migrate import migrate, own_steps
from metrica_hub.adapters.store.pool import RETAIN_LOCK
from metrica_hub.adapters.store.rows import HEARTBEAT_COLUMNS
from metrica_hub.adapters.store.writer import COPY_FROM, Writer
from metrica_hub.decisions.coverage import MOST_SPANS
from metrica_hub.decisions.intake import Arrival
from metrica_hub.decisions.plan import plan, streams_of
from metrica_hub.decisions.retention import partition_of
from metrica_hub.errors import Unstorable


def some_records(count: int) -> list[Record]:
    return [event(seq) if seq % 5 == 0 else heartbeat(seq) for seq in range(1, count + 1)]


async def rows_by_number(store: Store) -> list[tuple[object, ...]]:
    """Return each number of each device, and how often it is there."""
    return await store.ask(
        """
        SELECT seq, count(*)
        FROM (SELECT device, seq FROM heartbeats UNION ALL SELECT device, seq FROM events) AS records
        GROUP BY device, seq ORDER BY device, seq
        """
    )


@pytest.mark.parametrize("size", [7, 2 * COPY_FROM])
async def test_in_whatever_order_and_however_often_records_come_each_is_written_once(store: Store, size: int) -> None:
    chance, records = random.Random(size), some_records(1500)
    # Within a stream's bound of gaps, as a bus delivers: near each other, some twice, some lost and sent again.
    for attempt in range(4):
        way = sorted(records, key=lambda record: record.seq + chance.uniform(0, MOST_SPANS / 2))
        way = [
            record for record in way if attempt == 3 or chance.random() < 0.8 for _ in range(chance.choice([1, 1, 2]))
        ]
        for first in range(0, len(way), size):
            await store.put(*way[first : first + size])
    assert await rows_by_number(store) == [(seq, 1) for seq in range(1, 1501)]
    assert await store.ask("SELECT stored_seq, ahead::text FROM streams") == [(1500, "{}")]


async def test_two_hubs_that_store_the_same_at_once_store_it_once(store: Store) -> None:
    writers, records = [Writer(store.pool) for _ in range(3)], some_records(600)
    await asyncio.gather(
        *(store.put(*records[first : first + 100], writer=writer) for first in range(0, 600, 100) for writer in writers)
    )
    assert await rows_by_number(store) == [(seq, 1) for seq in range(1, 601)]


async def test_what_another_hub_stored_since_is_not_stored_again_by_one_that_remembers_less(store: Store) -> None:
    first, second = Writer(store.pool), Writer(store.pool)
    beats = [heartbeat(seq) for seq in range(1, 41)]
    for writer, upto in ((first, 10), (first, 11), (second, 20), (first, 30), (second, 31), (first, 40)):
        await store.put(*beats[:upto], writer=writer)
    assert await rows_by_number(store) == [(seq, 1) for seq in range(1, 41)]
    assert await store.ask("SELECT stored_seq, ahead::text FROM streams") == [(40, "{}")]


async def test_a_batch_that_is_planned_on_a_memory_that_is_wrong_writes_nothing_of_it(store: Store) -> None:
    for seq in (1, 2):
        await store.put(heartbeat(seq))
    await store.ask("TRUNCATE streams, heartbeats, devices")
    await store.put(heartbeat(3))
    assert await store.ask("SELECT stored_seq, ahead::text FROM streams") == [(0, "{[3,4)}")]
    assert await rows_by_number(store) == [(3, 1)]


async def test_what_goes_in_at_once_is_what_goes_in_step_by_step(store: Store) -> None:
    beat = structs.replace(
        heartbeat(1),
        at=datetime(2026, 11, 29, 3, 40, 0, 123456, tzinfo=UTC),
        commit=CommitId("ab" * 20),
        release=ReleaseDigest("cd" * 32),
        vitals=Vitals(
            load_1m=0.1,
            memory_total_bytes=2**53 - 1,
            disk_path='/srv/"ü"',
            temperature_celsius=-4.5,
            throttled=False,
            clock_synchronised=True,
        ),
    )
    told = structs.replace(status(uptime_s=0.5), tags=("null", "b"), message="it's {1}", at=beat.at)
    writer = Writer(store.pool)
    for number, copies in enumerate((1, 1, COPY_FROM)):  # step by step the first time, at once, and by COPY
        seqs = range(number * COPY_FROM + 1, number * COPY_FROM + copies + 1)
        batch: list[Arrival] = [said(structs.replace(beat, seq=seq, prev=seq - 1)) for seq in seqs]
        batch.append(said(told))
        await writer.commit(streams_of(batch), partial(plan, batch))
        await store.ask(f"CREATE TABLE seen_{number} AS SELECT * FROM devices")
    heartbeats = ", ".join(f"h.{name}" for name in HEARTBEAT_COLUMNS if name not in {"seq", "received_at"})
    assert len(await store.ask(f"SELECT DISTINCT {heartbeats} FROM heartbeats AS h")) == 1
    assert await store.ask("SELECT count(*) FROM heartbeats") == [(2 + COPY_FROM,)]
    devices = "to_jsonb(seen) - 'change'"
    every = " UNION ALL ".join(f"SELECT {devices} AS device FROM seen_{number} AS seen" for number in range(3))
    assert len(await store.ask(f"SELECT DISTINCT device FROM ({every}) AS every")) == 1
    assert await store.ask("SELECT tags, message, disk_path, memory_total_bytes FROM devices") == [
        (["null", "b"], "it's {1}", '/srv/"ü"', 2**53 - 1)
    ]
    assert await store.ask("SELECT encode(commit, 'hex'), at FROM heartbeats LIMIT 1") == [("ab" * 20, beat.at)]


async def test_what_one_device_said_is_no_repetition_of_what_another_says(store: Store) -> None:
    for device in ("pi-01", "pi-02"):
        await store.put(*some_records(10), device=DeviceId(device))
    assert await rows_by_number(store) == [(seq, 1) for seq in range(1, 11)] * 2


async def test_rows_and_cursors_become_visible_in_the_order_of_their_times(store: Store) -> None:
    await asyncio.gather(*(store.put(event(seq, prev=0), device=DeviceId(f"pi-{seq}")) for seq in range(1, 40)))
    found = await store.ask("SELECT cursor, received_at FROM events ORDER BY cursor")
    assert len(found) == 39
    assert found == sorted(found, key=lambda row: str(row[1]))


async def test_a_partition_that_nobody_made_is_made_by_the_first_row(database: Database) -> None:
    await migrate(database.url)
    async with opened(database) as store:
        await store.put(*some_records(10))
        assert len(await rows_by_number(store)) == 10
        [(name,)] = await store.ask(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        assert name == partition_of(TABLES[1], datetime.now(UTC)).name


async def test_a_partition_that_somebody_dropped_is_made_again(store: Store) -> None:
    await store.put(event(1))
    name = partition_of(TABLES[1], datetime.now(UTC)).name
    await store.ask(f'DROP TABLE "{name}"')
    with pytest.raises(Unstorable):
        await store.put(event(2))
    await store.put(event(2))
    assert await rows_by_number(store) == [(2, 1)]


async def test_partitions_are_made_ahead_and_once(database: Database) -> None:
    await migrate(database.url)
    async with opened(database) as store:
        made = await store.keeper.make_room(TABLES)
        today = datetime.now(UTC)
        assert {partition_of(TABLES[0], today + timedelta(days=days)).name for days in range(4)} <= set(made)
        assert await store.keeper.make_room(TABLES) == ()


async def test_what_has_outlived_its_use_is_dropped_and_nothing_else(store: Store) -> None:
    now = datetime.now(UTC)
    for table, days in ((TABLES[0], 92), (TABLES[0], 89), (TABLES[1], 400), (TABLES[1], 300)):
        part = partition_of(table, now - timedelta(days=days))
        await store.ask("SELECT make_partition($1, $2, $3, $4)", table.name, part.name, part.begins, part.ends)
    old = [partition_of(TABLES[0], now - timedelta(days=days)).name for days in (92, 93, 94)]
    # Half done: one that was taken out and not dropped, one that is a table and was never put in.
    await store.ask(f'CREATE TABLE "{old[1]}" (LIKE heartbeats)')
    await store.put(*some_records(20))
    before = await rows_by_number(store)
    assert set(await store.keeper.drop(TABLES)) == {
        old[0],
        old[1],
        partition_of(TABLES[1], now - timedelta(days=400)).name,
    }
    assert await store.keeper.drop(TABLES) == ()
    assert await rows_by_number(store) == before
    [(there,)] = await store.ask(
        "SELECT to_regclass($1) IS NOT NULL", partition_of(TABLES[0], now - timedelta(days=89)).name
    )
    assert there


async def test_of_two_hubs_one_makes_and_drops(store: Store) -> None:
    part = partition_of(TABLES[0], datetime.now(UTC) - timedelta(days=100))
    await store.ask("SELECT make_partition($1, $2, $3, $4)", "heartbeats", part.name, part.begins, part.ends)
    async with store.pool.acquire(timeout=5) as other:
        await other.execute("SELECT pg_advisory_lock($1)", RETAIN_LOCK)
        assert await store.keeper.drop(TABLES) == ()
        await other.execute("SELECT pg_advisory_unlock_all()")
    assert await store.keeper.drop(TABLES) == (part.name,)


DIRECT = """
SELECT device, date_bin($1, coalesce(at, received_at), 'epoch') AS begins, count(*), avg(load_1m),
       min(memory_available_bytes), max(temperature_celsius), bool_or(throttled)
FROM heartbeats GROUP BY 1, 2 ORDER BY 1, 2
"""
SUMMED = """
SELECT device, begins, heartbeats, load_1m, memory_available_bytes_min, temperature_celsius_max, throttled
FROM {view} ORDER BY 1, 2
"""


def some_heartbeats(seqs: Sequence[int], chance: random.Random, before: timedelta) -> list[Record]:
    return [
        structs.replace(
            heartbeat(seq),
            at=datetime.now(UTC) - before + timedelta(seconds=37 * seq),
            vitals=Vitals(
                load_1m=chance.choice([None, float(chance.randrange(8))]),
                memory_available_bytes=chance.choice([None, chance.randrange(10**9)]),
                temperature_celsius=chance.choice([None, 40.5, 61.0]),
                throttled=chance.choice([None, True, False]),
            ),
        )
        for seq in seqs
    ]


async def same(store: Store) -> bool:
    for view, width in (("heartbeats_5m", timedelta(minutes=5)), ("heartbeats_1h", timedelta(hours=1))):
        if await store.ask(SUMMED.format(view=view)) != await store.ask(DIRECT, width):
            return False
    return True


async def test_the_sums_are_those_of_the_heartbeats_also_of_those_that_come_late(store: Store) -> None:
    chance = random.Random(3)
    await store.put(*some_heartbeats(range(1, 200), chance, timedelta(hours=3)))
    await store.summed()
    assert await same(store)
    assert len(await store.ask("SELECT FROM heartbeats_5m")) > 20
    await store.put(*some_heartbeats(range(200, 300), chance, timedelta(days=20)))
    assert not await same(store)
    await asyncio.gather(*(store.keeper.sum_up() for _ in range(4)))
    await store.summed()
    assert await same(store)
    await store.summed()
    assert await same(store), "nothing is counted twice"


async def test_a_clock_that_can_not_be_right_does_not_move_a_heartbeat_in_the_sums(store: Store) -> None:
    for seq, year in ((1, 1970), (2, 2077)):
        await store.put(structs.replace(heartbeat(seq), at=datetime(year, 1, 1, tzinfo=UTC)))
    await store.put(heartbeat(3))
    await store.summed()
    [(beats, age)] = await store.ask("SELECT sum(heartbeats)::int, max(now() - begins) FROM heartbeats_1h")
    assert beats == 3
    assert isinstance(age, timedelta)
    assert age < timedelta(hours=2)


BEFORE = """
INSERT INTO streams (device, stream, stored_seq) VALUES ('pi-01', 'STREAM', 3);
INSERT INTO heartbeats (device, stream, seq, received_at, boot_id, uptime_s, mode)
SELECT 'pi-01', 'STREAM', seq, now() - seq * interval '20 days', 'b', 1, 'steady' FROM unnest(ARRAY[1, 2, 6]) AS seq;
INSERT INTO events (device, stream, seq, received_at, boot_id, uptime_s, kind, message, detail)
SELECT 'pi-01', 'STREAM', seq, now() - seq * interval '20 days', 'b', 1, 'commit.seen', '', '{}'
FROM unnest(ARRAY[3, 5]) AS seq;
"""


async def test_a_database_from_before_is_cut_and_no_record_is_lost_or_doubled(
    database: Database, cluster: Cluster
) -> None:
    await migrate(database.url, own_steps()[:2])
    cluster.execute(BEFORE.replace("STREAM", STREAM), database.name)
    before = int(cluster.execute("SELECT max(cursor) FROM events", database.name))
    await migrate(database.url)
    async with opened(database) as store:
        assert await store.ask("SELECT stored_seq, ahead::text FROM streams") == [(3, "{[5,7)}")]
        await store.put(*some_records(8))
        assert await rows_by_number(store) == [(seq, 1) for seq in range(1, 9)]
        assert await store.ask("SELECT stored_seq, ahead::text FROM streams") == [(8, "{}")]
        newest = "SELECT min(cursor) > $1 FROM events WHERE received_at > now() - interval '1 day'"
        assert await store.ask(newest, before) == [(None,)]
        await store.put(event(9))
        assert await store.ask(newest, before) == [(True,)]


async def test_streams_that_nobody_uses_are_forgotten_when_nothing_of_them_is_kept(store: Store) -> None:
    await store.put(event(1))
    await store.put(event(1, stream=StreamId("b" * 32)))
    await store.ask("UPDATE streams SET updated_at = now() - interval '1826 days' WHERE stream = $1", STREAM)
    assert await store.keeper.forget_streams(TABLES) == 1
    assert await store.keeper.forget_streams(TABLES) == 0
    assert [str(row[0]) for row in await store.ask("SELECT replace(stream::text, '-', '') FROM streams")] == ["b" * 32]
