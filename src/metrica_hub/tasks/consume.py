"""The way of everything that devices say: take, read, plan, commit, acknowledge, answer.

The clock of the loop is the database's commit: a batch is whatever arrived during the commit before it, so batches
are small when it is quiet and large when it is not, and no timer is needed.

Two things can go wrong with a commit. *The database is away*: the batch is kept and tried again, nothing is
acknowledged, the bus stops reading when its queue is full, and nothing is lost. *The database refuses the content*:
the batch is halved until the one message at fault is alone; that one is set aside, and the others go on.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.codec import encode
from metrica_fleet.messages import Stored
from metrica_fleet.retry import full_jitter
from metrica_fleet.topics import STORED, Address, topic_of
from metrica_hub.decisions.intake import Said, read, set_aside
from metrica_hub.decisions.plan import Writes, plan, streams_of
from metrica_hub.errors import StoreAway, Unstorable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId, FleetId, StreamId
    from metrica_hub.decisions.coverage import Coverage
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.intake import Arrival, Delivery

BATCH: Final = 1000
_RETRY_BASE_S: Final = 0.2
_RETRY_CAP_S: Final = 10.0

_log = structlog.get_logger()


class Bus(Protocol):
    """What consuming asks of the bus."""

    async def take(self, limit: int) -> list[Delivery]:
        """Wait for deliveries; return up to ``limit``."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """They are safe now."""
        ...

    def say(self, topic: str, payload: bytes) -> None:
        """Publish a retained message."""
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
    ) -> None:
        self._fleet = fleet
        self._bus = bus
        self._store = store
        self._meter = meter
        self._now = now
        self._chance = chance

    async def run(self) -> None:
        """Consume for ever."""
        while True:
            deliveries = await self._bus.take(BATCH)
            received_at = self._now()
            watermarks = await self._kept([read(delivery, self._fleet, received_at) for delivery in deliveries])
            self._answer(watermarks)
            self._bus.acknowledge(deliveries)

    async def _kept(self, batch: Sequence[Arrival]) -> dict[StreamKey, int]:
        """Store ``batch``, whatever it takes; return how far its streams are stored now."""
        attempt = 0
        while True:
            try:
                return await self._stored(batch)
            except StoreAway as error:
                attempt += 1
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
        for device, streams in devices.items():
            address = Address(self._fleet, STORED, device)
            self._bus.say(topic_of(address), encode(Stored(streams=streams)))
