"""Watches over the other loops: looks at their promises, and says of itself that the event loop comes round.

What watches over this task is a thread beside the loop (``adapters/watchman.py``): it feeds the supervisor's watchdog
while this task says that all is well, writes down where everybody stands when not, and ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from metrica_agent.decisions import guarding
from metrica_agent.decisions.guarding import Late, Watching
from metrica_agent.pulse import Pulse

log = structlog.stdlib.get_logger(__name__)


class Clock(Protocol):
    """The boot clock."""

    def now_s(self) -> float: ...


class Watchman(Protocol):
    """Who stands beside the loop."""

    def beat(self, within_s: float, late: tuple[str, ...] = ()) -> None:
        """Say that the loop comes round, again within ``within_s``, and which of its tasks do not."""
        ...

    def tell(self, status: str) -> None:
        """Tell the supervisor, in a few words, how things stand."""
        ...


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long is waited for a loop."""

    look_s: float = guarding.LOOK_S
    blocked_s: float = guarding.BLOCKED_S
    slack_s: float = guarding.SLACK_S


@dataclass(slots=True, kw_only=True)
class GuardTask:
    """The loop that watches over the others."""

    pulses: Mapping[str, Pulse]
    clock: Clock
    watchman: Watchman
    patience: Patience
    status: Callable[[], str]
    _told: tuple[str, ...] = ()

    async def run(self) -> None:
        """Watch until cancelled."""
        watching = Watching(looked_s=self.clock.now_s())
        while True:
            promises = {name: pulse.promise for name, pulse in self.pulses.items()}
            watching = guarding.looked(watching, promises, self.clock.now_s(), self.patience.look_s)
            self._say(guarding.late(watching, self.patience.slack_s))
            await asyncio.sleep(self.patience.look_s)

    def _say(self, late: tuple[Late, ...]) -> None:
        names = tuple(one.task for one in late)
        if names != self._told:
            log.error("tasks_stuck", tasks=", ".join(one.words for one in late) or "none any more")
            self._told = names
        self.watchman.beat(self.patience.blocked_s, tuple(one.words for one in late))
        self.watchman.tell(self.status())
