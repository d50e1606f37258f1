"""The way of everything that devices say: take, read, plan, commit, acknowledge, answer.

Two loops: one reads what was delivered while the other waits for Postgres. The clock is the database's commit: a batch
is what arrived during the commit before it, so batches are small when it is quiet and large when it is not, and no
timer is needed. How many wait is bounded by the bus.

Two things can go wrong with a commit. *The database is away*: the batch is kept and tried again, nothing is
acknowledged, the bus stops reading when its queue is full, and nothing is lost. *The database refuses the content*:
the batch is halved until the one message at fault is alone; that one is set aside, and the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from msgspec import structs

from metrica_fleet.codec import encode
from metrica_fleet.messages import Stored
from metrica_fleet.retry import full_jitter
from metrica_fleet.topics import STORED, Address, topic_of
from metrica_hub.decisions.allowance import Allowance
from metrica_hub.decisions.intake import DeadLetter, Said, read, set_aside
from metrica_hub.decisions.plan import Writes, plan, streams_of
from metrica_hub.errors import StoreAway, Unstorable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId, FleetId, StreamId
    from metrica_hub.decisions.coverage import Coverage
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.intake import Arrival, Delivery

BATCH: Final = 2000
"""So many at most in a transaction; as many again may be read and wait meanwhile."""
_READ_AT_ONCE: Final = 100
"""Before others in the loop have their turn."""
_STREAMS_TOLD: Final = 4
"""Of a device, in each answer: those that were stored last."""
_RETRY_BASE_S: Final = 0.2
_RETRY_CAP_S: Final = 10.0

_log = structlog.get_logger()


class Bus(Protocol):
    """What consuming asks of the bus."""

    async def take(self, limit: int) -> list[Delivery]:
        """Wait for deliveries; return up to ``limit``. Those taken count as the bus's until they are acknowledged."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """They are safe now."""
        ...

    def say_all(self, sayings: Iterable[tuple[str, bytes]]) -> None:
        """Publish retained messages, each with its topic."""
        ...


class Store(Protocol):
    """What consuming asks of the database."""

    async def commit(
        self, streams: Sequence[StreamKey], made: Callable[[Mapping[StreamKey, Coverage]], Writes]
    ) -> Writes:
        """Write what ``made`` makes of what is stored of ``streams``: all or nothing, durably."""
        ...


class Meter(Protocol):
    """Who counts."""

    async def timed(self, commit: Awaitable[Writes]) -> Writes:
        """Await ``commit`` and remember how long it took."""
        ...

    def arrived(self, batch: Sequence[Arrival]) -> None:
        """Count what came, by who said it."""
        ...

    def committed(self, writes: Writes, oldest: datetime) -> None:
        """Count what one transaction wrote."""
        ...

    def store_away(self) -> None:
        """Count a failed attempt to write."""
        ...


class Consumer:
    """The loop's surroundings."""

    def __init__(
        self,
        fleet: FleetId,
        *,
        bus: Bus,
        store: Store,
        meter: Meter,
        now: Callable[[], datetime],
        chance: Callable[[], float],
        heed: Callable[[Sequence[Arrival]], object] = lambda _: None,
        on_answered: Callable[[DeviceId, Mapping[StreamId, int]], object] = lambda device, streams: None,  # noqa: ARG005
        on_stored: Callable[[], object] = lambda: None,
    ) -> None:
        """``heed`` is told of each batch once it is stored."""
        self._fleet = fleet
        self._bus = bus
        self._store = store
        self._meter = meter
        self._now = now
        self._chance = chance
        self._heed = heed
        self._on_answered = on_answered
        self._told: dict[DeviceId, dict[StreamId, int]] = {}
        self._on_stored = on_stored
        self._waiting: deque[tuple[Delivery, Arrival]] = deque()
        self._arrived = asyncio.Event()
        self._is_behind = False
        self._allowance = Allowance(time.monotonic())

    async def run(self) -> None:
        """Consume for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._store_all())

    async def _read(self) -> None:
        while True:
            deliveries = await self._bus.take(_READ_AT_ONCE)
            received_at = self._now()
            arrivals = [self._within_bounds(read(delivery, self._fleet, received_at)) for delivery in deliveries]
            self._meter.arrived(arrivals)
            self._waiting.extend(zip(deliveries, arrivals, strict=True))
            self._arrived.set()
            if len(deliveries) == _READ_AT_ONCE:
                self._is_behind = True
                await asyncio.sleep(0)
                self._is_behind = False  # the bus may have nothing more

    def _within_bounds(self, arrival: Arrival) -> Arrival:
        match arrival:
            case DeadLetter(device=device, number=None) if not self._allowance.takes(device or "", time.monotonic()):
                return structs.replace(arrival, is_kept=False, payload=b"")
            case _:
                return arrival

    async def _store_all(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._caught_up()
            taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            batch = [arrival for _, arrival in taken]
            watermarks = await self._kept(batch)
            self._on_stored()
            self._answer(watermarks)
            self._heed(batch)
            self._bus.acknowledge([delivery for delivery, _ in taken])

    async def _caught_up(self) -> None:
        """Return when what the bus has is read, or is enough for a batch."""
        while self._is_behind and len(self._waiting) < BATCH:  # noqa: ASYNC110 - a turn of the loop reads more
            await asyncio.sleep(0)

    async def _kept(self, batch: Sequence[Arrival]) -> dict[StreamKey, int]:
        """Store ``batch``, whatever it takes; return how far its streams are stored now."""
        attempt = 0
        while True:
            try:
                return await self._stored(batch)
            except StoreAway as error:
                attempt += 1
                self._told.clear()  # a database that comes back may have lost what it had
                self._meter.store_away()
                _log.warning("store.away", error_kind=error.reason, error=error.message, attempt=attempt)
            await asyncio.sleep(full_jitter(attempt, self._chance(), _RETRY_BASE_S, _RETRY_CAP_S))

    async def _stored(self, batch: Sequence[Arrival]) -> dict[StreamKey, int]:
        try:
            return await self._commit(batch)
        except Unstorable as error:
            match list(batch):
                case [Said() as said]:
                    _log.warning("record.set_aside", device=said.device, error_kind=error.reason, error=error.message)
                    return await self._commit([set_aside(said, error)])
                case [_]:
                    raise
                case several:
                    middle = len(several) // 2
                    return await self._stored(several[:middle]) | await self._stored(several[middle:])

    async def _commit(self, batch: Sequence[Arrival]) -> dict[StreamKey, int]:
        writes = await self._meter.timed(self._store.commit(streams_of(batch), partial(plan, batch)))
        self._meter.committed(writes, min(arrival.received_at for arrival in batch))
        return {(one.device, one.stream): one.coverage.stored for one in writes.streams}

    def _answer(self, watermarks: dict[StreamKey, int]) -> None:
        devices: dict[DeviceId, dict[StreamId, int]] = {}
        for (device, stream), stored in watermarks.items():
            devices.setdefault(device, {})[stream] = stored
        self._bus.say_all([self._answer_to(device, streams) for device, streams in devices.items()])

    def _answer_to(self, device: DeviceId, streams: dict[StreamId, int]) -> tuple[str, bytes]:
        # One answer replaces another that was not sent yet, and stays for who comes next under this name.
        before = {key: stored for key, stored in self._told.get(device, {}).items() if key not in streams}
        told = dict([*before.items(), *streams.items()][-max(_STREAMS_TOLD, len(streams)) :]) if before else streams
        self._told[device] = told
        self._on_answered(device, told)
        return topic_of(Address(self._fleet, STORED, device)), encode(Stored(streams=told))
