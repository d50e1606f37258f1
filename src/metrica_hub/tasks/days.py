"""Keeps at hand what the last 24 hours of each device were like: counted by the database, every few minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from metrica_hub.tasks.lookout import looking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metrica_hub.decisions.day import Day

EVERY_S: Final = 120.0


class Source(Protocol):
    """What is asked of the database."""

    async def days(self) -> Mapping[str, Day]:
        """Return the last 24 hours of each device. Raises StoreAway."""
        ...


class Display(Protocol):
    """Who shows it."""

    def show_days(self, days: Mapping[str, Day]) -> None:
        """Show these."""
        ...


class Diarist:
    """The loop's surroundings."""

    def __init__(self, source: Source, display: Display, *, chance: Callable[[], float]) -> None:
        self._source = source
        self._display = display
        self._chance = chance

    async def run(self) -> None:
        """Keep it so for ever."""
        await looking(self._look, every_s=EVERY_S, unknown="days.unknown", chance=self._chance)

    async def _look(self) -> None:
        self._display.show_days(await self._source.days())
