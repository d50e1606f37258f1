"""How long Postgres takes for what people and dashboards ask, once there is much of it."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from tests.bench.figures import quantile

from metrica_hub.adapters.store.keeper import Keeper
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.decisions.retention import Cut, Growing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.figures import Table
    from tests.fixtures.database import Cluster, Database

    from metrica_hub.adapters.store.pool import Connection

DEVICES: Final = 10_000
BUSY: Final = 500
"""Devices with a heartbeat each minute of the last two days; the others have a state and no history."""
ROUNDS: Final = 20
MAX_S: Final = 0.05

FILL: Final = """
INSERT INTO devices (device, last_seen_at, presence, role, mode, commit, release)
SELECT 'pi-' || number, now(), 'online', 'camera', 'steady', repeat('c', 40), repeat('d', 64)
FROM generate_series(1, DEVICES) AS number;
INSERT INTO heartbeats (device, stream, seq, received_at, at, boot_id, uptime_s, commit, mode, load_1m,
                        memory_available_bytes, disk_free_bytes, temperature_celsius, throttled)
SELECT 'pi-' || number, md5(number::text)::uuid, minute, now() - minute * interval '1 minute',
       now() - minute * interval '1 minute', 'boot', minute, decode(repeat('c', 40), 'hex'), 'steady', random(),
       random() * 1e9, random() * 1e10, 40 + random() * 20, false
FROM generate_series(2880, 1, -1) AS minute, generate_series(1, BUSY) AS number;
ANALYZE;
"""
STATE: Final = "SELECT * FROM devices"
LAST_DAY: Final = """
SELECT received_at, at, load_1m, memory_available_bytes, disk_free_bytes, temperature_celsius, throttled
FROM heartbeats WHERE device = $1 AND received_at > now() - interval '1 day' ORDER BY received_at
"""
SIZE: Final = """
SELECT sum(pg_total_relation_size(partition.inhrelid))::float / (SELECT count(*) FROM heartbeats)
FROM pg_inherits AS partition WHERE partition.inhparent = 'heartbeats'::regclass
"""
MEANS: Final = "SELECT * FROM heartbeats_5m WHERE device = $1 AND begins > now() - interval '90 days' ORDER BY begins"


async def test_what_is_asked_of_a_full_database(cluster: Cluster, database: Database, table: Table) -> None:
    await migrate(database.url)
    pool = await open_pool(database.url, name="bench", size=2)
    keeper = Keeper(pool)
    try:
        async with pool.acquire(timeout=10) as connection:
            for days in range(3):
                await connection.fetchval(
                    "SELECT make_partition('heartbeats', 'heartbeats_' || to_char(day, 'YYYYMMDD'), day, day + $2)"
                    " FROM date_trunc('day', now() - $1::interval) AS day",
                    timedelta(days=days),
                    timedelta(days=1),
                )
        cluster.execute(FILL.replace("DEVICES", str(DEVICES)).replace("BUSY", str(BUSY)), database.name)
        await keeper.make_room([Growing(f"heartbeats_{width}_sums", Cut.MONTH, 365) for width in ("5m", "1h")])
        began, hours = time.monotonic(), 1
        while await keeper.sum_up():
            hours += 1
        table.row(f"summing up an hour of {BUSY} devices", f"{1000 * (time.monotonic() - began) / hours:.0f} ms")
        async with pool.acquire(timeout=10) as connection:
            table.row("disk for a heartbeat, with its indexes", f"{await connection.fetchval(SIZE):.0f} bytes")
            took = [
                await timed(connection, table, f"the state of {DEVICES} devices", STATE, (), DEVICES),
                await timed(connection, table, "a device's last day, minute by minute", LAST_DAY, ("pi-77",), 1439),
                await timed(connection, table, "a device's last days in means of 5 minutes", MEANS, ("pi-77",), 500),
            ]
    finally:
        await close_pool(pool, within_s=1)
    assert max(took) < MAX_S


async def timed(
    connection: Connection, table: Table, what: str, sql: str, parameters: Sequence[object], at_least: int
) -> float:
    """Return the median of the seconds until all rows were here."""
    took: list[float] = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        rows = await connection.fetch(sql, *parameters)
        took.append(time.monotonic() - began)
        assert len(rows) >= at_least
    table.spread(f"{what}, {at_least} rows or more", [1000 * one for one in took], "ms", 1)
    return quantile(took, 0.5)
