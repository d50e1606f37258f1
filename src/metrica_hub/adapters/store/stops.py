"""Stop orders: each is kept for ever, the one of the highest number is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.signed import Signed
from metrica_fleet.stop import understood
from metrica_hub.adapters.store.pool import borrowed
from metrica_hub.decisions.stop import Kept

if TYPE_CHECKING:
    from metrica_fleet.identity import FleetId
    from metrica_hub.adapters.store.pool import Connection, Pool

_NEWEST: Final = "SELECT * FROM stop_orders ORDER BY number DESC LIMIT 1"
_ADD: Final = """
INSERT INTO stop_orders (number, issued_at, stops, text, signature, via, given_by)
SELECT $1, $2, $3::jsonb, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT FROM stop_orders WHERE number >= $1)
ON CONFLICT DO NOTHING RETURNING number
"""
_ONE_BY_ONE: Final = "LOCK TABLE stop_orders IN SHARE ROW EXCLUSIVE MODE"
_NUMBER: Final = "SELECT coalesce(max(number), 0) FROM stop_orders"


class StopOrders:
    """The table."""

    def __init__(self, pool: Pool, fleet: FleetId) -> None:
        self._pool = pool
        self._fleet = fleet

    async def newest(self) -> Kept | None:
        """Return the order in force.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_NEWEST)
        if not rows:
            return None
        row = rows[0]
        return Kept(
            order=understood(row["text"], self._fleet),
            signed=Signed(row["text"], row["signature"]),
            via=row["via"],
            given_by=row["given_by"],
            received_at=row["received_at"],
        )

    async def add(self, kept: Kept) -> bool:
        """Keep an order, unless there is one of its number or a higher one; return whether there was none.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            return await _added(connection, kept)

    async def add_after(self, kept: Kept, number: int) -> bool:
        """Keep an order if the one in force has this number (0: there is none); return whether it had.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection, connection.transaction():
            await connection.execute(_ONE_BY_ONE)
            return await connection.fetchval(_NUMBER) == number and await _added(connection, kept)


async def _added(connection: Connection, kept: Kept) -> bool:
    order = kept.order
    stops = msgspec.json.encode(order.stops).decode()
    rows = await connection.fetch(
        _ADD,
        order.number,
        order.issued_at,
        stops,
        kept.signed.text,
        kept.signed.signature,
        kept.via,
        kept.given_by,
    )
    return bool(rows)
