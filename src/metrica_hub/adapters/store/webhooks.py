"""Who is told of events, and how far. When to try again is judged by the database's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_hub.adapters.store.pool import borrowed
from metrica_hub.decisions.webhooks import MOST, Listener, Webhook
from metrica_hub.errors import Conflict

if TYPE_CHECKING:
    from metrica_hub.adapters.store.pool import Pool, Row

_ADD: Final = """
INSERT INTO webhooks (url, kinds, secret, created_by, cursor)
SELECT $1, $2, $3, $4, (SELECT coalesce(max(cursor), 0) FROM events)
WHERE (SELECT count(*) FROM webhooks) < $5 RETURNING *
"""
_LIST: Final = "SELECT * FROM webhooks WHERE id > $1 ORDER BY id LIMIT $2"
_DUE: Final = """
SELECT *, coalesce(extract(epoch FROM now() - failing_since), 0)::double precision AS failing_s
FROM webhooks WHERE disabled_at IS NULL AND next_at <= now() ORDER BY id
"""
_TOLD: Final = """
UPDATE webhooks SET cursor = $2, told_at = CASE WHEN $3 THEN now() ELSE told_at END, attempts = 0,
    failing_since = NULL, failure = NULL, next_at = now()
WHERE id = $1
"""
_FAILED: Final = """
UPDATE webhooks SET attempts = attempts + 1, failing_since = coalesce(failing_since, now()), failure = $2,
    next_at = now() + coalesce($3::interval, '0'), disabled_at = CASE WHEN $3::interval IS NULL THEN now() END
WHERE id = $1
"""


class Webhooks:
    """The table."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, url: str, kinds: tuple[str, ...], secret: str, *, created_by: str) -> Webhook:
        """Tell somebody of the events that come from now on.

        Raises:
            Conflict: there are too many.
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_ADD, url, list(kinds), secret, created_by, MOST)
        if not rows:
            raise Conflict(f"there are {MOST} webhooks, which is the most; remove one")
        return _webhook(rows[0])

    async def webhooks(self, *, after: int, limit: int) -> list[Webhook]:
        """Return up to ``limit`` of them behind ``after``.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            return [_webhook(row) for row in await connection.fetch(_LIST, after, limit)]

    async def webhook(self, number: int) -> Webhook | None:
        """Return one.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        found = await self.webhooks(after=number - 1, limit=1)
        return found[0] if found and found[0].id == number else None

    async def secret(self, number: int) -> str | None:
        """Return what the messages of one are signed with; ``None``: there is no such one.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            secret: str | None = await connection.fetchval("SELECT secret FROM webhooks WHERE id = $1", number)
        return secret

    async def remove(self, number: int) -> None:
        """Tell somebody no more.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute("DELETE FROM webhooks WHERE id = $1", number)

    async def due(self) -> list[Listener]:
        """Return who may be told something now.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            return [_listener(row) for row in await connection.fetch(_DUE)]

    async def told(self, number: int, cursor: int, *, something: bool) -> None:
        """Note how far one is; ``something``: it took an event, and was not only passed over.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute(_TOLD, number, cursor, something)

    async def failed(self, number: int, why: str, *, again_s: float | None) -> None:
        """Note that one did not take what it was told; ``again_s``: when to try again, ``None``: never.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        wait = None if again_s is None else timedelta(seconds=again_s)
        async with borrowed(self._pool) as connection:
            await connection.execute(_FAILED, number, why, wait)


def _webhook(row: Row) -> Webhook:
    return msgspec.convert({name: row[name] for name in Webhook.__struct_fields__}, Webhook)


def _listener(row: Row) -> Listener:
    return msgspec.convert({name: row[name] for name in Listener.__struct_fields__}, Listener)
