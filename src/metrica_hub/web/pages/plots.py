"""Vitals -> lines, drawn here: whole without JavaScript, and nothing of the kind has to be shipped to a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metrica_hub.web.pages.timeline import MARKS, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from metrica_hub.decisions.fleet_state import EventRow, VitalsPoint
    from metrica_hub.web.vitals import VitalsHistory

WIDTH: Final = 600.0
HEIGHT: Final = 80.0
_GAP_STEPS: Final = 2.5
"""A line that bridged more steps than this would tell of what nobody knows."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An event, on the time axis."""

    x: float
    tone: str
    words: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One quantity over a span."""

    name: str
    unit: str
    path: str
    latest: str
    low: str
    high: str
    top: str
    """What the upper edge stands for."""
    values: str
    """For the cursor: x:value, separated by spaces."""


def plots_of(history: VitalsHistory) -> list[Plot]:
    """Return the plots of everything that the device tells."""
    share = _share_of(history.memory_total_bytes), _share_of(history.disk_total_bytes)
    made = (
        _plot(history, "Heat", "°C", lambda point: point.temperature_celsius, least_top=90),
        _plot(history, "Load", "", lambda point: point.load_1m, least_top=1),
        _plot(history, "Memory used", "%", lambda point: share[0](point.memory_available_bytes), least_top=100),
        _plot(history, "Disk used", "%", lambda point: share[1](point.disk_free_bytes), least_top=100),
    )
    return [plot for plot in made if plot is not None]


def marks_of(history: VitalsHistory, events: Iterable[EventRow]) -> list[Mark]:
    """Return the events that stand on the time axis."""
    return [
        Mark(_x(history, moment_of(event)), _tone(event.kind), f"{moment_of(event):%H:%M} {event.kind}")
        for event in events
        if event.kind in MARKS and history.since <= moment_of(event) <= history.until
    ]


def _plot(
    history: VitalsHistory, name: str, unit: str, value: Callable[[VitalsPoint], float | None], *, least_top: float
) -> Plot | None:
    found = [(point.at, number) for point in history.points if (number := value(point)) is not None]
    if not found:
        return None
    numbers = [number for _, number in found]
    top = max(least_top, *numbers)
    places = [(_x(history, at), HEIGHT * (1 - max(0.0, number) / top)) for at, number in found]
    return Plot(
        name=name,
        unit=unit,
        path=_path(places, WIDTH * _GAP_STEPS * history.step_s / (history.until - history.since).total_seconds()),
        latest=_text(numbers[-1], unit),
        low=_text(min(numbers), unit),
        high=_text(max(numbers), unit),
        top=_text(top, unit),
        values=" ".join(f"{x:.0f}:{number:.3g}" for (x, _), number in zip(places, numbers, strict=True)),
    )


def _path(places: Sequence[tuple[float, float]], gap: float) -> str:
    drawn: list[str] = []
    before: float | None = None
    for x, y in places:
        joins = before is not None and x - before <= gap
        drawn.append(f"L{x:.1f} {y:.1f}" if joins else f"M{x:.1f} {y:.1f}h.1")
        before = x
    return "".join(drawn)


def _x(history: VitalsHistory, at: datetime) -> float:
    share = (at - history.since) / (history.until - history.since)
    return WIDTH * min(1.0, max(0.0, share))


def _share_of(total: int | None) -> Callable[[int | None], float | None]:
    def used(free: int | None) -> float | None:
        return None if free is None or not total else 100 * min(1.0, max(0.0, 1 - free / total))

    return used


def _text(number: float, unit: str) -> str:
    shown = f"{number:.2f}" if not unit else f"{number:.0f}"
    return f"{shown} {unit}".strip()


def _tone(kind: str) -> str:
    word = kind.rpartition(".")[2]
    if word in {"refused", "failed", "entered"}:
        return "bad"
    return {"confirmed": "good", "trial_started": "busy"}.get(word, "off")
