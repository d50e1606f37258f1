"""Tokens and the sessions of browsers. Whether one is still good is judged by the database's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.pool import borrowed, transaction
from metrica_hub.decisions.access import Held, Token
from metrica_hub.errors import Conflict

if TYPE_CHECKING:
    from metrica_hub.adapters.store.pool import Pool, Row
    from metrica_hub.decisions.access import Role

SESSION: Final = timedelta(days=7)

_SHOWN: Final = """
SELECT id, name, role, last_used_at < now() - interval '1 hour' AS is_old,
       revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS is_good
FROM tokens WHERE digest = $1
"""
_SIGNED_IN: Final = """
SELECT id, name, role, last_used_at < now() - interval '1 hour' AS is_old,
       revoked_at IS NULL AND (tokens.expires_at IS NULL OR tokens.expires_at > now())
       AND sessions.expires_at > now() AS is_good
FROM sessions JOIN tokens ON tokens.id = sessions.token WHERE sessions.digest = $1
"""
_USED: Final = "UPDATE tokens SET last_used_at = date_trunc('hour', now()) WHERE id = $1"
_ADD: Final = """
INSERT INTO tokens (name, role, digest, created_by, expires_at)
VALUES ($1, $2, $3, $4, now() + $5::interval) ON CONFLICT DO NOTHING RETURNING *
"""
_LIST: Final = "SELECT * FROM tokens WHERE id > $1 AND revoked_at IS NULL ORDER BY id LIMIT $2"
_REVOKE: Final = "UPDATE tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id"
_BEGIN: Final = "INSERT INTO sessions (digest, token, expires_at) VALUES ($1, $2, now() + $3::interval)"
_SWEEP: Final = """
DELETE FROM sessions WHERE expires_at < now() - interval '30 days' OR digest IN (
    SELECT digest FROM sessions WHERE token = $1 ORDER BY created_at DESC OFFSET 50
)
"""


class Access:
    """Who may ask."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of_token(self, digest: bytes) -> Held | None:
        """Return what the token with this digest stands for; ``None``: it was never given out.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        return await self._held(_SHOWN, digest)

    async def of_session(self, digest: bytes) -> Held | None:
        """Return what the session with this digest stands for.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        return await self._held(_SIGNED_IN, digest)

    async def begin_session(self, digest: bytes, token: int) -> None:
        """Keep a new session of ``token``.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(_BEGIN, digest, token, SESSION)
            await connection.execute(_SWEEP, token)

    async def end_session(self, digest: bytes) -> None:
        """Forget a session.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute("DELETE FROM sessions WHERE digest = $1", digest)

    async def add_token(
        self, name: str, role: Role, digest: bytes, *, created_by: str, lasts: timedelta | None
    ) -> Token:
        """Keep a new token; ``lasts``: for how long, or for ever.

        Raises:
            Conflict: there is one of that name that was not revoked.
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_ADD, name, role, digest, created_by, lasts)
        if not rows:
            raise Conflict(f'there is a token "{name}"; revoke it, or choose another name')
        return _token(rows[0])

    async def tokens(self, *, after: int, limit: int) -> list[Token]:
        """Return up to ``limit`` tokens behind ``after`` that were not revoked.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_LIST, after, limit)
        return [_token(row) for row in rows]

    async def token(self, number: int) -> Token | None:
        """Return one token that was not revoked.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch("SELECT * FROM tokens WHERE id = $1 AND revoked_at IS NULL", number)
        return _token(rows[0]) if rows else None

    async def revoke(self, number: int) -> bool:
        """Let a token be good for nothing from now on, and its sessions with it; false: there is none.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_REVOKE, number)
            await connection.execute("DELETE FROM sessions WHERE token = $1", number)
        return bool(rows)

    async def _held(self, sql: str, digest: bytes) -> Held | None:
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(sql, digest)
            if not rows:
                return None
            row = rows[0]
            if row["is_good"] and row["is_old"] is not False:
                await connection.execute(_USED, row["id"])
        return Held(token=row["id"], name=row["name"], role=row["role"], is_good=row["is_good"])


def _token(row: Row) -> Token:
    return Token(**{name: row[name] for name in Token.__struct_fields__})
