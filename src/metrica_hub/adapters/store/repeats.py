"""What was answered to requests that may come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.pool import borrowed
from metrica_hub.decisions.repeats import Answered

if TYPE_CHECKING:
    from metrica_hub.adapters.store.pool import Pool

_SWEEP: Final = "DELETE FROM repeats WHERE begun_at < now() - interval '1 day'"
_BEGIN: Final = "INSERT INTO repeats (digest, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING digest"
_FOUND: Final = "SELECT fingerprint, status, location, body FROM repeats WHERE digest = $1"
_END: Final = "UPDATE repeats SET status = $2, location = $3, body = $4 WHERE digest = $1"
_FORGET: Final = "DELETE FROM repeats WHERE digest = $1 AND status IS NULL"


class Repeats:
    """The table."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, digest: bytes, fingerprint: bytes) -> Answered | None:
        """Note that a request begins; return what is known of it if it came before.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute(_SWEEP)
            if await connection.fetch(_BEGIN, digest, fingerprint):
                return None
            rows = await connection.fetch(_FOUND, digest)
        if not rows:  # it failed at this moment, so that it may be tried again: next time
            return Answered(fingerprint=fingerprint, status=None, location=None, body=None)
        row = rows[0]
        return Answered(
            fingerprint=row["fingerprint"], status=row["status"], location=row["location"], body=row["body"]
        )

    async def end(self, digest: bytes, status: int, location: str | None, body: bytes | None) -> None:
        """Keep what was answered.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute(_END, digest, status, location, body)

    async def forget(self, digest: bytes) -> None:
        """Let a request that failed be tried again.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute(_FORGET, digest)
