"""The trail of who did what: rows are only ever added, one after the other, under a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_hub.adapters.store.pool import TRAIL_LOCK, alone, borrowed, transaction
from metrica_hub.decisions.trail import BEGINNING, Deed, Entry, Seal, sealed

if TYPE_CHECKING:
    from metrica_hub.adapters.store.pool import Connection, Pool, Row

_LAST: Final = "SELECT number, seal FROM trail ORDER BY number DESC LIMIT 1"
_BEFORE: Final = """
SELECT * FROM trail WHERE number < $1 AND actor = coalesce($3, actor) AND action = coalesce($4, action)
AND subject = coalesce($5, subject) ORDER BY number DESC LIMIT $2
"""
_BEHIND: Final = "SELECT * FROM trail WHERE number > $1 ORDER BY number LIMIT $2"
_ADD: Final = """
INSERT INTO trail (number, at, seal, actor, role, via, token, remote, action, subject, detail, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""


class Trail:
    """The table."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def append(self, deed: Deed) -> Entry:
        """Write ``deed`` down; durable when this returns.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            return await appended(connection, deed)

    async def before(
        self,
        number: int,
        *,
        limit: int,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> list[Entry]:
        """Return up to ``limit`` entries before ``number``, newest first; of one actor, action, subject if named.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        return await self._entries(_BEFORE, number, limit, actor, action, subject)

    async def behind(self, number: int, *, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries behind ``number``, oldest first.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        return await self._entries(_BEHIND, number, limit)

    async def _entries(self, which: str, *parameters: object) -> list[Entry]:
        async with borrowed(self._pool) as connection:
            return [_entry(row) for row in await connection.fetch(which, *parameters)]


async def appended(connection: Connection, deed: Deed) -> Entry:
    """Write ``deed`` down within a transaction that is open, together with what else it does."""
    at = await alone(connection, TRAIL_LOCK)
    last = await connection.fetch(_LAST)
    before = Seal(number=last[0]["number"], value=last[0]["seal"]) if last else BEGINNING
    entry = sealed(before, at, deed)
    await connection.execute(_ADD, entry.number, at, entry.seal, *msgspec.structs.astuple(deed))
    return entry


def _entry(row: Row) -> Entry:
    deed = Deed(**{name: row[name] for name in Deed.__struct_fields__})
    return Entry(number=row["number"], at=row["at"], deed=deed, seal=row["seal"])
