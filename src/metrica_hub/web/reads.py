"""What the web asks of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from metrica_hub.decisions.fleet_state import ALL, Selection

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from metrica_hub.decisions.fleet_state import DeviceState, EventRow, Running, VitalsPoint


class Reads(Protocol):
    """Each may raise ``StoreAway``, which becomes a 503."""

    async def answers(self) -> None:
        """Return when the database answered."""
        ...

    async def devices(self, *, after: str, limit: int, wanted: Selection = ALL) -> list[DeviceState]:
        """Return devices by name, of the ``wanted`` ones those behind ``after``."""
        ...

    async def device(self, device: str) -> DeviceState | None:
        """Return one device."""
        ...

    async def running(self, device: str) -> Running | None:
        """Return what runs on a device, as it said last."""
        ...

    async def events(self, *, device: str | None, before: int, limit: int, kind: str | None = None) -> list[EventRow]:
        """Return events older than a cursor, newest first; of a kind, or of all that begin with it."""
        ...

    async def changed_devices(self, *, after: int, limit: int) -> list[DeviceState]:
        """Return devices that changed after a cursor, in order."""
        ...

    async def new_events(self, *, after: int, limit: int) -> list[EventRow]:
        """Return events after a cursor, oldest first."""
        ...

    async def vitals(self, device: str, *, since: datetime, width: timedelta) -> list[VitalsPoint]:
        """Return what a device was like in each ``width`` since then, oldest first."""
        ...
