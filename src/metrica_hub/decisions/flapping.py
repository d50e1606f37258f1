"""Whether a device comes and goes too often to be told each time.

Each new connection, and each return from silence, counts one; what was counted is halved every half-life (5 minutes).
From 3.5 on the device flaps: four connections within a minute and a half, or one every two minutes for a quarter of an
hour. Below 1 it flaps no more: after 9 quiet minutes, 15 at the worst. Between the two nothing changes, so that the
verdict does not flap itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HALF_LIFE_S: Final = 300.0
_BEGINS: Final = 3.5
_ENDS: Final = 1.0
_MOST: Final = 8.0
"""More is not counted: however wild it was, calm is believed after three half-lives."""


@dataclass(frozen=True, slots=True)
class Unrest:
    """How much a device comes and goes."""

    count: float = 0.0
    at_s: float = 0.0
    flaps: bool = False


def came(unrest: Unrest, now_s: float, half_life_s: float = HALF_LIFE_S) -> Unrest:
    """Return the unrest after the device came once more."""
    count = min(_MOST, _left(unrest, now_s, half_life_s) + 1.0)
    return Unrest(count, now_s, unrest.flaps or count >= _BEGINS)


def still(unrest: Unrest, now_s: float, half_life_s: float = HALF_LIFE_S) -> Unrest:
    """Return the unrest as it is now: another value only when the flapping is over."""
    if unrest.flaps and (count := _left(unrest, now_s, half_life_s)) < _ENDS:
        return Unrest(count, now_s)
    return unrest


def resumed(now_s: float) -> Unrest:
    """Return the unrest of a device that another hub found flapping: it has to become calm as if it had just begun."""
    return Unrest(_BEGINS, now_s, flaps=True)


def _left(unrest: Unrest, now_s: float, half_life_s: float) -> float:
    return unrest.count * 0.5 ** ((now_s - unrest.at_s) / half_life_s)
