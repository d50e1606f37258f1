"""One connection of the report task: greets, sends and hears until it is lost.

In this order: subscribe, presence, whatever was retained for us, status, what runs, then the records, paced. The
retained ``stored`` is heard before the first record goes: it may say that the hub has them.

What the hub has not said to have is bounded: ``UNSTORED`` records, then a device waits for its word. So a fleet that
returns sends as fast as the hub stores, and one whose hub is away leaves the broker's queues with room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_agent.decisions.guarding import NETWORK_S
from metrica_agent.decisions.outbox import Covered
from metrica_agent.decisions.pace import take
from metrica_agent.decisions.saying_status import Said, heeded
from metrica_agent.decisions.world import Saying
from metrica_fleet.errors import Unusable
from metrica_fleet.messages import Answer, Head, Message, Presence, Stored
from metrica_fleet.records import Event, Record, Scalar
from metrica_fleet.retry import backed_off
from metrica_fleet.signed import Signed
from metrica_fleet.topics import (
    ANSWERS,
    COMMANDS,
    GATE,
    HEAD,
    PRESENCE,
    RECORDS,
    SERVICES,
    STATUS,
    STOP,
    STORED,
    Channel,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence

    from metrica_agent.decisions.services import Shown
    from metrica_agent.tasks.report import ReportTask
    from metrica_fleet.identity import StreamId

UNSTORED: Final = 20
"""Records that are sent and not known to be stored: 10,000 devices fit a broker's queue five times (mosquitto.conf)."""
PROBE: Final = 1
"""So many of a hub that did not answer twice: enough to be answered."""

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
        self._sent = 0
        """Up to here the records were sent over this connection."""
        self._unstored: deque[int] = deque()
        """Those of them that the hub is not known to have."""
        self._window = UNSTORED
        self._unanswered = 0
        """How often records were sent again since the watermark moved, or an answer said that the hub is there."""
        self._answered_in_vain = False
        """Whether such an answer came since the watermark moved."""
        self._quiet_since_s = 0.0
        self._wait_s = task.timing.resend_base_s
        self._said: Said | None = None
        """What of the status was said over this connection."""
        self._shown: Shown | None = None
        """What of the services was said over this connection."""
        self._services_due_s: float | None = None
        """When it may be said that they changed."""
        self._is_to_ask = not task.has_asked
        self._asked: Event | None = None
        """What the hub had said to have, and was sent again to hear whether it has."""
        self._behind: tuple[StreamId, int] | None = None
        """A stream of which the hub has only so much: it had said more, and comes late, or was set back."""
        self._lacks: tuple[StreamId, int] | None = None
        """The same, once it is sure."""

    async def hold(self, presence: Presence) -> None:
        """Say and hear all there is, until the connection is lost."""
        await self._permitted(STORED, self._link.subscribe(STOP, GATE, STORED, HEAD, COMMANDS))
        await self._publish(PRESENCE, presence)
        for incoming in self._link.received():
            await self._hear(incoming)
        await self._outbox.linked()
        self._task.connected(self)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            await self._speak()

    async def answer(self, answer: Answer) -> None:
        """Publish what came of a command, and wait until the broker has it."""
        await self._publish(ANSWERS, answer)

    # --- speaking -------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        while True:
            self._task.wake.clear()
            self._task.talking.back_within(NETWORK_S, "publishes")
            await self._say_status()
            await self._say_services()
            if self._is_to_ask:
                await self._ask()
            if self._lacks is not None:
                await self._begin_anew(*self._lacks)
            if self._is_overdue():
                self._send_again()
            elif page := await self._page():
                if self._sent <= self._outbox.stored():
                    self._wait_anew()
                await self._send(page)
                self._sent = page[-1].seq
            else:
                due = (self._due_s(), self._services_due_s)
                await self._task.wake.wait_until(min((one for one in due if one is not None), default=None))

    async def _say_status(self) -> None:
        task = self._task
        status = task.current_status()
        is_due, said = heeded(
            self._said, status, beats=task.beats, stored=self._outbox.stored(), now_s=task.clock.now_s()
        )
        if is_due:
            await self._publish(STATUS, status)
        self._said = said

    async def _say_services(self) -> None:
        """Say what runs when it changed: on each connection, and past a number of changes ever so often only."""
        task, shown = self._task, self._task.shown()
        self._services_due_s = None
        if shown is None or shown == self._shown:
            return
        now_s = task.clock.now_s()
        pace, wait_s = take(task.services_pace, now_s)
        if wait_s > 0:
            self._services_due_s = now_s + wait_s
            return
        task.services_pace = pace
        await self._publish(SERVICES, task.what_runs(shown))
        self._shown = shown

    async def _send(self, page: Sequence[Record]) -> None:
        async with asyncio.TaskGroup() as group:
            for record in page:
                self._task.talking.back_within(NETWORK_S, "publishes")
                self._task.pace, wait_s = take(self._task.pace, self._task.clock.now_s())
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self._unstored.append(record.seq)
                group.create_task(self._publish(RECORDS, record))

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

    async def _page(self) -> Sequence[Record]:
        """Return what may go before the hub says what it has."""
        while self._unstored and self._unstored[0] <= self._outbox.stored():
            self._unstored.popleft()
        room = self._window - len(self._unstored)
        return await self._outbox.unsent(self._sent, room) if room > 0 else ()

    def _due_s(self) -> float | None:
        if self._sent <= self._outbox.stored():
            return None
        return self._quiet_since_s + self._wait_s

    def _is_overdue(self) -> bool:
        due_s = self._due_s()
        return due_s is not None and self._task.clock.now_s() >= due_s

    def _wait_anew(self) -> None:
        timing = self._task.timing
        self._quiet_since_s = self._task.clock.now_s()
        self._wait_s = backed_off(self._unanswered, self._task.chance(), timing.resend_base_s, timing.resend_cap_s)

    def _is_answered(self) -> None:
        if self._unanswered or len(self._unstored) >= self._window:
            self._task.wake.nudge()  # who waits waits for much longer than is due now
        self._unanswered = 0
        self._window = UNSTORED
        self._wait_anew()

    def _send_again(self) -> None:
        """Begin again behind the watermark: with all that was sent, the next times with one record.

        A hub that is down for a day would find the same records in the broker's queue a hundred times else.
        """
        self._window = PROBE if self._unanswered else UNSTORED
        self._unanswered += 1
        self._wait_anew()
        self._sent = self._outbox.stored()
        self._unstored.clear()

    # --- what the hub had, and may have lost ----------------------------------------------------------------

    async def _ask(self) -> None:
        """Send the newest event again that the hub has said to have; its answer tells what it has."""
        self._is_to_ask = False
        self._asked = await self._outbox.newest_stored()
        if self._asked is None:
            self._lacks = self._behind
        else:
            await self._publish(RECORDS, self._asked)
        self._task.has_asked = True

    def _weigh(self, streams: Mapping[StreamId, int]) -> None:
        """Take an answer: to what was asked, or one that goes back and is a reason to ask."""
        asked = self._asked
        if asked is not None and asked.stream in streams:
            self._asked = None
            has = streams[asked.stream]
            self._lacks = (asked.stream, has) if has < asked.seq else self._behind
        elif asked is None and self._behind is not None and self._lacks is None:
            self._is_to_ask = True
        else:
            return
        self._task.wake.nudge()

    async def _begin_anew(self, stream: StreamId, has: int) -> None:
        """Send all that is still here, and tell that the hub had lost it."""
        had = self._outbox.stored()
        sent_again = await self._outbox.set_back()
        self._lacks = self._behind = self._said = None
        self._sent = self._outbox.stored()
        self._unstored.clear()
        self._is_answered()
        message = (
            f"the hub had said to have all up to {had}, and has stream {stream[:8]} up to {has}: its database was set "
            f"back; {sent_again} of those records are still here and go again, what was forgotten is lost to it"
        )
        detail: dict[str, Scalar] = {"stream": stream, "had": had, "has": has, "sent_again": sent_again}
        await self._task.tell(Saying(kind="hub.set_back", reason="records-missing", message=message, detail=detail))

    # --- hearing --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        async for incoming in self._link.messages():
            await self._hear(incoming)

    async def _hear(self, incoming: Incoming) -> None:
        match incoming.message:
            case Stored(streams=streams):
                self._behind = None
                for stream, seq in sorted(streams.items(), key=lambda one: one[1]):
                    await self._hear_stored(stream, seq)
                self._weigh(streams)
            case Head() as head:
                self._task.on_head(head)
            case Signed() as signed:
                self._task.on_signed(incoming.channel, signed)
            case _:
                log.warning("bus_unexpected", channel=incoming.channel.name)

    async def _hear_stored(self, stream: StreamId, seq: int) -> None:
        match await self._outbox.forget(stream, seq):
            case Covered.BEHIND:
                self._behind = stream, seq
            case Covered.MOVED:
                self._answered_in_vain = False
                self._is_answered()
            case Covered.KNOWN if self._unanswered and not self._answered_in_vain:
                # The hub is there, and lacks what was lost on the way: all may go again. Once, until the watermark
                # moves.
                self._answered_in_vain = True
                self._is_answered()
            case _:
                pass
