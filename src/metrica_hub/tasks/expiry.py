"""Looks now and then whose certificate ends soon. Only the hub that leads does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_hub.decisions.expiry import Outlook, Term, outlook
from metrica_hub.tasks.lookout import looking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

EVERY_S: Final = 15.0
"""A hub that has begun to lead tells soon, although the days that this is about are long."""

_log = structlog.get_logger()


class Source(Protocol):
    """What is asked of the database."""

    async def terms(self) -> Sequence[Term]:
        """Return for how long each device's newest certificate is good, but for revoked ones. Raises StoreAway."""
        ...


class Hub(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads."""
        ...


class Display(Protocol):
    """Who shows it."""

    def show(self, found: Outlook) -> None:
        """Show this until something else is found."""
        ...


class Registrar:
    """The loop's surroundings."""

    def __init__(
        self,
        source: Source,
        display: Display,
        *,
        hub: Hub,
        now: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._source = source
        self._display = display
        self._hub = hub
        self._now = now
        self._chance = chance
        self._told: set[str] = set()

    async def run(self) -> None:
        """Look for ever."""
        await looking(self.look, every_s=EVERY_S, unknown="certificates.unknown", chance=self._chance)

    async def look(self) -> None:
        """Look once, and tell of a device when it is new. Raises StoreAway."""
        found = outlook(await self._source.terms() if self._hub.leads is True else (), self._now())
        self._display.show(found)
        for device in sorted(found.expiring.keys() - self._told):
            ends = found.expiring[device].isoformat(timespec="seconds")
            _log.warning("certificate.expires", device=device, not_after=ends)
        self._told = set(found.expiring)
