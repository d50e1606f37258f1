"""The outbox to the bus: stays connected, says who is there, sends what is written, forgets what is stored.

Nothing waits for this task, and this task loses nothing: a record is in the outbox before it is sent, and
goes only when the hub says that it is stored. What is sent and not stored is sent again, from the watermark
on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import structlog
from msgspec import structs

from metrica_agent.decisions import guarding
from metrica_agent.decisions.pace import Pace
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.talk import Link, Talk
from metrica_fleet.errors import NotNow
from metrica_fleet.messages import Presence
from metrica_fleet.records import Vitals
from metrica_fleet.retry import full_jitter, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from metrica_agent.decisions.outbox import Covered
    from metrica_agent.decisions.world import Saying, Stamp
    from metrica_agent.wake import Wake
    from metrica_fleet.identity import BootId, DeviceId, StreamId
    from metrica_fleet.messages import Head, Status
    from metrica_fleet.records import Record

log = structlog.stdlib.get_logger(__name__)


class Clock(Protocol):
    """The boot clock, and what can be said about when something happened."""

    @property
    def boot_id(self) -> BootId:
        """The kernel's boot id."""
        ...

    def now_s(self) -> float:
        """Return the seconds since boot."""
        ...

    def stamp(self) -> Stamp:
        """Return when it is now, for a record."""
        ...


class Outbox(Protocol):
    """What the device has to say and the hub may lack. All but the first three may raise NotNow."""

    @property
    def stream(self) -> StreamId:
        """The stream that the outbox is now."""
        ...

    def stored(self) -> int:
        """Return up to which seq the hub is known to have everything."""
        ...

    def last_seq(self) -> int:
        """Return the highest seq given so far."""
        ...

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        """Append events."""
        ...

    async def heartbeat(self, stamp: Stamp, status: Status) -> int:
        """Append a heartbeat."""
        ...

    async def unsent(self, after_seq: int, limit: int) -> tuple[Record, ...]:
        """Return the next records that the hub is not known to have."""
        ...

    async def forget(self, stream: str, seq: int, *, retained: bool = False) -> Covered:
        """Forget what the hub has."""
        ...

    async def new_stream(self, stamp: Stamp, saying: Saying) -> StreamId:
        """Go on in a new stream, beginning with all that the hub is not known to have."""
        ...

    async def connections(self) -> int:
        """Return a number for a connection, larger than all before."""
        ...

    async def linked(self) -> None:
        """Note that what is in the outbox may be sent from now on."""
        ...

    async def unlinked(self) -> None:
        """Note that nothing is sent any more."""
        ...


class Bus(Protocol):
    """The way to the broker."""

    def session(self, will: Presence) -> AbstractAsyncContextManager[Link]:
        """Connect; ``will`` is published when the connection ends in any way but through ``Link.leave``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How often, and how patiently."""

    heartbeat_s: float = 60.0
    reconnect_base_s: float = 1.0
    reconnect_cap_s: float = 120.0
    stood_s: float = 60.0
    """A connection that lasted so long was a success; two devices of one name soon take it from another."""
    resend_base_s: float = 30.0
    resend_cap_s: float = 600.0


@dataclass(slots=True, kw_only=True)
class ReportTask:
    """What outlives a connection."""

    device: DeviceId
    agent_version: str
    outbox: Outbox
    bus: Bus
    clock: Clock
    vitals: Callable[[], Awaitable[Vitals]]
    status: Callable[[], Status]
    """Where the device stands. What time, outbox and machine have to add is added here."""
    on_head: Callable[[Head], None]
    chance: Callable[[], float]
    wake: Wake
    """To be nudged when there is a new record, or the status changed."""
    slower: Callable[[], float] = lambda: 1
    """How many times rarer heartbeats are now."""
    timing: Timing = field(default_factory=Timing)
    pace: Pace = field(default_factory=Pace)
    on_link: Callable[[bool], None] = lambda _: None
    """Called when the connection came as far as the records, and when it is lost."""
    denied: set[str] = field(default_factory=set[str])
    """Channels that the broker refused the last time: told once, until it takes one again."""
    beats: int = 0
    pulse: Pulse = field(default_factory=Pulse)
    """Of the heartbeats."""
    talking: Pulse = field(default_factory=Pulse)
    """Of the connection."""
    _vitals: Vitals = field(default_factory=Vitals)
    _trouble: str | None = None

    async def run(self) -> None:
        """Report until cancelled. No trouble with the network or the broker ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(), name="heartbeats")
            group.create_task(self._keep_connected(), name="talk")

    async def _beat(self) -> None:
        while True:
            self.pulse.works()
            self._vitals = await self.vitals()
            try:
                await self.outbox.heartbeat(self.clock.stamp(), self.current_status())
            except NotNow as error:
                log.warning("heartbeat_unwritten", reason=error.reason, error=error.message)
            self.beats += 1
            self.wake.nudge()
            pause_s = self.timing.heartbeat_s * self.slower()
            self.pulse.back_within(2 * pause_s, "waits for the next heartbeat")
            await asyncio.sleep(spread(pause_s, self.chance()))

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            self.talking.back_within(self.timing.reconnect_cap_s, "waits to connect again")
            await asyncio.sleep(
                full_jitter(failures, self.chance(), self.timing.reconnect_base_s, self.timing.reconnect_cap_s)
            )
            began_s = self.clock.now_s()
            self.talking.back_within(2 * guarding.NETWORK_S, "connects to the broker")
            try:
                await self._connection()
            except* NotNow as lost:
                self._tell_trouble(lost)
            stood = self.clock.now_s() - began_s >= self.timing.stood_s
            failures = 0 if stood else failures + 1

    async def _connection(self) -> None:
        """Hold one connection, in a task of its own that ends with it.

        No task group here. In Python 3.11 one that waits when its task fails leaves a request for cancellation behind
        in ours, and the next ``asyncio.timeout`` would end us instead of the wait (3.11.2 of Debian 12); and it forgets
        a cancellation of ours that comes together with the failure. What groups inside leave behind ends with the task.
        """
        connection = asyncio.create_task(self._connect(), name="connection")  # noqa: TID251 - owned and awaited here
        try:
            await asyncio.wait([connection])
        finally:
            connection.cancel()
            await asyncio.wait([connection])
            failure = None if connection.cancelled() else connection.exception()
        if failure is not None:
            raise failure
        raise NotNow("the connection was given up by nobody who may", reason="bus-lost")

    async def _connect(self) -> None:
        number = await self.outbox.connections()
        async with self.bus.session(self._presence("offline", "connection-lost", number)) as link:
            try:
                await Talk(self, link).hold(self._presence("online", "connected", number))
            except asyncio.CancelledError:
                await link.leave(self._presence("offline", "shutdown", number))
                raise
            finally:
                self.on_link(False)  # noqa: FBT003 - a callback
                await self.outbox.unlinked()

    def _tell_trouble(self, lost: BaseExceptionGroup[NotNow]) -> None:
        first: BaseException = lost
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        reason = getattr(first, "reason", "unknown")
        if reason != self._trouble:
            log.info("bus_away", reason=reason, error=str(first))
        self._trouble = reason

    def connected(self) -> None:
        """Note that a connection came as far as the records."""
        self._trouble = None
        self.on_link(True)  # noqa: FBT003 - a callback
        log.info("bus_connected")

    def _presence(self, state: str, reason: str, connection: int) -> Presence:
        return Presence(
            device=self.device,
            state="online" if state == "online" else "offline",
            reason=reason,
            boot_id=self.clock.boot_id,
            connection=connection,
            agent_version=self.agent_version,
        )

    def current_status(self) -> Status:
        """Return the status with what time, outbox and machine have to add."""
        stamp = self.clock.stamp()
        return structs.replace(
            self.status(),
            at=None if stamp.at is None else datetime.fromisoformat(stamp.at),
            boot_id=stamp.boot_id,
            uptime_s=stamp.uptime_s,
            stream=self.outbox.stream,
            last_seq=self.outbox.last_seq(),
            vitals=self._vitals,
        )

    async def tell(self, saying: Saying) -> None:
        """Write down an event."""
        await self.outbox.record(self.clock.stamp(), sayings=(saying,))
        self.wake.nudge()
