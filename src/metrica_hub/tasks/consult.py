"""Consults Prometheus, for ever, about which devices it reaches.

Every hub does that serves pages, leader or not: what comes of it is kept in memory, and a page that asks another hub
would say something else while that one is away. It does not wait for somebody to look: the question is one for the
whole fleet, costs Prometheus milliseconds, and whoever opens a page finds the lamp lit, with since when.

Nothing else waits for it. While Prometheus is away that is in the log once, until it answers again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from metrica_fleet.retry import spread
from metrica_hub.decisions.lamp import Scraped, heard
from metrica_hub.errors import PrometheusAway

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from metrica_hub.decisions.lamp import Sample

_log = structlog.get_logger()


class Source(Protocol):
    """Prometheus."""

    async def samples(self) -> Mapping[str, Sample]:
        """Return the newest sample of each device that is scraped; raises ``PrometheusAway``."""
        ...


class Display(Protocol):
    """Who shows it."""

    def show(self, scraped: Scraped) -> None:
        """Show this until something else is heard."""
        ...


class Consultant:
    """The loop's surroundings."""

    def __init__(
        self,
        asking: Callable[[], AbstractAsyncContextManager[Source]],
        display: Display,
        *,
        every_s: float,
        now: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._asking = asking
        self._display = display
        self._every_s = every_s
        self._now = now
        self._chance = chance
        self._scraped = Scraped()
        self._is_away = False

    async def run(self) -> None:
        """Ask for ever."""
        async with self._asking() as source:
            while True:
                await self._ask(source)
                await asyncio.sleep(spread(self._every_s, self._chance(), share=0.2))

    async def _ask(self, source: Source) -> None:
        try:
            samples = await source.samples()
        except PrometheusAway as error:
            if not self._is_away:
                _log.warning("prometheus.away", error_kind=error.reason, error=error.message)
            self._is_away = True
            return
        if self._is_away:
            _log.info("prometheus.back", devices=len(samples))
        self._is_away = False
        self._scraped = heard(self._scraped, samples, self._now())
        self._display.show(self._scraped)
