"""Who leads: an advisory lock on a connection of its own.

Postgres ends that connection when it hears nothing on it for ``LEASE_S`` (``idle_session_timeout``, Postgres 14). So a
hub that is killed, frozen or cut off loses the lead by the database's own clock, and no hub's clock counts.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.pool import LEADER_LOCK, meaning, open_connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from metrica_hub.adapters.store.pool import Connection

LEASE_S: Final = 4.0


class Lease:
    """One connection's claim."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def claim(self) -> bool:
        """Return whether we lead from now on; false while another does. Once true, ``renew`` keeps it.

        Raises:
            StoreAway: Postgres does not answer in time; whether we lead is not known.
        """
        with meaning():
            async with asyncio.timeout(LEASE_S):
                return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", LEADER_LOCK))

    async def renew(self) -> None:
        """Be heard, so that Postgres keeps the connection. To be called several times in ``LEASE_S``.

        Raises:
            StoreAway: the connection is gone, and the lead with it.
        """
        with meaning():
            async with asyncio.timeout(LEASE_S):
                await self._connection.execute("SELECT 1")


@asynccontextmanager
async def lease(url: str) -> AsyncGenerator[Lease]:
    """Open a connection to claim the lead on; it is given back at the end of the block.

    Raises:
        StoreAway: Postgres can't be reached.
    """
    connection = await open_connection(
        url, name="metrica-hub lead", more={"idle_session_timeout": str(round(LEASE_S * 1000))}
    )
    try:
        yield Lease(connection)
    finally:
        connection.terminate()
