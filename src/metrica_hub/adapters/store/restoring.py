"""A database that came from a copy: what is in it, whether it holds together, and how it goes on.

It goes on above all numbers that others may have seen of what the copy lacks, and opens no gate by itself: whether a
rollout was halted or aborted after the copy was made, it can't know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.rollout import paused
from metrica_hub.adapters.store.pool import borrowed, transaction
from metrica_hub.adapters.store.rollouts import Rollouts
from metrica_hub.adapters.store.trail import Trail, appended
from metrica_hub.decisions.trail import BEGINNING, Broken, Deed, Seal, detail_of, verified

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_hub.adapters.store.pool import Connection, Pool
    from metrica_hub.decisions.progress import Rollout

STEP: Final = 1_000_000
"""More events and changes than the time has that a copy lacks."""
_PART: Final = 1000
_PAUSED: Final = "the database was restored from a copy: nobody knows here what was said of this rollout after it"
_LEAVES: Final = """
SELECT relid::regclass::text AS name FROM pg_partition_tree($1::text::regclass) WHERE isleaf ORDER BY name
"""
_NEWEST: Final = """
SELECT greatest((SELECT max(received_at) FROM heartbeats), (SELECT max(received_at) FROM events),
                (SELECT max(changed_at) FROM rollouts), (SELECT max(at) FROM trail))
"""
# What a device was told to be stored must be stored, and once: of the newest part, which a copy cuts off.
_BEYOND: Final = """
SELECT count(*) FROM {leaf} AS record LEFT JOIN streams AS held USING (device, stream)
WHERE held.stream IS NULL OR (record.seq > held.stored_seq AND NOT held.ahead @> record.seq)
"""
_TWICE: Final = """
SELECT count(*) FROM (SELECT FROM {leaf} GROUP BY device, stream, seq HAVING count(*) > 1) AS twice
"""
_STEP: Final = """
SELECT setval('event_cursors', nextval('event_cursors') + $1), setval('device_changes', nextval('device_changes') + $1)
"""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a database, and what is wrong with it."""

    devices: int
    heartbeats: int
    events: int
    dead_letters: int
    newest_at: datetime | None
    """When something was written down last."""
    trail: Seal | Broken
    beyond: int
    """Records of the newest parts that no stream says to be stored."""
    twice: int
    """Records of the newest parts that stand there twice."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        broken = self.trail
        found = (
            f"the trail does not hold at {broken.number}: {broken.why}" if isinstance(broken, Broken) else "",
            f"{self.beyond} records are stored that their streams do not cover" if self.beyond else "",
            f"{self.twice} records are stored twice" if self.twice else "",
        )
        return tuple(fault for fault in found if fault)


async def examined(pool: Pool) -> Examined:
    """Read the database and return what is in it.

    Raises:
        StoreAway: it can't be read, because Postgres is away or a page of it is damaged.
    """
    async with borrowed(pool) as connection:
        counts = {table: await _rows(connection, table) for table in ("heartbeats", "events", "dead_letters")}
        leaves = [await _leaves(connection, table) for table in ("heartbeats", "events")]
        newest = [of_table[-1] for of_table in leaves if of_table]
        beyond = [await connection.fetchval(_BEYOND.format(leaf=leaf)) for leaf in newest]
        twice = [await connection.fetchval(_TWICE.format(leaf=leaf)) for leaf in newest]
        devices = await connection.fetchval("SELECT count(*) FROM devices")
        newest_at = await connection.fetchval(_NEWEST)
    return Examined(
        **counts, devices=devices, newest_at=newest_at, trail=await _trail(pool), beyond=sum(beyond), twice=sum(twice)
    )


async def gone_on(pool: Pool, deed: Deed) -> Rollout | None:
    """Make a restored database ready for a hub, and write ``deed`` down; return the rollout that was paused for it.

    Raises:
        StoreAway: Postgres can't do it now.
    """
    rollouts = Rollouts(pool)
    newest = await rollouts.newest()
    held = None
    if newest is not None and newest.course.state == "open":
        held = await rollouts.steer(newest.id, lambda rollout, _entries, _now_s: paused(rollout.course, _PAUSED))
    facts = {"rollout_paused": held.id if held is not None else None}
    async with transaction(pool) as connection:
        await connection.fetchval(_STEP, STEP)
        await appended(connection, msgspec.structs.replace(deed, detail=detail_of(facts)))
    return held


async def _leaves(connection: Connection, table: str) -> list[str]:
    return [str(row["name"]) for row in await connection.fetch(_LEAVES, table)]


async def _rows(connection: Connection, table: str) -> int:
    """Count part by part: none of them takes longer than a statement may."""
    counts = [
        int(await connection.fetchval(f"SELECT count(*) FROM {leaf}"))  # noqa: S608 - quoted by Postgres
        for leaf in await _leaves(connection, table)
    ]
    return sum(counts)


async def _trail(pool: Pool) -> Seal | Broken:
    trail, last = Trail(pool), BEGINNING
    while entries := await trail.behind(last.number, limit=_PART):
        found = verified(entries, last)
        if isinstance(found, Broken):
            return found
        last = found
    return last
