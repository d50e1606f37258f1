"""A database with the hub's schema, and who writes to it, without a hub."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from tests.unit.hub.values import PI, said

from metrica_hub.adapters.store.keeper import Keeper
from metrica_hub.adapters.store.pool import Pool, close_pool, open_pool
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.decisions.plan import Writes, plan, streams_of
from metrica_hub.decisions.retention import Cut, Growing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from tests.fixtures.database import Database

    from metrica_fleet.identity import DeviceId
    from metrica_fleet.messages import Presence, Status
    from metrica_fleet.records import Record

TABLES: Final = (
    Growing("heartbeats", Cut.DAY, 90),
    Growing("events", Cut.MONTH, 365),
    Growing("dead_letters", Cut.MONTH, 90),
    Growing("heartbeats_5m_sums", Cut.MONTH, 365),
    Growing("heartbeats_1h_sums", Cut.MONTH, 1825),
)


class Store(NamedTuple):
    """A database with our schema, and who writes to it."""

    pool: Pool
    writer: Writer
    keeper: Keeper

    async def put(
        self, *records: Record | Status | Presence, device: DeviceId = PI, writer: Writer | None = None
    ) -> Writes:
        """Commit ``records`` as one batch."""
        batch = [said(record, device=device) for record in records]
        return await (writer or self.writer).commit(streams_of(batch), partial(plan, batch))

    async def ask(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        async with self.pool.acquire(timeout=10) as connection:
            return [tuple(cast("Iterable[object]", row)) for row in await connection.fetch(sql, *parameters)]

    async def summed(self) -> None:
        """Sum up all there is."""
        while await self.keeper.sum_up():
            pass


@asynccontextmanager
async def opened(database: Database) -> AsyncGenerator[Store]:
    """Give a store in a database that has the schema."""
    pool = await open_pool(database.url, name="test", size=6)
    try:
        yield Store(pool, Writer(pool), Keeper(pool))
    finally:
        await close_pool(pool, within_s=1)
