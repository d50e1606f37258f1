"""One connection of the report task: greets, sends and hears until it is lost.

In this order: subscribe, presence, whatever was retained for us, status, then the records, paced. The
retained ``stored`` must be heard before the first record goes: it tells whether the outbox is an older copy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from msgspec import structs

from metrica_agent.decisions.guarding import NETWORK_S
from metrica_agent.decisions.outbox import Covered
from metrica_agent.decisions.pace import take
from metrica_agent.decisions.world import Saying
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import short
from metrica_fleet.messages import Head, Message, Presence, Status, Stored
from metrica_fleet.records import Record, Scalar, Vitals
from metrica_fleet.retry import backed_off
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, STATUS, STORED, Channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from metrica_agent.tasks.report import ReportTask
    from metrica_fleet.identity import StreamId

PAGE: Final = 100
"""Records that are read from the outbox at a time."""
WINDOW: Final = 20
"""Publications on their way at once."""
PROBE: Final = 20
"""Records that are sent again to a hub that has not answered the last time."""

log = structlog.stdlib.get_logger(__name__)


class Incoming(Protocol):
    """A message of the bus."""

    @property
    def channel(self) -> Channel:
        """Where it came."""
        ...

    @property
    def message(self) -> Message:
        """What it says."""
        ...

    @property
    def retained(self) -> bool:
        """Whether it was said before we subscribed."""
        ...


class Link(Protocol):
    """A connection that stands. ``NotNow`` when it does no more, ``Unusable`` when the broker refuses."""

    async def subscribe(self, *channels: Channel) -> None:
        """Ask for the messages of ``channels``, those that are retained included."""
        ...

    async def publish(self, channel: Channel, message: Message) -> None:
        """Publish ``message`` and wait until the broker has it."""
        ...

    def received(self) -> Sequence[Incoming]:
        """Return what has come so far and was not yet read."""
        ...

    def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes, until the connection is lost."""
        ...

    async def leave(self, last_word: Presence) -> None:
        """Say ``last_word`` in the will's place and end the connection in good order."""
        ...


class Talk:
    """One connection."""

    def __init__(self, task: ReportTask, link: Link) -> None:
        self._task = task
        self._outbox = task.outbox
        self._link = link
        self._sent: tuple[StreamId, int] = (task.outbox.stream, 0)
        """Up to here the records were sent over this connection."""
        self._unanswered = 0
        """How often records were sent again since the watermark moved."""
        self._quiet_since_s = 0.0
        self._wait_s = task.timing.resend_base_s
        self._told: tuple[Status, int] | None = None

    async def hold(self, presence: Presence) -> None:
        """Say and hear all there is, until the connection is lost."""
        await self._permitted(STORED, self._link.subscribe(STORED, HEAD))
        await self._publish(PRESENCE, presence)
        for incoming in self._link.received():
            await self._hear(incoming)
        await self._outbox.linked()
        self._task.connected()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            await self._speak()

    # --- speaking -------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        while True:
            self._task.wake.clear()
            self._task.talking.back_within(NETWORK_S, "publishes")
            await self._say_status()
            page = await self._outbox.unsent(self._sent_seq(), PAGE)
            if page:
                if self._sent_seq() <= self._outbox.stored():
                    self._wait_anew()
                await self._send(page)
                self._sent = (page[-1].stream, page[-1].seq)
            elif self._is_overdue():
                await self._send_again()
            else:
                await self._task.wake.wait_until(self._due_s())

    async def _say_status(self) -> None:
        status = self._task.current_status()
        told = (structs.replace(status, at=None, uptime_s=0.0, last_seq=0, vitals=Vitals()), self._task.beats)
        if told != self._told:
            await self._publish(STATUS, status)
            self._told = told

    async def _send(self, page: Sequence[Record]) -> None:
        window = asyncio.Semaphore(WINDOW)
        async with asyncio.TaskGroup() as group:
            for record in page:
                self._task.talking.back_within(NETWORK_S, "publishes")
                self._task.pace, wait_s = take(self._task.pace, self._task.clock.now_s())
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await window.acquire()
                group.create_task(self._send_one(record, window))

    async def _send_one(self, record: Record, window: asyncio.Semaphore) -> None:
        try:
            await self._publish(RECORDS, record)
        finally:
            window.release()

    async def _publish(self, channel: Channel, message: Message) -> None:
        await self._permitted(channel, self._link.publish(channel, message))

    async def _permitted(self, channel: Channel, doing: Awaitable[None]) -> None:
        """Do it; when the broker refuses it, tell that once."""
        denied = self._task.denied
        try:
            await doing
        except Unusable as error:
            if channel.name in denied:
                return
            denied.add(channel.name)
            detail: dict[str, Scalar] = {"channel": channel.name}
            await self._task.tell(Saying(kind="bus.denied", reason=error.reason, message=error.message, detail=detail))
        else:
            denied.discard(channel.name)

    # --- what was sent and is not known to be stored --------------------------------------------------------

    def _sent_seq(self) -> int:
        stream, seq = self._sent
        return seq if stream == self._outbox.stream else 0

    def _due_s(self) -> float | None:
        if self._sent_seq() <= self._outbox.stored():
            return None
        return self._quiet_since_s + self._wait_s

    def _is_overdue(self) -> bool:
        due_s = self._due_s()
        return due_s is not None and self._task.clock.now_s() >= due_s

    def _wait_anew(self) -> None:
        timing = self._task.timing
        self._quiet_since_s = self._task.clock.now_s()
        self._wait_s = backed_off(self._unanswered, self._task.chance(), timing.resend_base_s, timing.resend_cap_s)

    async def _send_again(self) -> None:
        """Send again all, the first time; after that, until the watermark moves, just enough to be answered.

        A hub that is down for a day would find the same backlog in the broker's queue a hundred times else.
        """
        again = self._unanswered
        self._unanswered += 1
        self._wait_anew()
        if again == 0:
            self._sent = (self._outbox.stream, self._outbox.stored())
        else:
            await self._send(await self._outbox.unsent(0, PROBE))

    # --- hearing --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        async for incoming in self._link.messages():
            await self._hear(incoming)

    async def _hear(self, incoming: Incoming) -> None:
        match incoming.message:
            case Stored(streams=streams):
                for stream, seq in streams.items():
                    await self._hear_stored(stream, seq, retained=incoming.retained)
            case Head() as head:
                self._task.on_head(head)
            case _:
                log.warning("bus_unexpected", channel=incoming.channel.name)

    async def _hear_stored(self, stream: StreamId, seq: int, *, retained: bool) -> None:
        match await self._outbox.forget(stream, seq, retained=retained):
            case Covered.MOVED:
                self._unanswered = 0
                self._wait_anew()
            case Covered.BEYOND:
                await self._go_on_in_new_stream(stream, seq)
            case Covered.KNOWN | Covered.FOREIGN:
                pass

    async def _go_on_in_new_stream(self, stream: StreamId, seq: int) -> None:
        last_seq = self._outbox.last_seq()
        saying = Saying(
            kind="outbox.renewed",
            reason="older-copy",
            message=f"the hub has stream {short(stream)} up to {seq}, which this outbox never sent",
            detail={"stream": stream, "stored": seq, "last_seq": last_seq},
        )
        await self._outbox.new_stream(self._task.clock.stamp(), saying)
        self._task.wake.nudge()
