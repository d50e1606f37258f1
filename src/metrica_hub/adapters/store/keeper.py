"""What keeps the database from growing for ever: partitions ahead, partitions dropped, heartbeats summed up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store import partitions
from metrica_hub.adapters.store.partitions import SUMS
from metrica_hub.adapters.store.pool import COMMIT_LOCK, RETAIN_LOCK, alone, borrowed, transaction
from metrica_hub.adapters.store.queries import statement
from metrica_hub.decisions.retention import outlived, wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from metrica_hub.adapters.store.pool import Connection, Pool
    from metrica_hub.decisions.retention import Growing

    Work = Callable[[Connection, Growing, datetime], Awaitable[list[str]]]

STEP: Final = timedelta(hours=1)
"""So much is summed up in one transaction."""
LATEST: Final = timedelta(days=40)
"""How long after its own time a heartbeat may come and still be summed up there."""
_WIDTHS: Final = dict(zip((table.name for table in SUMS), (timedelta(minutes=5), timedelta(hours=1)), strict=True))
_BEGIN: Final = """
INSERT INTO summed (upto) SELECT coalesce(min(received_at), $1) FROM heartbeats ON CONFLICT DO NOTHING
"""
_FORGET_STREAMS: Final = "DELETE FROM streams WHERE updated_at < now() - $1::interval RETURNING stream"
_SUMMED: Final = "SELECT upto FROM summed FOR UPDATE"
_IS_SUMMED: Final = "UPDATE summed SET upto = $1"


class Keeper:
    """Does its work on one connection at a time; of several hubs one does it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sums = {name: statement("sum_heartbeats").replace("{table}", name) for name in _WIDTHS}

    async def make_room(self, tables: Sequence[Growing]) -> tuple[str, ...]:
        """Make the partitions that will be needed; return the names of those that were missing.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        return await self._undisturbed(tables, _made)

    async def drop(self, tables: Sequence[Growing]) -> tuple[str, ...]:
        """Drop the partitions that hold nothing younger than their table keeps; return their names.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        return await self._undisturbed(tables, _dropped)

    async def forget_streams(self, tables: Sequence[Growing]) -> int:
        """Forget the streams that nothing was stored of for as long as anything is kept; return how many.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        unused = timedelta(days=max(table.kept_days for table in tables))
        async with transaction(self._pool, lock=COMMIT_LOCK) as connection:
            return len(await connection.fetch(_FORGET_STREAMS, unused))

    async def sum_up(self) -> bool:
        """Sum up one more hour of heartbeats, as far as they are stored; return whether more is waiting.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            closed_at = await alone(connection, COMMIT_LOCK)  # nothing will be stored with an earlier time
        async with transaction(self._pool) as connection:
            await connection.execute(_BEGIN, closed_at)
            begins: datetime = await connection.fetchval(_SUMMED)
            ends = max(begins, min(begins + STEP, closed_at))  # another hub may have been here since
            for name, width in _WIDTHS.items():
                await connection.execute(self._sums[name], width, begins, ends, LATEST)
            await connection.execute(_IS_SUMMED, ends)
        return ends < closed_at

    async def _undisturbed(self, tables: Sequence[Growing], work: Work) -> tuple[str, ...]:
        """Do ``work`` on each table under the keeper's lock; nothing when another hub holds it."""
        done: list[str] = []
        async with borrowed(self._pool) as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RETAIN_LOCK):
                return ()
            try:
                now: datetime = await connection.fetchval("SELECT now()")
                for table in tables:
                    done += await work(connection, table, now)
            except Exception:
                connection.terminate()  # which gives the lock back; cancelled, the lender does it
                raise
            await connection.execute("SELECT pg_advisory_unlock($1)", RETAIN_LOCK)
        return tuple(done)


async def _made(connection: Connection, table: Growing, now: datetime) -> list[str]:
    begin = now - LATEST if table.name in _WIDTHS else now
    return [one.name for one in wanted(table, begin, now) if await partitions.make(connection, one)]


async def _dropped(connection: Connection, table: Growing, now: datetime) -> list[str]:
    gone = outlived(table, await partitions.names(connection, table), now)
    for name in gone:
        await partitions.drop(connection, table, name)
    return list(gone)
