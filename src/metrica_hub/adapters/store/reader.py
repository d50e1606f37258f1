"""What the API, the page and the metrics ask of Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.records import Scalar, Vitals
from metrica_hub.adapters.store.pool import borrowed
from metrica_hub.adapters.store.rows import instant
from metrica_hub.decisions.fleet_state import DeviceState, EventRow, Refused, connection_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from metrica_hub.adapters.store.pool import Pool, Row

_DEVICES: Final = "SELECT * FROM devices"
_EVENTS: Final = "SELECT * FROM events"

_DETAIL: Final = msgspec.json.Decoder(dict[str, Scalar])


class Reader:
    """Reads only; may be used by any number of requests at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def answers(self) -> None:
        """Return when Postgres answered.

        Raises:
            StoreAway: it does not.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute("SELECT 1")

    async def devices(self, *, after: str, limit: int) -> list[DeviceState]:
        """Return up to ``limit`` devices by name, those behind ``after``."""
        return _devices(await self._fetch(f"{_DEVICES} WHERE device > $1 ORDER BY device LIMIT $2", after, limit))

    async def device(self, device: str) -> DeviceState | None:
        """Return one device."""
        found = _devices(await self._fetch(f"{_DEVICES} WHERE device = $1", device))
        return found[0] if found else None

    async def events(self, *, device: str | None, before: int, limit: int) -> list[EventRow]:
        """Return up to ``limit`` events older than the cursor ``before``, newest first."""
        if device is None:
            return _events(
                await self._fetch(f"{_EVENTS} WHERE cursor < $1 ORDER BY cursor DESC LIMIT $2", before, limit)
            )
        return _events(
            await self._fetch(
                f"{_EVENTS} WHERE device = $3 AND cursor < $1 ORDER BY cursor DESC LIMIT $2",
                before,
                limit,
                device,
            )
        )

    async def changed_devices(self, *, after: int, limit: int) -> list[DeviceState]:
        """Return up to ``limit`` devices that changed after ``after``, in the order of their changes."""
        return _devices(await self._fetch(f"{_DEVICES} WHERE change > $1 ORDER BY change LIMIT $2", after, limit))

    async def new_events(self, *, after: int, limit: int) -> list[EventRow]:
        """Return up to ``limit`` events after the cursor ``after``, oldest first."""
        return _events(await self._fetch(f"{_EVENTS} WHERE cursor > $1 ORDER BY cursor LIMIT $2", after, limit))

    async def _fetch(self, sql: str, *parameters: object) -> list[Row]:
        async with borrowed(self._pool) as connection:
            return await connection.fetch(sql, *parameters)


def _devices(rows: Iterable[Row]) -> list[DeviceState]:
    return [_device(row) for row in rows]


def _events(rows: Iterable[Row]) -> list[EventRow]:
    return [_event(row) for row in rows]


def _device(row: Row) -> DeviceState:
    return DeviceState(
        device=row["device"],
        connection=connection_of(row["presence"], row["last_seen_at"]),
        connection_reason=row["presence_reason"],
        connection_at=_to_ms(row["presence_at"]),
        role=row["role"],
        tags=tuple(row["tags"]),
        mode=row["mode"],
        commit=row["commit"],
        release=row["release"],
        wanted_commit=row["wanted_commit"],
        phase=row["phase"],
        reason=row["reason"],
        message=row["message"],
        refused=_refused(row),
        agent_version=row["agent_version"],
        boot_id=row["boot_id"],
        uptime_s=row["uptime_s"],
        vitals=Vitals(**{name: row[name] for name in Vitals.__struct_fields__}),
        status_at=_to_ms(row["status_at"]),
        first_seen_at=_to_ms(row["first_seen_at"]) or row["first_seen_at"],
        last_seen_at=_to_ms(row["last_seen_at"]),
        change=row["change"],
    )


def _refused(row: Row) -> Refused | None:
    if row["refused_commit"] is None:
        return None
    return Refused(commit=row["refused_commit"], reason=row["refused_reason"], message=row["refused_message"] or "")


def _event(row: Row) -> EventRow:
    return EventRow(
        cursor=row["cursor"],
        device=row["device"],
        stream=row["stream"].hex,
        seq=row["seq"],
        received_at=_to_ms(row["received_at"]) or row["received_at"],
        at=_to_ms(row["at"]),
        uptime_s=row["uptime_s"],
        boot_id=row["boot_id"],
        kind=row["kind"],
        reason=row["reason"],
        message=row["message"],
        commit=row["commit"],
        release=row["release"],
        detail=_DETAIL.decode(row["detail"]),
    )


def _to_ms(at: datetime | None) -> datetime | None:
    # Times outside the bus have at most milliseconds (CONVENTIONS 3.1, 2).
    # Infinity, as older hubs stored it, is no time at all.
    at = instant(at)
    return None if at is None else at.replace(microsecond=at.microsecond // 1000 * 1000)
