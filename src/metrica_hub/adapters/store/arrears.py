"""Whose records do not arrive: what a device has said against what is stored of its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.pool import borrowed
from metrica_hub.decisions.arrears import Owed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_hub.adapters.store.pool import Pool

# Heard: within three heartbeats, and a minute more.
_OWED: Final = """
SELECT device, replace(devices.stream::text, '-', '') AS stream, coalesce(stored_seq, 0) AS stored, said
FROM devices
LEFT JOIN streams USING (device, stream)
CROSS JOIN LATERAL (SELECT greatest(coalesce(last_seq, 0), coalesce(upper(ahead), 1) - 1) AS said) AS known
WHERE devices.stream IS NOT NULL AND said > coalesce(stored_seq, 0)
  AND last_seen_at > now() - make_interval(secs => 3 * coalesce(heartbeat_s, 60) + 60)
ORDER BY device
"""


class Arrears:
    """Reads them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def owed(self) -> Sequence[Owed]:
        """Return the devices that are heard, and have said more than is stored without a gap.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_OWED)
        return [Owed(row["device"], row["stream"], row["stored"], row["said"]) for row in rows]
