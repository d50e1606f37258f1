"""The outbox to the bus: stays connected, says who is there, sends what is written, forgets what is stored.

Nothing waits for this task, and this task loses nothing: a record is in the outbox before it is sent, and
goes only when the hub says that it is stored. What is sent and not stored is sent again, from the watermark
on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog
from msgspec import structs

from metrica_agent.decisions import guarding, services
from metrica_agent.decisions.pace import Pace
from metrica_agent.decisions.world import Saying
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.talk import Link, Talk
from metrica_fleet.errors import NotNow
from metrica_fleet.messages import Presence, Services
from metrica_fleet.records import Vitals
from metrica_fleet.retry import full_jitter, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from metrica_agent.decisions.outbox import Covered
    from metrica_agent.decisions.services import Shown
    from metrica_agent.decisions.world import Stamp
    from metrica_agent.wake import Wake
    from metrica_fleet.identity import BootId, DeviceId, StreamId
    from metrica_fleet.messages import Answer, Head, Status
    from metrica_fleet.records import Event, Record
    from metrica_fleet.signed import Signed
    from metrica_fleet.topics import Channel

TAKEN_OVER: Final = "bus-taken-over"
TAKEN_OVER_AGAIN_S: Final = 3600.0

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
        """The stream that the next record is of."""
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

    async def forget(self, stream: str, seq: int) -> Covered:
        """Forget what the hub has."""
        ...

    async def newest_stored(self) -> Event | None:
        """Return the newest event that the hub has said to have."""
        ...

    async def set_back(self) -> int:
        """Let all go again that is still here; return how many of what the hub had said to have."""
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


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and how patiently."""

    heartbeat_s: float = 60.0
    reconnect_base_s: float = 1.0
    reconnect_cap_s: float = 45.0
    """So that a fleet whose broker was away is all there within a minute."""
    stood_s: float = 60.0
    """A connection that lasted so long was a success; two devices of one name soon take it from another."""
    resend_base_s: float = 30.0
    resend_cap_s: float = 120.0
    """Each time one record: a hub that is away for hours finds no more than that in the broker's queue."""


def _untold(_reason: str) -> None:
    """Nobody asks."""


def _unseen() -> None:
    """Nothing is known of what runs."""


def _unheard(_channel: Channel, _signed: Signed) -> None:
    """Nobody listens."""


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
    """To be nudged when there is a new record, or the status or what runs changed."""
    shown: Callable[[], Shown | None] = _unseen
    """What there is to tell of what runs; ``None``: nothing yet."""
    on_signed: Callable[[Channel, Signed], None] = _unheard
    """Called with each signed text that is heard, whoever may have signed it."""
    on_trouble: Callable[[str], None] = _untold
    """Told why a connection came to nothing, or ended."""
    slower: Callable[[], float] = lambda: 1
    """How many times rarer heartbeats are now."""
    timing: Timing = field(default_factory=Timing)
    pace: Pace = field(default_factory=Pace)
    services_pace: Pace = services.PACE
    on_link: Callable[[bool], None] = lambda _: None
    """Called when the connection came as far as the records, and when it is lost."""
    denied: set[str] = field(default_factory=set[str])
    """Channels that the broker refused the last time: told once, until it takes one again."""
    has_asked: bool = False
    """Whether the hub was asked, since we began, if it still has what it had said to have."""
    beats: int = 0
    pulse: Pulse = field(default_factory=Pulse)
    """Of the heartbeats."""
    talking: Pulse = field(default_factory=Pulse)
    """Of the connection."""
    _vitals: Vitals = field(default_factory=Vitals)
    _heartbeat_s: float = 0.0
    """Until the next heartbeat, as it was last decided."""
    _connecting: asyncio.Task[None] | None = None
    _turning: bool = False
    """Whether the connection that stands is given up for another one."""
    _talk: Talk | None = None
    """Over the connection that stands."""
    _trouble: str | None = None
    _taken_over_s: float | None = None
    """When it was last told that another machine goes by our name."""

    async def run(self) -> None:
        """Report until cancelled. No trouble with the network or the broker ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(), name="heartbeats")
            group.create_task(self._keep_connected(), name="talk")

    async def _beat(self) -> None:
        while True:
            self.pulse.works()
            self._vitals = await self.vitals()
            pause_s = self._heartbeat_s = self.timing.heartbeat_s * self.slower()
            try:
                await self.outbox.heartbeat(self.clock.stamp(), self.current_status())
            except NotNow as error:
                log.warning("heartbeat_unwritten", reason=error.reason, error=error.message)
            self.beats += 1
            self.wake.nudge()
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
                if self._tell_trouble(lost) == TAKEN_OVER:
                    await self._tell_taken_over()
            stood = self.clock.now_s() - began_s >= self.timing.stood_s
            failures = 0 if stood else failures + 1

    async def _connection(self) -> None:
        """Hold one connection, in a task of its own that ends with it.

        No task group here. In Python 3.11 one that waits when its task fails leaves a request for cancellation behind
        in ours, and the next ``asyncio.timeout`` would end us instead of the wait (3.11.2 of Debian 12); and it forgets
        a cancellation of ours that comes together with the failure. What groups inside leave behind ends with the task.
        """
        connection = asyncio.create_task(self._connect(), name="connection")  # noqa: TID251 - owned and awaited here
        self._connecting, self._turning = connection, False
        try:
            await asyncio.wait([connection])
        finally:
            self._connecting = None
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
                if self._turning:
                    raise
                await link.leave(self._presence("offline", "shutdown", number))
                raise
            finally:
                self._talk = None
                self.on_link(False)  # noqa: FBT003 - a callback
                await self.outbox.unlinked()

    async def _tell_taken_over(self) -> None:
        """Tell that two machines go by one name: once an hour, as long as it goes on."""
        now_s, told_s = self.clock.now_s(), self._taken_over_s
        if told_s is not None and now_s - told_s < TAKEN_OVER_AGAIN_S:
            return
        message = "another machine connected under this device's name; both take turns, and nothing is lost: rename one"
        log.warning("bus_taken_over", message=message)
        try:
            await self.tell(Saying(kind="bus.taken_over", reason="two-of-one-name", message=message))
        except NotNow as error:
            log.warning("event_unwritten", kind="bus.taken_over", reason=error.reason, error=error.message)
        else:
            self._taken_over_s = now_s

    def _tell_trouble(self, lost: BaseExceptionGroup[NotNow]) -> str:
        first: BaseException = lost
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        reason = getattr(first, "reason", "unknown")
        if reason != self._trouble:
            log.info("bus_away", reason=reason, error=str(first))
        self._trouble = reason
        self.on_trouble(str(reason))
        return str(reason)

    def turn(self) -> None:
        """Connect anew, without a word of farewell: a link that is back within the will's delay tells nothing."""
        if self._connecting is not None:
            self._turning = True
            self._connecting.cancel()

    async def answer(self, answer: Answer) -> None:
        """Publish what came of a command, and wait until the broker has it.

        Raises:
            NotNow: ``bus-lost``.
        """
        if self._talk is None:
            raise NotNow("there is no connection to the broker", reason="bus-lost")
        await self._talk.answer(answer)

    def connected(self, talk: Talk) -> None:
        """Note that a connection came as far as the records."""
        self._talk = talk
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
            heartbeat_s=self._heartbeat_s or self.timing.heartbeat_s,
            stream=self.outbox.stream,
            last_seq=self.outbox.last_seq(),
            vitals=self._vitals,
        )

    def what_runs(self, shown: Shown) -> Services:
        """Return what is ``shown`` as it is said now."""
        stamp = self.clock.stamp()
        return Services(
            device=self.device,
            at=None if stamp.at is None else datetime.fromisoformat(stamp.at),
            boot_id=stamp.boot_id,
            uptime_s=stamp.uptime_s,
            engine_answers=shown.engine_answers,
            services=shown.services,
            untold=shown.untold,
        )

    async def tell(self, saying: Saying) -> None:
        """Write down an event."""
        await self.outbox.record(self.clock.stamp(), sayings=(saying,))
        self.wake.nudge()
