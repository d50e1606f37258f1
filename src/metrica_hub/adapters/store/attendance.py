"""What the hub that leads concludes about devices, in their rows: read when it begins to lead, written on change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.identity import DeviceId
from metrica_fleet.messages import Presence
from metrica_hub.adapters.store.pool import COMMIT_LOCK, borrowed, call, transaction
from metrica_hub.adapters.store.queries import statement
from metrica_hub.adapters.store.rows import columns_of, instant
from metrica_hub.decisions.attendance import Known, Verdict
from metrica_hub.decisions.fleet_state import Claimant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metrica_hub.adapters.store.pool import Pool, Row

_KNOWN: Final = """
SELECT device, presence, presence_reason, presence_connection, presence_boot_id, agent_version, heartbeat_s,
       hearing, hearing_at, flapping_since, claimed_since, claimants
FROM devices
"""
_CLAIMANTS: Final = msgspec.json.Decoder(tuple[Claimant, ...])


class Register:
    """Reads and writes the verdicts."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._put = statement("put_verdicts")

    async def attended(self) -> Sequence[Known]:
        """Return what is known of every device.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            return [_known(row) for row in await connection.fetch(_KNOWN)]

    async def put_verdicts(self, verdicts: Mapping[DeviceId, Verdict]) -> None:
        """Write down what was concluded, and wake who watches.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        rows = [_row(device, verdict) for device, verdict in sorted(verdicts.items())]
        # Locked as each batch: rows are locked in no order, changes come in order.
        async with transaction(self._pool, lock=COMMIT_LOCK) as connection:
            await connection.execute(self._put, *columns_of(rows))
            await call(connection)


def _row(device: DeviceId, verdict: Verdict) -> tuple[object, ...]:
    claimants = msgspec.json.encode(verdict.claimants).decode()
    return (
        device,
        verdict.hearing,
        verdict.hearing_at,
        verdict.flapping_since,
        verdict.claimed_since,
        claimants,
    )


def _known(row: Row) -> Known:
    return Known(
        device=DeviceId(row["device"]),
        word=_word(row),
        heartbeat_s=row["heartbeat_s"],
        verdict=Verdict(
            hearing=row["hearing"],
            hearing_at=instant(row["hearing_at"]),
            flapping_since=instant(row["flapping_since"]),
            claimed_since=instant(row["claimed_since"]),
            claimants=_CLAIMANTS.decode(row["claimants"]),
        ),
    )


def _word(row: Row) -> Presence | None:
    if row["presence"] is None:
        return None
    return Presence(
        device=row["device"],
        state=row["presence"],
        reason=row["presence_reason"] or "unknown",
        boot_id=row["presence_boot_id"] or "",
        connection=row["presence_connection"] or 0,
        agent_version=row["agent_version"] or "",
    )
