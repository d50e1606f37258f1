"""Which devices Prometheus reaches, in memory: kept current by whoever consults it, read by the API and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metrica_hub.decisions.lamp import Lamp, Scraped, lamp_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


class Lamps:
    """One a device."""

    def __init__(self, *, every_s: float, now: Callable[[], datetime]) -> None:
        """``every_s``: how often Prometheus is asked."""
        self._every_s = every_s
        self._now = now
        self._scraped = Scraped()

    def show(self, scraped: Scraped) -> None:
        """Put what Prometheus told."""
        self._scraped = scraped

    def of(self, device: str) -> Lamp:
        """Return the lamp of ``device`` as it is now."""
        return lamp_of(self._scraped, device, self._now(), every_s=self._every_s)


def unlit(_: str) -> None:
    """Return the lamp of a device where no Prometheus is asked: none."""
