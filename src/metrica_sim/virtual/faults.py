"""What may go wrong in a world, and when: drawn from the seed before anything runs, so any part can be left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that happens."""

    weight: float
    lasts_s: tuple[float, float] | None = None
    """Shortest and longest; evenly drawn by order of magnitude."""
    amount: int = 1
    """A number from 0 up to this one is drawn for it."""


KINDS: Final[dict[str, Kind]] = {
    # operators
    "push-good": Kind(10),
    "push-slow": Kind(2),
    "push-bad": Kind(8, amount=1000),
    "push-bad-again": Kind(1),
    "push-other-role": Kind(3),
    "push-back": Kind(2),
    "push-force": Kind(1),
    "push-signers": Kind(2),
    "push-forged": Kind(2, (MINUTE_S, 2 * HOUR_S), amount=4),
    "hold": Kind(1, (MINUTE_S, 6 * HOUR_S)),
    "lock": Kind(2, (MINUTE_S, 3 * HOUR_S)),
    "hold-over-lock": Kind(1, (10 * MINUTE_S, HOUR_S)),
    "safe-mode": Kind(1, (MINUTE_S, 6 * HOUR_S)),
    "stop": Kind(2, (10.0, 6 * HOUR_S), amount=9),
    "stop-in-git": Kind(1, (MINUTE_S, 6 * HOUR_S), amount=6),
    "stop-forged": Kind(1, amount=5),
    "rollout-word": Kind(3, (MINUTE_S, 2 * HOUR_S), amount=4),
    "gate-forged": Kind(1, amount=3),
    "command": Kind(5, (MINUTE_S, 2 * HOUR_S), amount=5),
    "command-forged": Kind(1, amount=4),
    # one machine
    "kill": Kind(4),
    "kill-at": Kind(10, amount=400),
    "crash-twice": Kind(3, amount=120),
    "crash-loop": Kind(1, amount=60),
    "restart": Kind(2),
    "power": Kind(5, (1.0, HOUR_S)),
    "power-at-update": Kind(5, (1.0, 10 * MINUTE_S), amount=120),
    "engine-silent": Kind(3, (10.0, 2 * HOUR_S)),
    "engine-restart": Kind(3),
    "container-removed": Kind(3, amount=3),
    "container-stopped": Kind(3, amount=3),
    "container-foreign": Kind(2),
    "container-changed": Kind(1, amount=2),
    "file-edited": Kind(2, amount=2),
    "disk-full": Kind(3, (MINUTE_S, 3 * HOUR_S)),
    "disk-low": Kind(2, (MINUTE_S, 6 * HOUR_S)),
    "heat": Kind(3, (MINUTE_S, 3 * HOUR_S), amount=3),
    "supply-weak": Kind(1, (MINUTE_S, HOUR_S)),
    "memory-short": Kind(1, (MINUTE_S, HOUR_S), amount=2),
    "cut": Kind(4, (MINUTE_S, 12 * HOUR_S)),
    "registry-gone": Kind(2, (MINUTE_S, 2 * HOUR_S)),
    "clock-unknown": Kind(1, (MINUTE_S, DAY_S)),
    "clock-jumps": Kind(1, amount=3),
    "mirror-lost": Kind(1),
    # what all share
    "remote-trouble": Kind(4, (MINUTE_S, 4 * HOUR_S), amount=1000),
    "remote-lags": Kind(2, (MINUTE_S, 6 * HOUR_S)),
    "remote-back": Kind(1, (MINUTE_S, 2 * HOUR_S)),
    "remote-lies": Kind(1, (MINUTE_S, 2 * HOUR_S)),
    "hub-gone": Kind(2, (10.0, 3 * HOUR_S)),
    "hub-killed": Kind(2),
    "database-gone": Kind(2, (10.0, 3 * HOUR_S)),
    "broker-gone": Kind(2, (10.0, 3 * HOUR_S)),
    "broker-wiped": Kind(1),
}


_ENDS: Final = ("nothing", "nothing", "bad", "bad", "poison")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Something that will happen."""

    number: int
    at_s: float
    """After its episode began."""
    kind: str
    target: int
    """Which machine or remote, counted on from 0 and around."""
    lasts_s: float
    amount: int

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.0f} s" if self.lasts_s else ""
        return f"[{self.number}] {self.kind}{lasts}"


@dataclass(frozen=True, slots=True)
class Episode:
    """Some hours of trouble; when they are over all is mended, and everything must come to rest."""

    lasts_s: float
    happens: tuple[Planned, ...]
    ends: str
    """How, when all is well again: with "nothing", a "bad" commit or "poison", and nothing else."""


def episodes(
    random: Random, hours: float, intensity: float, machines: int, kinds: Sequence[str] = ()
) -> tuple[Episode, ...]:
    """Return what happens in ``hours``: in every ``1 / intensity`` hours of each machine one thing, on average.

    Args:
        random: chance.
        hours: of the whole world.
        intensity: how often something happens to each machine, in an hour.
        machines: how many there are.
        kinds: what may happen; empty: all of ``KINDS``.
    """
    chosen = {name: KINDS[name] for name in kinds} or KINDS
    drawn: list[Episode] = []
    left_s, number = hours * HOUR_S, 0
    while left_s > 0:
        lasts_s = min(left_s, _between(random, 2 * HOUR_S, 48 * HOUR_S))
        if random.random() < 0.04:  # noqa: PLR2004 now and then the sites are cut off for weeks
            lasts_s = min(left_s, _between(random, 4 * DAY_S, 30 * DAY_S))
        many = max(1, round(min(intensity * machines * lasts_s / HOUR_S, 400.0)))
        times = sorted(random.uniform(0, lasts_s) for _ in range(many))
        happens = tuple(_drawn(random, chosen, number + place, at_s) for place, at_s in enumerate(times, start=1))
        if lasts_s >= 4 * DAY_S:
            cuts = [
                Planned(number=number + many + place, at_s=0.0, kind="cut", target=place, lasts_s=lasts_s, amount=0)
                for place in range(machines)
            ]
            happens, many = (*cuts, *happens[: 10 * machines]), many + machines
        drawn.append(Episode(lasts_s, happens, ends=random.choice(_ENDS)))
        number += many
        left_s -= lasts_s
    return tuple(drawn)


def _drawn(random: Random, kinds: Mapping[str, Kind], number: int, at_s: float) -> Planned:
    (name,) = random.choices(list(kinds), weights=[kind.weight for kind in kinds.values()])
    kind = kinds[name]
    return Planned(
        number=number,
        at_s=at_s,
        kind=name,
        target=random.randrange(1000),
        lasts_s=_between(random, *kind.lasts_s) if kind.lasts_s else 0.0,
        amount=random.randrange(kind.amount),
    )


def _between(random: Random, least: float, most: float) -> float:
    return math.exp(random.uniform(math.log(least), math.log(most)))
