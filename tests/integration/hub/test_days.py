"""What is shown of each device's last 24 hours, read by a real Postgres from heartbeats, their sums and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tests.integration.hub.stored import opened

from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.decisions.day import TROUBLES, Day

if TYPE_CHECKING:
    from tests.fixtures.database import Database

HOUR = "date_trunc('hour', now())"
PARTITIONS = """
SELECT make_partition('heartbeats', 'heartbeats_' || to_char(day, 'YYYYMMDD'), day, day + interval '1 day')
FROM generate_series(date_trunc('day', now(), 'UTC') - interval '2 days', now(), interval '1 day') AS day
"""
MONTHS = """
SELECT make_partition(grows, grows || '_' || to_char(month, 'YYYYMM'), month, month + interval '1 month')
FROM unnest(ARRAY['events', 'heartbeats_5m_sums', 'heartbeats_1h_sums']) AS grows,
     generate_series(date_trunc('month', now() - interval '2 days', 'UTC'), now(), interval '1 month') AS month
"""
NUMBER = "SELECT extract(epoch FROM now())::bigint / 3600"
HEARD = f"""
INSERT INTO heartbeats (device, stream, seq, received_at, at, boot_id, uptime_s, mode)
SELECT $1, repeat('0', 32)::uuid, row_number() OVER (), at, at, 'boot', 1, 'steady'
FROM (SELECT {HOUR} - h * interval '1 hour' + m * interval '1 minute' AS at
      FROM unnest($2::integer[], $3::integer[]) AS told (h, m)) AS told
"""  # noqa: S608 - ours
TOLD = f"""
INSERT INTO events (device, stream, seq, received_at, at, boot_id, uptime_s, kind, message, detail)
VALUES ($1, repeat('0', 32)::uuid, $2, {HOUR} - $3 * interval '1 minute', now(), 'boot', 1, $4, '', '{{}}')
"""  # noqa: S608 - ours


async def test_a_day_has_the_hours_in_which_a_device_was_heard_or_had_trouble_before_and_after_they_are_summed_up(
    database: Database,
) -> None:
    await migrate(database.url)
    async with opened(database) as store:
        for made in (PARTITIONS, MONTHS):
            await store.ask(made)
        [(began,)] = await store.ask(NUMBER)
        # Hours before the one that goes on, and minutes in them: 23 hours before is the first that is shown.
        await store.ask(HEARD, "pi-01", [30, 23, 22, 20, 20, 0], [0, 0, 59, 5, 6, 0])
        await store.ask(HEARD, "pi-02", [24, 24], [0, 59])
        told = [
            ("pi-01", 25 * 60, TROUBLES[0]),
            ("pi-03", 23 * 60 + 1, TROUBLES[1]),
            ("pi-03", 23 * 60, TROUBLES[1]),
            ("pi-01", 90, "release.refused"),
            ("pi-01", 61, "release.confirmed"),
        ]
        for seq, (device, minutes_before, kind) in enumerate(told):  # in the order of their times, as they are stored
            await store.ask(TOLD, device, seq, minutes_before, kind)

        async def is_told() -> None:
            [(now,)] = await store.ask(NUMBER)
            hours = cast("int", now) - cast("int", began)  # one, if an hour began meanwhile
            days = {
                "pi-01": Day((1 << 0 | 1 << 1 | 1 << 3 | 1 << 23) >> hours, 1 << 21 >> hours),
                "pi-03": Day(0, 1 << 0 >> hours),
            }
            assert await Reader(store.pool).days() == {name: day for name, day in days.items() if day != Day()}

        await is_told()
        await store.summed()
        assert await store.ask("SELECT count(*) > 0 FROM heartbeats_1h_sums") == [(True,)]
        await is_told()
