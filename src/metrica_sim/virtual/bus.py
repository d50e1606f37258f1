"""The broker of a simulated world, and a device's way to it.

What the broker has taken it keeps for the hub until the hub says that it is safe. A cut cable closes nothing: who waits
for an answer waits until its patience ends, and what was under way may have arrived all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from metrica_fleet.codec import decode, encode
from metrica_fleet.errors import NotNow
from metrica_fleet.signed import Signed
from metrica_fleet.topics import ANSWERS, PRESENCE, STOP, Address, Channel, address_of, topic_of
from metrica_hub.decisions.intake import Delivery
from metrica_hub.errors import BusAway
from metrica_sim.virtual.loop import operation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence

    from metrica_fleet.identity import DeviceId, FleetId
    from metrica_fleet.messages import Message, Presence
    from metrica_sim.network import Network

CONNECT_S: Final = 10.0
ANSWER_S: Final = 20.0
KEEP_ALIVE_S: Final = 45.0
"""After so long without a word either side takes the connection for lost."""
LOOK_S: Final = 5.0
DUPLICATES: Final = 0.02
ANSWERS_APART: Final = 0.01
QUEUED: Final = 100_000
"""Messages that the broker keeps for an absent hub; what comes on top is thrown away, as Mosquitto does."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message of the bus, decoded."""

    channel: Channel
    message: Message
    retained: bool


@dataclass(slots=True)
class SimulatedBroker:
    """One broker, with one hub and many devices."""

    fleet: FleetId
    chance: Callable[[], float]
    up: bool = True
    retained: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _queue: deque[Delivery] = field(default_factory=deque[Delivery])
    _unacknowledged: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    _number: int = 0
    _link: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _links: dict[str, SimulatedLink] = field(default_factory=dict[str, "SimulatedLink"])
    thrown_away: int = 0
    on_start: Callable[[], object] | None = None
    """Called when it is back."""
    on_answer: Callable[[str, bytes], None] = lambda _topic, _payload: None
    """Called with what devices answer to commands: taken at most once, so it is not kept for the hub."""
    since_s: float = 0.0
    """When it came up last."""

    # --- faults -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End every connection; what it has to keep is on its disk."""
        self.up = False
        for link in list(self._links.values()):
            link.lose()
        self.hub_left()
        self._arrived.set()

    def start(self, *, wiped: bool = False) -> None:
        """Come back, with or without what was on its disk."""
        if wiped:
            self.retained.clear()
            self._queue.clear()
            self._unacknowledged.clear()
        self.up = True
        self.since_s = asyncio.get_running_loop().time()
        if self.on_start is not None:
            self.on_start()

    # --- towards devices --------------------------------------------------------------------------------------

    def join(self, topic: str, link: SimulatedLink) -> None:
        """Let ``link`` be the device's connection; an earlier one is ended."""
        before = self._links.get(topic)
        if before is not None:
            before.lose()
        self._links[topic] = link

    def part(self, topic: str, link: SimulatedLink) -> None:
        """Let ``link`` be no connection any more."""
        if self._links.get(topic) is link:
            del self._links[topic]

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Take what a device says, and keep it for the hub."""
        if topic.endswith(ANSWERS.name):
            self.on_answer(topic, payload)
            return
        if retain:
            self.retained[topic] = payload
        if len(self._queue) >= QUEUED:
            self.thrown_away += 1
            return
        for _ in range(2 if self.chance() < DUPLICATES else 1):
            self._number += 1
            self._queue.append(Delivery(topic, payload, replayed=False, packet_id=self._number, link=self._link))
        self._arrived.set()

    # --- towards the hub --------------------------------------------------------------------------------------

    def hub_left(self) -> None:
        """Give again to the next hub what this one did not acknowledge."""
        self._queue.extendleft(reversed(self._unacknowledged.values()))
        self._unacknowledged.clear()
        self._link += 1

    async def take(self, limit: int) -> list[Delivery]:
        """Return up to ``limit`` deliveries, waiting for the first."""
        while not (self.up and self._queue):
            self._arrived.clear()
            await self._arrived.wait()
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._unacknowledged |= {delivery.packet_id or 0: delivery for delivery in taken}
        return taken

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Forget what the hub has made safe."""
        for delivery in deliveries:
            self._unacknowledged.pop(delivery.packet_id or 0, None)

    def say_all(self, sayings: Iterable[tuple[str, bytes]]) -> None:
        """Publish retained messages of the hub."""
        for topic, payload in sayings:
            self._say(topic, payload)

    def tell(self, topic: str, payload: bytes) -> None:
        """Pass something on to the device that it is for, if that is connected. Raises ``BusAway``."""
        if not self.up:
            raise BusAway("the broker is away (simulated)")
        link = self._links.get(topic.rpartition("/")[0])
        if link is not None:
            link.hear(topic, payload, retained=False)

    def _say(self, topic: str, payload: bytes) -> None:
        if not self.up:
            raise BusAway("the broker is away (simulated)")
        self.retained[topic] = payload
        to_one = address_of(topic).channel.per_device
        own = self._links.get(topic.rpartition("/")[0])
        for link in list(self._links.values()) if not to_one else [own] if own is not None else []:
            link.hear(topic, payload, retained=False)


class SimulatedBus:
    """One device's way to the broker."""

    def __init__(
        self,
        broker: SimulatedBroker,
        network: Network,
        device: DeviceId,
        chance: Callable[[], float],
        on_signed: Callable[[Channel, Signed], None] = lambda _channel, _signed: None,
    ) -> None:
        self._broker = broker
        self._network = network
        self._device = device
        self._chance = chance
        self._on_signed = on_signed

    @contextlib.asynccontextmanager
    async def session(self, will: Presence) -> AsyncGenerator[SimulatedLink]:
        """Connect."""
        operation("bus:connect")
        await asyncio.sleep(0.05 + 0.1 * self._chance())
        if not self._network.is_up:
            await asyncio.sleep(CONNECT_S)
            raise NotNow("the broker does not answer (simulated)", reason="bus-unreachable")
        if not self._broker.up:
            raise NotNow("the broker can't be reached (simulated)", reason="bus-unreachable")
        operation("bus:connected")
        link = SimulatedLink(self._broker, self._network, self._device, self._chance, self._on_signed)
        try:
            yield link
        finally:
            link.close(will)


class SimulatedLink:
    """One connection."""

    def __init__(
        self,
        broker: SimulatedBroker,
        network: Network,
        device: DeviceId,
        chance: Callable[[], float],
        on_signed: Callable[[Channel, Signed], None],
    ) -> None:
        self._broker = broker
        self._network = network
        self._device = device
        self._chance = chance
        self._on_signed = on_signed
        self._root = topic_of(Address(broker.fleet, PRESENCE, device)).rpartition("/")[0]
        self._inbox: deque[Incoming] = deque()
        self._new = asyncio.Event()
        self._lost = False
        self._left = False
        self._sent_until_s = 0.0
        broker.join(self._root, self)

    def lose(self) -> None:
        """Let the connection be gone, and the device hear of it."""
        self._lost = True
        self._new.set()

    def close(self, will: Presence) -> None:
        """End it; the broker says the last will unless the device took its leave."""
        self._lost = True
        self._broker.part(self._root, self)
        if not self._left and self._broker.up:
            self._broker.publish(self._topic(PRESENCE), encode(will), retain=True)

    def hear(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Take what the broker passes on. What is said into a cut cable is lost with the connection."""
        channel = address_of(topic).channel
        if not self._network.is_up and channel is STOP:
            self.lose()  # TCP would bring it once the cable is mended, or lose the connection
        elif self._network.is_up:
            message = decode(channel, payload)
            self._inbox.append(Incoming(channel, message, retained))
            self._new.set()
            if isinstance(message, Signed) and not retained:
                self._on_signed(channel, message)

    # --- as the bus adapter's -----------------------------------------------------------------------------------

    async def subscribe(self, *channels: Channel) -> None:
        """Ask for ``channels``, and have what is retained."""
        operation("bus:subscribe")
        await self._passage()
        for channel in channels:
            topic = self._topic(channel)
            if topic in self._broker.retained:
                self.hear(topic, self._broker.retained[topic], retained=True)

    async def publish(self, channel: Channel, message: Message) -> None:
        """Publish, and wait until the broker has it."""
        operation("bus:publish")
        await self._passage()
        self._broker.publish(self._topic(channel), encode(message), retain=channel.retained)
        operation("bus:published")
        if self._chance() < ANSWERS_APART:
            await self._passage()  # the answer takes its own way back, and the cable may be cut meanwhile

    def received(self) -> list[Incoming]:
        """Return what has come so far."""
        found = list(self._inbox)
        self._inbox.clear()
        return found

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes, until the connection is lost."""
        silent_since_s: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            while self._inbox:
                operation("bus:heard")
                yield self._inbox.popleft()
            self._new.clear()
            if self._lost or (silent_since_s is not None and loop.time() - silent_since_s >= KEEP_ALIVE_S):
                raise NotNow("the connection to the broker is lost (simulated)", reason="bus-lost")
            silent_since_s = None if self._network.is_up else silent_since_s or loop.time()
            await self._something_new(None if silent_since_s is None else KEEP_ALIVE_S)

    async def leave(self, last_word: Presence) -> None:
        """Say the last word in the will's place."""
        with contextlib.suppress(NotNow):
            operation("bus:leave")
            if self._network.is_up and not self._lost:
                await self.publish(PRESENCE, last_word)
                self._left = True

    # --- how it is done -----------------------------------------------------------------------------------------

    def _topic(self, channel: Channel) -> str:
        return topic_of(Address(self._broker.fleet, channel, self._device if channel.per_device else None))

    async def _something_new(self, patience_s: float | None) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await self._new.wait()
        except TimeoutError:
            return

    async def _passage(self) -> None:
        """Return when what is sent now has arrived. In order: it is one connection."""
        loop = asyncio.get_running_loop()
        self._sent_until_s = max(self._sent_until_s, loop.time() + 0.005 + 0.05 * self._chance())
        await asyncio.sleep(self._sent_until_s - loop.time())
        if not self._network.is_up:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._network.passage()
            except TimeoutError:
                self.lose()
        if self._lost or not self._broker.up:
            raise NotNow("the connection to the broker is lost (simulated)", reason="bus-lost")
