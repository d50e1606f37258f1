"""What a task needs that tells what happened: a clock that says when, and somebody who writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from metrica_agent.decisions.world import Saying, Stamp


class Clock(Protocol):
    """The boot clock, and what can be said about when something happened."""

    def now_s(self) -> float: ...
    def stamp(self) -> Stamp: ...


class Teller(Protocol):
    """Where events are written down; the answer is empty when they could not be."""

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]: ...
