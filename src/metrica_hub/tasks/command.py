"""Sends commands to devices that are there, until they are answered, and writes down what they answer.

Only the hub that leads does: it has the bus. What is in Postgres is the truth, so a hub that is killed anywhere sends
again, and the device, which remembers the number, does nothing twice. A command is signed once, when it is first sent.

Answers come at most once, and not by way of the records: a log that somebody follows must hold up no event. What is
lost of them is seen by the numbers of the parts, and the last word is asked for by sending the command again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.commands import Command, written
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import DeviceId
from metrica_fleet.retry import full_jitter
from metrica_fleet.signed import COMMANDS as NAMESPACE
from metrica_fleet.signed import Signed, joined
from metrica_fleet.topics import COMMANDS, Address, topic_of
from metrica_hub.decisions.commands import read_answer
from metrica_hub.errors import Unstorable
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from metrica_fleet.identity import FleetId
    from metrica_hub.decisions.commands import Answered, Due

LOOK_S: Final = 1.0
"""Between looks while commands are open."""
IDLE_S: Final = 20.0
REST_S: Final = 0.1
"""Between two looks, however often the hub is woken."""
AT_ONCE: Final = 50
HEARD_MOST: Final = 2000
"""Answers that wait to be written down; of more the oldest go."""
OF_DEVICE_MOST: Final = 200
"""Of them, those of one device: who answers without end is cut, and nobody else."""
_BATCH: Final = 100
_FORGET_EVERY_S: Final = 3600.0
_RETRY_BASE_S: Final = 0.2
_RETRY_CAP_S: Final = 10.0

_log = structlog.get_logger()


class Store(Protocol):
    """What is asked of the database."""

    async def settle(self) -> int:
        """End what waited or ran for too long; return how many others are open."""
        ...

    async def due(self, limit: int) -> list[Due]:
        """Return commands that are to be sent now, oldest first."""
        ...

    async def sent(self, due: Due, signed: bytes) -> bool:
        """Note that a command is sent."""
        ...

    async def answered(self, answers: Sequence[Answered]) -> int:
        """Write down what devices said; return how many of them were of no command."""
        ...

    async def forget(self) -> None:
        """Remove what is too old."""
        ...


class Bus(Protocol):
    """What is asked of the bus."""

    @property
    def connected(self) -> bool:
        """Whether the broker has welcomed us."""
        ...

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish a message that is not retained; it is lost with the connection."""
        ...


class Signer(Protocol):
    """The hub's own key."""

    async def sign(self, text: bytes, namespace: str) -> bytes:
        """Return the armoured signature of ``text``."""
        ...


class Hub(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads."""
        ...


class Meter(Protocol):
    """Who counts."""

    def answers(self, outcome: str, count: int = 1) -> None:
        """Count answers: ``stored``, ``unknown``, ``unreadable`` or ``dropped``."""
        ...


class Commander:
    """The loop's surroundings."""

    def __init__(
        self,
        fleet: FleetId,
        *,
        store: Store,
        bus: Bus,
        signer: Signer,
        hub: Hub,
        meter: Meter,
        now: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._bus = bus
        self._signer = signer
        self._hub = hub
        self._meter = meter
        self._now = now
        self._chance = chance
        self._wake = Wake()
        self._heard: deque[Answered] = deque()
        self._waiting: Counter[DeviceId] = Counter()
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is a new command, or a new connection."""
        self._wake.nudge()

    def heed(self, topic: str, payload: bytes) -> None:
        """Take what a device says on its answers' topic."""
        try:
            answered = read_answer(topic, payload, self._fleet)
        except Unusable as error:
            self._meter.answers("unreadable")
            _log.debug("command.unreadable_answer", topic=topic, error_kind=error.reason, error=error.message)
            return
        if self._waiting[answered.device] >= OF_DEVICE_MOST:
            self._meter.answers("dropped")
            return
        if len(self._heard) >= HEARD_MOST:
            self._taken()
            self._meter.answers("dropped")
        self._heard.append(answered)
        self._waiting[answered.device] += 1
        self._news.set()

    def _taken(self) -> Answered:
        """Return the oldest answer that waits, which waits no more."""
        answered = self._heard.popleft()
        self._waiting[answered.device] -= 1
        if not self._waiting[answered.device]:
            del self._waiting[answered.device]
        return answered

    async def run(self) -> None:
        """Send and hear for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_all())
            group.create_task(self._write_all())
            group.create_task(self._forget())

    # --- sending --------------------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        while True:
            self._wake.clear()
            pause_s = IDLE_S
            if self._hub.leads is True:
                try:
                    pause_s = LOOK_S if await self._send() else IDLE_S
                except (NotNow, Unstorable) as error:
                    _log.info("command.deferred", error_kind=error.reason, error=error.message)
                    pause_s = LOOK_S
            await asyncio.sleep(REST_S)
            await self._wake.wait(pause_s)

    async def _send(self) -> bool:
        """Send what is due; return whether anything is open."""
        is_open = await self._store.settle() > 0
        if is_open and self._bus.connected:
            for due in await self._store.due(AT_ONCE):
                await self._send_one(due)
        return is_open

    async def _send_one(self, due: Due) -> None:
        signed = due.signed or await self._signed(due)
        if not await self._store.sent(due, signed):
            return
        command = due.command
        self._bus.tell(topic_of(Address(self._fleet, COMMANDS, DeviceId(command.device))), signed)
        _log.info("command.sent", device=command.device, number=command.id, verb=command.verb)

    async def _signed(self, due: Due) -> bytes:
        command = due.command
        text = written(
            Command(
                fleet=self._fleet,
                device=DeviceId(command.device),
                number=command.id,
                issued_at=self._now(),
                expires_at=command.expires_at,
                verb=command.verb,
                arguments=command.arguments,
                timeout_s=command.timeout_s,
            )
        )
        signature = await self._signer.sign(text.encode(), NAMESPACE)
        return joined(Signed(text, signature.decode()))

    # --- hearing --------------------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        while True:
            while not self._heard:
                self._news.clear()
                await self._news.wait()
            await self._write([self._taken() for _ in range(min(_BATCH, len(self._heard)))])

    async def _write(self, batch: Sequence[Answered]) -> None:
        attempt = 0
        while True:
            try:
                unknown = await self._store.answered(batch)
            except Unstorable as error:
                if len(batch) == 1:
                    self._meter.answers("unreadable")
                    _log.warning("command.unstorable_answer", device=batch[0].device, error=error.message)
                    return
                for one in batch:
                    await self._write([one])
                return
            except NotNow as error:
                attempt += 1
                _log.info("command.unwritten", error_kind=error.reason, error=error.message)
                await asyncio.sleep(full_jitter(attempt, self._chance(), _RETRY_BASE_S, _RETRY_CAP_S))
            else:
                self._meter.answers("stored", len(batch) - unknown)
                self._meter.answers("unknown", unknown)
                return

    async def _forget(self) -> None:
        while True:
            if self._hub.leads is True:
                try:
                    await self._store.forget()
                except (NotNow, Unstorable) as error:
                    _log.info("command.not_forgotten", error_kind=error.reason, error=error.message)
            await asyncio.sleep(_FORGET_EVERY_S)
