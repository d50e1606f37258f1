"""What the API, the page and the metrics ask of Postgres."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.identity import StreamId
from metrica_fleet.messages import Service
from metrica_fleet.records import Scalar
from metrica_hub.adapters.store.device_rows import DEVICE_COLUMNS, device_of, shown_at
from metrica_hub.adapters.store.pool import borrowed
from metrica_hub.adapters.store.queries import statement
from metrica_hub.decisions.day import TROUBLES, Day
from metrica_hub.decisions.fleet_state import (
    ALL,
    DeviceState,
    EventRow,
    Running,
    Selection,
    VitalsPoint,
)
from metrica_hub.decisions.tidings import LASTS, TOLD, Tiding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from metrica_fleet.identity import DeviceId
    from metrica_hub.adapters.store.pool import Pool, Row

_DEVICES: Final = f"SELECT {DEVICE_COLUMNS} FROM devices"  # noqa: S608 - names of our own
_SERVICES: Final = "SELECT * FROM services WHERE device = $1"
_EVENTS: Final = "SELECT * FROM events"
_LATEST_STREAMS: Final = """
SELECT DISTINCT ON (device) device, stream, stored_seq FROM streams
WHERE device = ANY($1::text[]) ORDER BY device, updated_at DESC
"""
_MOVED_WITHIN: Final = "SELECT DISTINCT device FROM streams WHERE updated_at > now() - $1::interval"

_LATEST: Final = timedelta(days=40)
"""How long after its own time a heartbeat may come and still stand there, as in what is summed up."""
_SUMS: Final = {timedelta(minutes=5): "heartbeats_5m_sums", timedelta(hours=1): "heartbeats_1h_sums"}
_NO_SUMS: Final = "(SELECT * FROM heartbeats_5m_sums WHERE false) AS none"

_AMONG: Final = 50_000
"""So many events, the newest, are looked through for what was told of late: a hub that starts must not wait long."""
_TIDINGS: Final = """
SELECT device, kind, max(received_at) AS at
FROM (SELECT device, kind, received_at FROM events ORDER BY cursor DESC LIMIT $3) AS newest
WHERE kind = ANY($1::text[]) AND received_at > now() - $2::interval
GROUP BY device, kind
"""

_DETAIL: Final = msgspec.json.Decoder(dict[str, Scalar])
_RUNNING: Final = msgspec.json.Decoder(tuple[Service, ...])


class Reader:
    """Reads only; may be used by any number of requests at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._selected = statement("get_devices").replace("{columns}", DEVICE_COLUMNS)
        self._vitals = statement("read_vitals")
        self._days = statement("read_days")

    async def answers(self) -> None:
        """Return when Postgres answered.

        Raises:
            StoreAway: it does not.
        """
        async with borrowed(self._pool) as connection:
            await connection.execute("SELECT 1")

    async def devices(self, *, after: str, limit: int, wanted: Selection = ALL) -> list[DeviceState]:
        """Return up to ``limit`` devices by name, of the ``wanted`` ones those behind ``after``."""
        return _devices(await self._fetch(self._selected, after, limit, *msgspec.structs.astuple(wanted)))

    async def device(self, device: str) -> DeviceState | None:
        """Return one device."""
        found = _devices(await self._fetch(f"{_DEVICES} WHERE device = $1", device))
        return found[0] if found else None

    async def running(self, device: str) -> Running | None:
        """Return what runs on a device, as it said last; ``None``: it never did."""
        found = await self._fetch(_SERVICES, device)
        return _running(found[0]) if found else None

    async def events(self, *, device: str | None, before: int, limit: int, kind: str | None = None) -> list[EventRow]:
        """Return up to ``limit`` events older than the cursor ``before``, newest first.

        Args:
            device: of this one only.
            kind: of this kind only; "release" is all kinds that begin with "release.".
            before: a cursor.
            limit: at most so many.
        """
        meant, values = ["cursor < $1"], list[object]((before, limit))
        if device is not None:
            values.append(device)
            meant.append(f"device = ${len(values)}")
        if kind is not None:
            values.append(kind)
            meant.append(f"(kind = ${len(values)} OR starts_with(kind, ${len(values)} || '.'))")
        sql = f"{_EVENTS} WHERE {' AND '.join(meant)} ORDER BY cursor DESC LIMIT $2"
        return _events(await self._fetch(sql, *values))

    async def changed_devices(self, *, after: int, limit: int) -> list[DeviceState]:
        """Return up to ``limit`` devices that changed after ``after``, in the order of their changes."""
        return _devices(await self._fetch(f"{_DEVICES} WHERE change > $1 ORDER BY change LIMIT $2", after, limit))

    async def new_events(self, *, after: int, limit: int) -> list[EventRow]:
        """Return up to ``limit`` events after the cursor ``after``, oldest first."""
        return _events(await self._fetch(f"{_EVENTS} WHERE cursor > $1 ORDER BY cursor LIMIT $2", after, limit))

    async def tidings(self) -> list[Tiding]:
        """Return what devices told of late, of each kind the last."""
        rows = await self._fetch(_TIDINGS, sorted(TOLD), LASTS, _AMONG)
        return [Tiding(row["device"], row["kind"], shown_at(row["at"]) or row["at"]) for row in rows]

    async def vitals(self, device: str, *, since: datetime, width: timedelta) -> list[VitalsPoint]:
        """Return what ``device`` was like in each ``width`` since then, oldest first; not where it was not heard.

        What is summed up is read as such where it is as wide; the rest, and what came since, from the heartbeats.
        """
        sums = _SUMS.get(width)
        sql = self._vitals.replace("{sums}", sums or _NO_SUMS)
        sql = sql.replace("{upto}", "(SELECT upto FROM known)" if sums else "$2")
        return [_point(row) for row in await self._fetch(sql, device, since, width, _LATEST)]

    async def days(self) -> dict[str, Day]:
        """Return the last 24 hours of each device that was heard in them, or had trouble."""
        rows = await self._fetch(self._days, list(TROUBLES))
        return {row["device"]: Day(row["heard"], row["troubled"]) for row in rows}

    async def latest_streams(self, devices: Collection[DeviceId]) -> dict[DeviceId, tuple[StreamId, int]]:
        """Return of each device the stream that moved last, and its watermark."""
        rows = await self._fetch(_LATEST_STREAMS, list(devices))
        return {row["device"]: (StreamId(row["stream"].hex), row["stored_seq"]) for row in rows}

    async def moved_within(self, seconds: float) -> list[DeviceId]:
        """Return the devices that have a stream which moved within the last ``seconds``."""
        return [row["device"] for row in await self._fetch(_MOVED_WITHIN, timedelta(seconds=seconds))]

    async def _fetch(self, sql: str, *parameters: object) -> list[Row]:
        async with borrowed(self._pool) as connection:
            return await connection.fetch(sql, *parameters)


def _devices(rows: Iterable[Row]) -> list[DeviceState]:
    return [device_of(row[:]) for row in rows]


def _events(rows: Iterable[Row]) -> list[EventRow]:
    return [_event(row) for row in rows]


def _running(row: Row) -> Running:
    return Running(
        services=_RUNNING.decode(row["services"]),
        services_at=shown_at(row["received_at"]) or row["received_at"],
        services_untold=row["untold"],
        engine_answers=row["engine_answers"],
    )


def _point(row: Row) -> VitalsPoint:
    return VitalsPoint(at=row["begins"], **{name: row[name] for name in VitalsPoint.__struct_fields__ if name != "at"})


def _event(row: Row) -> EventRow:
    return EventRow(
        cursor=row["cursor"],
        device=row["device"],
        stream=row["stream"].hex,
        seq=row["seq"],
        received_at=shown_at(row["received_at"]) or row["received_at"],
        at=shown_at(row["at"]),
        uptime_s=row["uptime_s"],
        boot_id=row["boot_id"],
        kind=row["kind"],
        reason=row["reason"],
        message=row["message"],
        commit=row["commit"],
        release=row["release"],
        detail=_DETAIL.decode(row["detail"]),
    )
