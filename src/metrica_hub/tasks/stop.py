"""Keeps the newest stop order on the broker, whoever gave it: by the API of any hub, or at the broker itself.

What is retained at ``orders/stop`` is heard on each new connection and whenever it changes, our own words too. Is it
newer than all that is known, it is kept; is it older, the newest is said again. So of several orders the one of the
highest number stays, in whatever order they come, and a broker that lost its disk is told again.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.codec import encode
from metrica_fleet.errors import Unusable
from metrica_fleet.topics import STOP, Address, topic_of
from metrica_hub.decisions.stop import taken
from metrica_hub.errors import StoreAway
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_fleet.identity import FleetId
    from metrica_hub.decisions.stop import Kept

LOOK_S: Final = 1.0
"""Between looks for orders that another hub was given."""
HEARD_S: Final = 1.0
"""How long after a connection what was retained is waited for: ours may be older."""
_WAITING: Final = 16

_log = structlog.get_logger()


class Store(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def newest(self) -> Kept | None:
        """Return the order in force."""
        ...

    async def add(self, kept: Kept) -> bool:
        """Keep an order that is newer than all; return whether it was."""
        ...


class Bus(Protocol):
    """What is asked of the bus."""

    def say(self, topic: str, payload: bytes) -> None:
        """Publish a retained message."""
        ...


class Warden:
    """The loop's surroundings, and the newest order as far as it is known here."""

    def __init__(
        self, fleet: FleetId, *, store: Store, bus: Bus, leads: Callable[[], bool], on_kept: Callable[[], object]
    ) -> None:
        self.topic = topic_of(Address(fleet, STOP))
        self.newest: Kept | None = None
        self._fleet = fleet
        self._store = store
        self._bus = bus
        self._leads = leads
        self._on_kept = on_kept
        self._heard: deque[bytes] = deque(maxlen=_WAITING)
        self._retained: int | None = None
        """The number of what the broker is known to retain, 0 where that is no order; ``None``: it is not known."""
        self._say_at_s = 0.0
        self._wake = Wake()

    def connected_anew(self) -> None:
        """Nobody knows what this broker retains; it is about to be heard."""
        self._retained = None
        self._say_at_s = time.monotonic() + HEARD_S
        self._wake.nudge()

    def heard(self, payload: bytes) -> None:
        """Take what was published at ``orders/stop``."""
        self._heard.append(payload)
        self._wake.nudge()

    def wake(self) -> None:
        """Look now: an order was given here."""
        self._wake.nudge()

    async def run(self) -> None:
        """Keep it so for ever."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except StoreAway as error:
                _log.info("stop.unknown", error_kind=error.reason, error=error.message)
            await self._wake.wait(self._rest_s())

    def _rest_s(self) -> float:
        """Return until when to look again: soon where what the broker retains is yet to be heard."""
        until_say_s = self._say_at_s - time.monotonic()
        return until_say_s if self._retained is None and 0 < until_say_s < LOOK_S else LOOK_S

    async def _look(self) -> None:
        while self._heard:
            await self._take(self._heard[0])
            self._heard.popleft()
        newest = await self._store.newest()
        if newest != self.newest:
            self.newest = newest
            self._on_kept()
        if newest is None or not self._leads():
            return
        known = self._retained if self._retained is not None else 0
        if known < newest.order.number and (self._retained is not None or time.monotonic() >= self._say_at_s):
            self._bus.say(self.topic, encode(newest.signed))
            self._retained = newest.order.number
            _log.info("stop.published", number=newest.order.number, via=newest.via)

    async def _take(self, payload: bytes) -> None:
        if not payload:
            self._retained = 0
            return
        try:
            kept = taken(payload, self._fleet, unix_s=time.time(), via="bus")
        except Unusable as error:
            _log.warning("stop.unreadable", error_kind=error.reason, error=error.message)
            self._retained = 0
            return
        self._retained = kept.order.number
        if await self._store.add(kept):
            _log.warning("stop.heard", number=kept.order.number, stops=len(kept.order.stops))
