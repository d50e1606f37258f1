"""What a device was like, out of what is summed up and of what is not yet: the same, however far that has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import structs

from metrica_hub.adapters.store.keeper import Keeper
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.decisions.retention import Cut, Growing
from metrica_hub.web.vitals import SPANS

if TYPE_CHECKING:
    from tests.fixtures.database import Cluster, Database

    from metrica_hub.decisions.fleet_state import VitalsPoint

TABLES = [
    Growing("heartbeats", Cut.DAY, 90),
    Growing("heartbeats_5m_sums", Cut.MONTH, 365),
    Growing("heartbeats_1h_sums", Cut.MONTH, 1825),
]
BEATS = """
SELECT make_partition('heartbeats', 'heartbeats_' || to_char(day, 'YYYYMMDD'), day, day + interval '1 day')
FROM generate_series(date_trunc('day', now()) - interval '8 days', now(), interval '1 day') AS day;
INSERT INTO heartbeats (device, stream, seq, received_at, at, boot_id, uptime_s, mode, load_1m, disk_free_bytes,
    memory_available_bytes, temperature_celsius, throttled)
SELECT device, repeat('0', 32)::uuid, n, now() - n * interval '7 minutes' + late * interval '30 minutes',
    CASE WHEN n % 3 > 0 THEN now() - n * interval '7 minutes' END, 'boot', 1, 'steady', n % 7, 1000 - n, NULL, n % 40,
    n % 100 = 0
FROM generate_series(5, 1500) AS n, (VALUES ('pi-01'), ('pi-02')) AS fleet (device),
    LATERAL (SELECT (n % 11 = 0)::int AS late) AS said
"""


async def test_a_history_is_the_same_before_and_after_it_is_summed_up(cluster: Cluster, database: Database) -> None:
    await migrate(database.url)
    cluster.execute(BEATS, database.name)
    pool = await open_pool(database.url, name="test", size=2)
    reader, keeper = Reader(pool), Keeper(pool)
    await keeper.make_room(TABLES)
    now = datetime.now(UTC)

    async def histories() -> list[list[VitalsPoint]]:
        return [
            [structs.replace(point, load_1m=round(point.load_1m or 0, 6)) for point in found]
            for span in SPANS.values()
            for found in [await reader.vitals("pi-01", since=_begin(now - span.length, span.width), width=span.width)]
        ]

    try:
        before = await histories()
        for _ in range(50):
            assert await keeper.sum_up()
        halfway = await histories()
        while await keeper.sum_up():
            pass
        after = await histories()
        assert await reader.vitals("pi-99", since=now - timedelta(days=1), width=timedelta(minutes=5)) == []
    finally:
        await close_pool(pool, within_s=1)
    assert before == halfway == after
    hour, day, week = after
    assert (len(week) >= 167, len(day) >= 190, len(hour) >= 2) == (True, True, True)
    sent = (now - _begin(now - timedelta(days=7), timedelta(hours=1))) / timedelta(minutes=7) - 4
    assert abs(sum(point.heartbeats for point in week) - sent) <= 2, "one each 7 minutes; two may be told late"
    assert {point.memory_available_bytes for point in week} == {None}
    assert max(point.temperature_celsius or 0 for point in week) == 39


def _begin(at: datetime, width: timedelta) -> datetime:
    """Return the beginning of the while that holds ``at``."""
    return datetime.fromtimestamp(at.timestamp() // width.total_seconds() * width.total_seconds(), UTC)
