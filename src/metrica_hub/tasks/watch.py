"""Watches the database for changes and hands them to whoever shows them.

Level-triggered: the wake-up says only that something changed. It is cleared before looking, and the question is always
"what is newer than what I have seen", so a lost wake-up costs one interval and never a change.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_hub.errors import StoreAway
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_hub.decisions.fleet_state import DeviceState, EventRow
    from metrica_hub.decisions.tidings import Tiding

_PAGE: Final = 500
_LOOK_EVERY_S: Final = 5.0
_REST_S: Final = 0.1
"""Between two looks: nobody sees faster, and a hub that commits a hundred batches a second has other things to do."""

_log = structlog.get_logger()


class Devices(Protocol):
    """What watching asks of the database about devices."""

    async def changed_devices(self, *, after: int, limit: int) -> list[DeviceState]:
        """Return devices that changed after a cursor, in order."""
        ...


class Events(Protocol):
    """What it asks about events."""

    async def new_events(self, *, after: int, limit: int) -> list[EventRow]:
        """Return events after a cursor, in order."""
        ...

    async def events(self, *, device: str | None, before: int, limit: int) -> list[EventRow]:
        """Return events before a cursor, newest first."""
        ...

    async def tidings(self) -> list[Tiding]:
        """Return what devices told of late, of each kind the last."""
        ...


class Display(Protocol):
    """Who shows it."""

    def show_devices(self, devices: Sequence[DeviceState]) -> None:
        """Show the newest state of these devices."""
        ...

    def show_events(self, events: Sequence[EventRow]) -> None:
        """Show these events, oldest first."""
        ...

    def recall(self, tidings: Sequence[Tiding]) -> None:
        """Take in what was told before this hub began."""
        ...

    def stale(self, *, stale: bool) -> None:
        """Say whether what is shown may be old, because the database is away."""
        ...


class Watcher:
    """The loop's surroundings."""

    def __init__(self, devices: Devices, events: Events, display: Display, *, recent: int) -> None:
        self._devices = devices
        self._events = events
        self._display = display
        self._recent = recent
        self._wake = Wake()
        self._change = 0
        self._cursor: int | None = None

    def wake(self) -> None:
        """Something changed."""
        self._wake.nudge()

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except StoreAway as error:
                self._display.stale(stale=True)
                _log.info("watch.blind", error_kind=error.reason, error=error.message)
            else:
                self._display.stale(stale=False)
            await asyncio.sleep(_REST_S)
            await self._wake.wait(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Show everything that is newer than what was shown."""
        while devices := await self._devices.changed_devices(after=self._change, limit=_PAGE):
            self._change = devices[-1].change
            self._display.show_devices(devices)
        if self._cursor is None:
            newest = await self._events.events(device=None, before=2**63 - 1, limit=self._recent)
            self._display.recall(await self._events.tidings())
            self._cursor = newest[0].cursor if newest else 0
            self._display.show_events(newest[::-1])
        while events := await self._events.new_events(after=self._cursor, limit=_PAGE):
            self._cursor = events[-1].cursor
            self._display.show_events(events)
