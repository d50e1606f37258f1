"""Who says more than any device would: one client that floods the bus is to be found at once, by name.

A device says two things at a heartbeat, at most, and sends a backlog at no more than 20 records a second
(metrica_agent.decisions.pace).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

WINDOW_S: Final = 10.0
LOUD_PER_S: Final = 100.0
"""Messages a second of one name, over a window."""
MOST_LOUD: Final = 10
"""So many are named, the loudest: a label has a bounded set of values."""
MOST_NAMES: Final = 20_000
"""Names that are counted in a window: who floods may invent as many as it likes."""
OTHERS: Final = "_others"
"""All that are not among them. No device has such a name: ``metrica_fleet.identity``."""


class Loudness:
    """Counts in windows; what was loud in the last whole window is loud."""

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._counts: Counter[str] = Counter()
        self._loud: tuple[tuple[str, float], ...] = ()

    def heard(self, names: Iterable[str], now_s: float) -> None:
        """Count messages by whose topic they came on."""
        self._turn(now_s)
        counts = self._counts
        if len(counts) < MOST_NAMES:
            counts.update(names)
        else:
            counts.update(name if name in counts else OTHERS for name in names)

    def loud(self, now_s: float) -> tuple[tuple[str, float], ...]:
        """Return the loudest first, each with its messages a second; nobody, when nothing was heard of late."""
        self._turn(now_s)
        return self._loud

    def _turn(self, now_s: float) -> None:
        """Begin a new window, if it is time."""
        passed_s = now_s - self._began_s
        if passed_s < WINDOW_S:
            return
        rates = ((name, count / passed_s) for name, count in self._counts.most_common(MOST_LOUD))
        self._loud = tuple((name, rate) for name, rate in rates if rate >= LOUD_PER_S)
        self._counts.clear()
        self._began_s = now_s
