"""Looks after each answer whether it still holds: the broker keeps the last one that reached it, not the furthest.

Two hubs that commit for one device answer by connections of their own, so an answer may overtake the one that was
committed after it, and would stand with the broker until the device speaks again. So whoever answered looks into the
database once the broker has the answer, and says what stands there if that is something else. Whichever answer reaches
the broker last is looked after by its hub, so in the end the right one stands. A device that listens is not
misled meanwhile: it never goes back.

A hub that died may have left an answer wrong or unsaid. So with each new connection what moved of late is said anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.codec import encode
from metrica_fleet.messages import Stored
from metrica_fleet.topics import STORED, Address, topic_of
from metrica_hub.errors import StoreAway

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from metrica_fleet.identity import DeviceId, FleetId, StreamId

REST_S: Final = 1.0
"""Between two looks: an answer that is wrong for so long hurts nobody."""
LATELY_S: Final = 600.0

_log = structlog.get_logger()


class Bus(Protocol):
    """What reviewing asks of the bus."""

    def say(self, topic: str, payload: bytes) -> None:
        """Publish a retained message."""
        ...

    def unsaid(self) -> set[str]:
        """Return the topics on which the broker does not yet have what we said last."""
        ...


class Store(Protocol):
    """What reviewing asks of the database."""

    async def latest_streams(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, tuple[StreamId, int]]:
        """Return of each device the stream that moved last, and its watermark."""
        ...

    async def moved_within(self, seconds: float) -> list[DeviceId]:
        """Return the devices that have a stream which moved within the last ``seconds``."""
        ...


class Reviewer:
    """The loop's surroundings."""

    def __init__(self, fleet: FleetId, *, bus: Bus, store: Store) -> None:
        self._fleet = fleet
        self._bus = bus
        self._store = store
        self._answers: dict[DeviceId, Mapping[StreamId, int]] = {}
        """The last one to each device that was not looked after yet."""
        self._doubts = False
        self._woken = asyncio.Event()

    def answered(self, device: DeviceId, streams: Mapping[StreamId, int]) -> None:
        """Look after this answer."""
        self._answers[device] = streams
        self._woken.set()

    def doubt(self) -> None:
        """Say anew what moved of late: who answered before us may not have come to it."""
        self._doubts = True
        self._woken.set()

    async def run(self) -> None:
        """Review for ever."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(REST_S)
            try:
                await self.look()
            except StoreAway as error:
                _log.debug("review.blind", error_kind=error.reason, error=error.message)

    async def look(self) -> None:
        """Look after all answers that the broker has; the others wait.

        Raises:
            StoreAway: nothing can be looked up now.
        """
        if self._doubts:
            for device in await self._store.moved_within(LATELY_S):
                self._answers.setdefault(device, {})
            self._doubts = False
        unsaid = self._bus.unsaid()
        reviewed = {device: said for device, said in self._answers.items() if self._topic(device) not in unsaid}
        held = await self._latest(reviewed)
        for device, said in reviewed.items():
            if self._answers[device] is not said:
                continue  # answered anew meanwhile
            del self._answers[device]
            if device in held and said.get(held[device][0]) != held[device][1]:
                self._say(device, dict([held[device]]))
        if not self._answers:
            self._woken.clear()

    async def _latest(self, devices: Collection[DeviceId]) -> Mapping[DeviceId, tuple[StreamId, int]]:
        return await self._store.latest_streams(devices) if devices else {}

    def _say(self, device: DeviceId, streams: dict[StreamId, int]) -> None:
        self._bus.say(self._topic(device), encode(Stored(streams=streams)))
        self.answered(device, streams)

    def _topic(self, device: DeviceId) -> str:
        return topic_of(Address(self._fleet, STORED, device))
