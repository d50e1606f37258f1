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
    from metrica_hub.adapters.store.pool import Pool

_NEWEST: Final = "SELECT * FROM stop_orders ORDER BY number DESC LIMIT 1"
_ADD: Final = """
INSERT INTO stop_orders (number, issued_at, stops, text, signature, via, given_by)
SELECT $1, $2, $3::jsonb, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT FROM stop_orders WHERE number >= $1)
ON CONFLICT DO NOTHING RETURNING number
"""


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
        order = kept.order
        stops = msgspec.json.encode(order.stops).decode()
        async with borrowed(self._pool) as connection:
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
