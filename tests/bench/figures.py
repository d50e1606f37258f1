"""Figures, and how they are shown."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def boot_s() -> float:
    """Return the seconds since boot, on the clock that agents write into their events."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of ``values`` do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class Table:
    """Rows of a name and a figure."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, str]] = []

    def row(self, name: str, figure: str) -> None:
        """Add a row."""
        self._rows.append((name, figure))

    def spread(self, name: str, values: Sequence[float], unit: str = "s", digits: int = 2) -> None:
        """Add a row with the median and the extremes of ``values``."""
        low, middle, high = (f"{one:.{digits}f}" for one in (min(values), statistics.median(values), max(values)))
        self.row(name, f"median {middle} {unit} (from {low} to {high}, n = {len(values)})")

    def __str__(self) -> str:
        width = max((len(name) for name, _ in self._rows), default=0)
        return "\n".join([f"== {self._title}", *(f"  {name:<{width}}  {figure}" for name, figure in self._rows)])
