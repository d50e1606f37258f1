"""Waits for commands of the hub. What is done with one is imported when the first comes: a device at rest has none.

The hub sends a command until it is answered; so what is not heard, or not kept here because there are too many, costs
time and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from metrica_agent.pulse import Pulse
from metrica_fleet.errors import NotNow
from metrica_fleet.retry import full_jitter

if TYPE_CHECKING:
    from metrica_agent.decisions.commanding import Book, Taken
    from metrica_agent.decisions.log_lines import LogsAsked
    from metrica_agent.decisions.world import Decision, Memory, Release, Saying, Stamp
    from metrica_agent.tasks.notary import Notary
    from metrica_agent.tasks.orders import Orders
    from metrica_agent.wake import Wake
    from metrica_fleet.identity import BootId, DeviceId, FleetId
    from metrica_fleet.messages import Answer
    from metrica_fleet.records import Event, Vitals
    from metrica_fleet.signed import Signed

log = structlog.stdlib.get_logger(__name__)

HEARD_MOST = 32
"""Commands that wait to be looked at; of more the oldest go, and come again."""
BROKEN_BASE_S = 2.0
BROKEN_CAP_S = 60.0


class Clock(Protocol):
    """The boot clock, and what can be said about when something happened."""

    @property
    def boot_id(self) -> BootId: ...

    def stamp(self) -> Stamp: ...


class Ledger(Protocol):
    """Where it is written down which commands were taken, and what may be told of the rest. All may raise NotNow."""

    async def commands(self) -> Book: ...
    async def put_command(self, stamp: Stamp, taken: Taken, *, sayings: Sequence[Saying] = ()) -> Book: ...
    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]: ...
    async def decisions(self, limit: int) -> tuple[tuple[Stamp, Decision], ...]: ...
    async def recent_events(self, limit: int) -> tuple[Event, ...]: ...


class Engine(Protocol):
    """What the container engine can tell of its containers."""

    def logs(self, service: str, asked: LogsAsked) -> AsyncIterator[tuple[str, ...]]:
        """Yield what a service wrote, some lines at a time. Raises NotNow."""
        ...

    async def described(self) -> Mapping[str, str]:
        """Return what it says of itself, by file name."""
        ...


@dataclass(slots=True, kw_only=True)
class CommandTask:
    """What is there for commands, and those that were heard."""

    fleet: FleetId
    device: DeviceId
    agent_version: str
    notary: Notary
    memory: Callable[[], Memory]
    stopped: Callable[[], str | None]
    """What stop is in force, in words; then no command changes anything."""
    ledger: Ledger
    clock: Clock
    orders: Orders
    look: Callable[[], Awaitable[str]]
    """Asks the Git remotes now; returns what came of it. Raises NotNow."""
    engine: Engine
    running: Callable[[], Awaitable[Release | None]]
    """Returns the release that is to run, if it is on this disk. Raises NotNow."""
    vitals: Callable[[], Awaitable[Vitals]]
    reboot: Callable[[], Awaitable[None]]
    """Starts the machine anew. Raises NotNow or Unusable."""
    answer: Callable[[Answer], Awaitable[None]]
    """Publishes an answer, and returns when the broker has it. Raises NotNow."""
    on_told: Callable[[], None]
    """Called after something was written down that is to be reported."""
    wake: Wake
    chance: Callable[[], float]
    pulse: Pulse = field(default_factory=Pulse)
    heard: deque[Signed] = field(default_factory=lambda: deque["Signed"](maxlen=HEARD_MOST))
    is_linked: bool = False

    def hear(self, signed: Signed) -> None:
        """Take a command of the bus, whoever sent it."""
        self.heard.append(signed)
        self.wake.nudge()

    def linked(self, stands: bool) -> None:  # noqa: FBT001 - a callback
        """Note whether a connection to the broker stands."""
        self.is_linked = stands
        if stands:
            self.wake.nudge()

    async def run(self) -> None:
        """Take commands until cancelled."""
        book = await self._remembered()
        while not self.heard and all(taken.state != "running" for taken in book.taken.values()):
            self.wake.clear()
            await self.wake.wait_until(None)
        from metrica_agent.tasks.commanding import Commander  # noqa: PLC0415 - see above

        await Commander(self, book).run()

    async def _remembered(self) -> Book:
        attempt = 0
        while True:
            try:
                return await self.ledger.commands()
            except NotNow as error:
                log.warning("commands_unread", reason=error.reason, error=error.message)
            attempt += 1
            self.pulse.back_within(BROKEN_CAP_S, "waits for the ledger")
            await asyncio.sleep(full_jitter(attempt, self.chance(), BROKEN_BASE_S, BROKEN_CAP_S))
