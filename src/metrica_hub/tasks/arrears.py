"""Looks now and then whose records do not arrive although the device is heard. Only the hub that leads does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_hub.decisions.arrears import Arrear, Owed, missing, weighed
from metrica_hub.tasks.lookout import looking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

EVERY_S: Final = 5.0
"""A gap is found at one look and told at another: with what Prometheus and Alertmanager take, within three minutes."""

_log = structlog.get_logger()


class Source(Protocol):
    """What is asked of the database."""

    async def owed(self) -> Sequence[Owed]:
        """Return the devices that are heard, and have said more than is stored. Raises StoreAway."""
        ...


class Hub(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads."""
        ...


class Display(Protocol):
    """Who shows it."""

    def show(self, missing: Mapping[str, int]) -> None:
        """Show of how many numbers each device's stream is short."""
        ...


class Accountant:
    """The loop's surroundings."""

    def __init__(
        self,
        source: Source,
        display: Display,
        *,
        hub: Hub,
        now_s: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._source = source
        self._display = display
        self._hub = hub
        self._now_s = now_s
        self._chance = chance
        self._arrears: dict[str, Arrear] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Look for ever."""
        await looking(self.look, every_s=EVERY_S, unknown="arrears.unknown", chance=self._chance)

    async def look(self) -> None:
        """Look once, and tell of a device when it is new. Raises StoreAway."""
        owed = await self._source.owed() if self._hub.leads is True else ()
        now_s = self._now_s()
        self._arrears = weighed(self._arrears, owed, now_s)
        found = missing(self._arrears, now_s)
        self._display.show(found)
        for device in sorted(found.keys() - self._told):
            stored = self._arrears[device].owed.stored
            _log.warning("records.missing", device=device, stored=stored, missing=found[device])
        self._told = set(found)
