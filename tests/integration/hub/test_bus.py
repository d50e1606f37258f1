"""The bus adapter against brokers that misbehave, and the presence rule in SQL against the one in Python."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import mqtt5
import pytest
import structlog
from tests.fixtures.broker import HOST
from tests.integration.hub.device import presence
from tests.integration.hub.waiting import until

from metrica_fleet.identity import DeviceId
from metrica_hub.adapters.bus import Broker as Address
from metrica_hub.adapters.bus import Bus, session
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.decisions.flow import Marks, Pace
from metrica_hub.decisions.plan import NewPresence, Writes
from metrica_hub.decisions.presence import Word, prevails

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.fixtures.database import Cluster, Database

    from metrica_fleet.messages import Presence

T = TypeVar("T")

QOS1 = mqtt5.QoS.AT_LEAST_ONCE


class Wire:
    """The broker's end of one connection, played by a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._rest = b""

    async def read(self) -> mqtt5.Packet:
        """Return the next packet of the hub."""
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._rest))
            except IndexError:
                data = await asyncio.wait_for(self._reader.read(65536), 10)
                if not data:
                    raise EOFError from None
                self._rest += data
            else:
                self._rest = self._rest[size:]
                return packet

    async def expect(self, kind: type[T]) -> T:
        """Return the next packet of ``kind``; pings are answered on the way."""
        while True:
            packet = await self.read()
            if isinstance(packet, kind):
                return packet
            assert isinstance(packet, mqtt5.PingReqPacket | mqtt5.PublishPacket), packet

    def send(self, *packets: bytes) -> None:
        """Send packets."""
        self.writer.write(b"".join(packets))

    async def welcome(self, *, receive_max: int = 65535) -> mqtt5.ConnectPacket:
        """Let the hub in; return its greeting."""
        greeting = await self.read()
        assert isinstance(greeting, mqtt5.ConnectPacket)
        self.send(mqtt5.ConnAckPacket(receive_max=receive_max).write())
        subscription = await self.expect(mqtt5.SubscribePacket)
        assert isinstance(subscription, mqtt5.SubscribePacket)
        granted = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
        self.send(mqtt5.SubAckPacket(subscription.packet_id, [granted]).write())
        return greeting


@asynccontextmanager
async def playing(
    marks: Marks | None = None, count: list[int] | None = None, pace: Pace | None = None, **more: Any
) -> AsyncGenerator[tuple[Bus, asyncio.Queue[Wire]]]:
    """A bus, and the connections that it makes to us."""
    wires: asyncio.Queue[Wire] = asyncio.Queue(10)
    opened: list[asyncio.StreamWriter] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        wires.put_nowait(Wire(reader, writer))

    server = await asyncio.start_server(accept, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    connected = count if count is not None else []
    bus = Bus(
        Address(HOST, port, "metrica-test-hub", ("metrica/v1/test/devices/+/records",), **more),
        chance=lambda: 0.0,
        on_connected=lambda: connected.append(1),
        marks=marks,
        pace=pace,
    )
    bus.let_connect()
    async with server, asyncio.TaskGroup() as group:
        running = group.create_task(bus.run())
        try:
            yield bus, wires
        finally:
            running.cancel()
            for writer in opened:
                writer.close()
            for writer in opened:
                with suppress(ConnectionError):
                    await writer.wait_closed()


def record(packet_id: int) -> bytes:
    return mqtt5.PublishPacket("a/records", b"x", qos=QOS1, packet_id=packet_id).write()


def message(packet_id: int, payload: bytes = b"x", *, again: bool = False) -> bytes:
    return mqtt5.PublishPacket("t", payload, qos=QOS1, packet_id=packet_id, duplicate=again).write()


async def test_the_greeting_asks_for_a_session_that_outlives_the_hub() -> None:
    async with playing() as (_, wires):
        greeting = await (await wires.get()).welcome()
        assert greeting.client_id == "metrica-test-hub"
        assert not greeting.clean_start
        assert greeting.session_expiry_interval == 7 * 24 * 3600
        assert greeting.keep_alive == 30
        assert greeting.receive_max == Marks().messages


async def test_records_that_come_often_but_singly_are_read_together() -> None:
    async with playing(pace=Pace(shortest_s=0.5, longest_s=10)) as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        for number in (1, 2):  # the first after a quiet time, the second soon after it
            wire.send(record(number))
            assert [delivery.packet_id for delivery in await bus.take(10)] == [number]
        for number in (3, 4, 5):
            wire.send(record(number))
            await asyncio.sleep(0.01)
        assert [delivery.packet_id for delivery in await bus.take(10)] == [3, 4, 5]


async def test_no_long_rest_is_taken_while_something_is_to_be_said() -> None:
    def beat(number: int) -> bytes:
        return mqtt5.PublishPacket(f"{number}/records", b'{"type":"heartbeat"}', qos=QOS1, packet_id=number).write()

    async with playing(pace=Pace(idle_s=60)) as (bus, wires):
        wire = await wires.get()
        await wire.welcome(receive_max=1)
        for topic in "abc":
            bus.say(topic, b"1")
        for number in (1, 2):  # the first after a quiet time, the second soon after it; nobody waits for either
            wire.send(beat(number))
            assert [delivery.packet_id for delivery in await bus.take(10)] == [number]
        for topic in "abc":
            said = await wire.expect(mqtt5.PublishPacket)
            assert said.topic == topic
            wire.send(mqtt5.PubAckPacket(said.packet_id or 0).write())


async def test_a_rest_between_two_reads_is_no_brake() -> None:
    def beat(number: int) -> bytes:
        return mqtt5.PublishPacket(f"{number}/records", b'{"type":"heartbeat"}', qos=QOS1, packet_id=number).write()

    async with playing(marks=Marks(messages=3), pace=Pace(idle_s=60)) as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        for number in (1, 2):  # from the second on it rests
            wire.send(beat(number))
            assert [delivery.packet_id for delivery in await bus.take(10)] == [number]
        assert not bus.braked
    async with playing(marks=Marks(messages=3)) as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        wire.send(beat(1), beat(2), beat(3))
        await bus.take(10)
        assert bus.braked


async def test_a_session_that_does_not_outlive_the_connection_is_asked_for_as_such() -> None:
    async with playing(lasting=False, keep_alive_s=10) as (_, wires):
        greeting = await (await wires.get()).welcome()
        assert greeting.clean_start
        assert greeting.session_expiry_interval == 0
        assert greeting.keep_alive == 10


async def test_what_an_earlier_session_subscribed_to_and_is_not_wanted_any_more_is_given_up() -> None:
    async with playing(forsaken=("metrica/v1/test/devices/+/status",)) as (bus, wires):
        wire = await wires.get()
        await wire.read()
        wire.send(mqtt5.ConnAckPacket().write())
        gone = await wire.expect(mqtt5.UnsubscribePacket)
        assert list(gone.patterns) == ["metrica/v1/test/devices/+/status"]
        wanted = await wire.expect(mqtt5.SubscribePacket)
        wire.send(
            mqtt5.UnsubAckPacket(gone.packet_id, [mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED]).write(),
            mqtt5.SubAckPacket(wanted.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write(),
            message(1),
        )
        assert len(await bus.take(10)) == 1


async def a_broker_that_holds_one_back(wire: Wire, happened: list[str]) -> None:
    while True:
        match await wire.read():
            case mqtt5.PubAckPacket(packet_id=packet_id):
                happened.append(f"{packet_id} acknowledged")
                if packet_id == 1:  # there is room now
                    wire.send(message(2))
            case mqtt5.PublishPacket(topic=topic, packet_id=packet_id):
                happened.append(f"{topic} said")
                wire.send(mqtt5.PubAckPacket(packet_id or 0).write())
            case mqtt5.PingReqPacket():
                wire.send(mqtt5.PingRespPacket().write())
            case other:
                happened.append(type(other).__name__)


async def all_acknowledged(bus: Bus) -> None:
    while True:
        bus.acknowledge(await bus.take(10))


async def test_who_withdraws_takes_what_was_held_back_for_it_and_says_what_it_has_to_say() -> None:
    happened: list[str] = []
    async with playing() as (bus, wires), asyncio.TaskGroup() as group:
        wire = await wires.get()
        await wire.welcome(receive_max=1)
        wire.send(message(1))
        await until(lambda: bus.unacknowledged == 1)
        for topic in "ab":
            bus.say(topic, b"1")
        broker = group.create_task(a_broker_that_holds_one_back(wire, happened))
        consumer = group.create_task(all_acknowledged(bus))
        await asyncio.wait_for(bus.withdraw(), 10)
        for task in (broker, consumer):
            task.cancel()
    assert sorted(happened) == ["1 acknowledged", "2 acknowledged", "UnsubscribePacket", "a said", "b said"]
    assert bus.unsaid() == set()


async def test_nothing_is_acknowledged_before_it_is_asked_for_and_then_in_order() -> None:
    async with playing() as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        wire.send(*(message(packet_id) for packet_id in (3, 1, 2)))
        taken = await bus.take(2)
        taken += await bus.take(2)
        assert bus.unacknowledged == 3
        bus.acknowledge(taken)
        acknowledged = [await wire.read() for _ in range(3)]
        assert [packet.packet_id for packet in acknowledged if isinstance(packet, mqtt5.PubAckPacket)] == [3, 1, 2]
        assert bus.unacknowledged == 0


async def test_packets_of_a_lost_connection_are_not_acknowledged_on_the_next() -> None:
    async with playing() as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        wire.send(message(1), message(2))
        first = await bus.take(10)
        first += await bus.take(1) if len(first) == 1 else []
        wire.writer.close()
        again = await asyncio.wait_for(wires.get(), 10)
        await again.welcome()
        again.send(message(1, b"y", again=True))
        second = await bus.take(10)
        bus.acknowledge(first)
        bus.acknowledge(second)
        acknowledged = await again.read()
        assert isinstance(acknowledged, mqtt5.PubAckPacket)
        assert acknowledged.packet_id == 1
        bus.say("a", b"1")  # had packet 2 been acknowledged as well, that would come before this
        assert isinstance(await again.read(), mqtt5.PublishPacket)


BROKEN = {
    "a packet of no type": b"\x00\x00",
    "a length that never ends": b"\x30\xff\xff\xff\xff\xff",
    "a topic that is not UTF-8": b"\x32\x05\x00\x01\xff\x00\x01",
    "an answer to nothing": mqtt5.UnsubAckPacket(1, []).write(),
    "a second welcome": mqtt5.ConnAckPacket().write(),
    "a message with a topic alias": mqtt5.PublishPacket("", b"x", topic_alias=1).write(),
    "a message with QoS 2": mqtt5.PublishPacket("t", b"x", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=1).write(),
    "a packet without end": b"\x30\xff\xff\xff\x7f" + b"x" * (300 * 1024),
    "a good-bye": mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN).write(),
}


# The codec panics on the topic that is not UTF-8, and says so beside the exception that the link catches.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("packet", BROKEN.values(), ids=BROKEN)
async def test_a_broken_packet_ends_the_connection_and_the_next_one_works(packet: bytes) -> None:
    async with playing() as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        wire.send(message(1), packet)
        assert [delivery.packet_id for delivery in await bus.take(10)] == [1]
        with pytest.raises((EOFError, ConnectionError)):
            await wire.expect(mqtt5.AuthPacket)
        again = await asyncio.wait_for(wires.get(), 10)
        await again.welcome()
        again.send(message(1))
        assert len(await bus.take(10)) == 1


async def test_short_lived_connections_are_failures_and_the_third_asks_for_another_hub() -> None:
    attempts: list[int] = []

    def waited(attempt: int, *_: float) -> float:
        attempts.append(attempt)
        return 0.0

    logs = structlog.testing.LogCapture()
    # A logger of its own: whatever other tests have made of all others, this one tells everything.
    everything = structlog.make_filtering_bound_logger(logging.NOTSET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "full_jitter", waited)
        patch.setattr(session, "_log", structlog.wrap_logger(None, processors=[logs], wrapper_class=everything))
        async with playing() as (_, wires):
            for _ in range(4):
                wire = await asyncio.wait_for(wires.get(), 10)
                await wire.welcome()
                wire.writer.close()
            await asyncio.wait_for(wires.get(), 10)
    assert attempts == [1, 2, 3, 4]
    lost = [line["error"] for line in logs.entries if line["event"] == "bus.lost"]
    assert ["is another hub running?" in error for error in lost] == [False, False, True, True]


def test_a_resolver_that_is_silent_does_not_keep_the_hub_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = threading.Event(), threading.Event()

    def silent(*_: object, **__: object) -> None:
        asked.set()
        over.wait(60)
        raise socket.gaierror("no answer")

    async def begin_and_end() -> None:
        bus = Bus(Address("broker.test", 1, "c", ()), chance=lambda: 0.0, on_connected=lambda: None)
        bus.let_connect()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(bus.run())
            await until(asked.is_set)
            running.cancel()

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    began = time.monotonic()
    with asyncio.Runner() as runner:
        runner.run(begin_and_end())
    took_s = time.monotonic() - began
    over.set()
    assert took_s < 30


async def test_a_packet_may_come_byte_by_byte() -> None:
    async with playing() as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        for byte in message(1, b"payload"):
            wire.send(bytes([byte]))
            await wire.writer.drain()
        assert (await bus.take(1))[0].payload == b"payload"


async def test_a_refused_greeting_is_tried_again_and_so_is_a_refused_subscription() -> None:
    connections: list[int] = []
    async with playing(count=connections) as (bus, wires):
        wire = await wires.get()
        await wire.read()
        wire.send(mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.NOT_AUTHORIZED).write())
        wire = await asyncio.wait_for(wires.get(), 10)
        await wire.read()
        assert not bus.connected
        wire.send(mqtt5.ConnAckPacket().write())
        await wire.expect(mqtt5.SubscribePacket)
        wire.send(mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]).write())
        await (await asyncio.wait_for(wires.get(), 10)).welcome()
    assert len(connections) == 2


async def test_what_the_hub_says_waits_for_room_and_survives_a_lost_connection() -> None:
    async with playing() as (bus, wires):
        wire = await wires.get()
        await wire.welcome(receive_max=2)
        for topic in "abc":
            bus.say(topic, b"1")
        first = [await wire.expect(mqtt5.PublishPacket) for _ in range(2)]
        assert [packet.topic for packet in first] == ["a", "b"]
        bus.say("c", b"2")  # replaces what was not sent yet
        assert first[0].packet_id is not None
        wire.send(mqtt5.PubAckPacket(first[0].packet_id).write())
        third = await wire.expect(mqtt5.PublishPacket)
        assert (third.topic, third.payload, third.retain) == ("c", b"2", True)
        wire.writer.close()
        again = await asyncio.wait_for(wires.get(), 10)
        await again.welcome(receive_max=20)
        said = [await again.expect(mqtt5.PublishPacket) for _ in range(2)]
        assert [packet.topic for packet in said] == ["b", "c"]


async def test_reading_rests_above_the_upper_mark_and_goes_on_below_a_quarter() -> None:
    async with playing(Marks(messages=100)) as (bus, wires):
        wire = await wires.get()
        await wire.welcome()
        payload = b"x" * 10_000
        sending = asyncio.ensure_future(send_all(wire, payload, 3000))  # noqa: TID251 - awaited below
        await until(lambda: bus.unacknowledged >= 100)
        held = bus.unacknowledged
        assert held < 300
        seen = 0
        while seen < 3000:
            taken = await asyncio.wait_for(bus.take(50), 10)
            assert bus.unacknowledged < 300
            seen += len(taken)
            bus.acknowledge(taken)
        await sending


async def send_all(wire: Wire, payload: bytes, count: int) -> None:
    for number in range(count):
        wire.send(message(number % 65535 + 1, payload))
        await wire.writer.drain()


def some_word(chance: random.Random, device: str) -> Word:
    said = presence(
        device, chance.choice(["online", "offline"]), chance.randrange(1, 4), boot=chance.choice(["x", "y"])
    )
    return Word(said, replayed=chance.random() < 0.3)


async def test_the_presence_rule_is_the_same_in_sql(database: Database, cluster: Cluster) -> None:
    await migrate(database.url)
    pool = await open_pool(database.url, name="test", size=1)
    writer, chance = Writer(pool), random.Random(7)
    held: dict[str, Presence] = {}
    try:
        for number in range(600):
            device = f"pi-{number % 60}"
            word = some_word(chance, device)
            if device not in held or prevails(word, held[device]):
                held[device] = word.presence
            new = NewPresence(DeviceId(device), datetime.now(UTC), word)
            await writer.commit((), lambda _, new=new: Writes(presences=(new,)))
    finally:
        await close_pool(pool, within_s=1)
    rows = cluster.execute("SELECT device, presence, presence_connection, presence_boot_id FROM devices", database.name)
    assert sorted(rows.splitlines()) == sorted(
        f"{device}|{said.state}|{said.connection}|{said.boot_id}" for device, said in held.items()
    )
