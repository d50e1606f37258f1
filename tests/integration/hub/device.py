"""A device that keeps to the contract: it sends everything above ``stored``, again and again, until it is covered.

Written for tests of the hub; the agent has its own, durable one.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Self

import aiomqtt
import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tests.fixtures.broker import HOST
from tests.fixtures.hub import FLEET

from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import DeviceId, FleetId, StreamId
from metrica_fleet.messages import Presence, Service, Services, Status, Stored
from metrica_fleet.records import Event, Heartbeat, Record, Vitals
from metrica_fleet.topics import PRESENCE, RECORDS, SERVICES, STATUS, STORED, Address, Channel, topic_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

BOOT = "11111111-2222-3333-4444-555555555555"
RESEND_AFTER_S = 2.0


def topic(device: str, channel: Channel) -> str:
    """Return a device's topic."""
    return topic_of(Address(FleetId(FLEET), channel, DeviceId(device)))


def new_stream() -> StreamId:
    """Return the name of a new life of an outbox."""
    return StreamId(uuid.uuid4().hex)


def heartbeat(stream: str, seq: int, *, prev: int | None = None, uptime_s: float | None = None) -> Heartbeat:
    """Return a plain heartbeat."""
    return Heartbeat(
        stream=StreamId(stream),
        seq=seq,
        prev=seq - 1 if prev is None else prev,
        at=None,
        boot_id=BOOT,
        uptime_s=float(seq) if uptime_s is None else uptime_s,
        commit=None,
        release=None,
        mode="steady",
        phase=None,
        vitals=Vitals(load_1m=0.5, disk_total_bytes=1000, disk_free_bytes=400, temperature_celsius=48.5),
    )


def event(stream: str, seq: int, *, prev: int | None = None, message: str = "", kind: str = "commit.seen") -> Event:
    """Return a plain event."""
    return Event(
        stream=StreamId(stream),
        seq=seq,
        prev=seq - 1 if prev is None else prev,
        at=None,
        boot_id=BOOT,
        uptime_s=float(seq),
        kind=kind,
        message=message,
        detail={"n": seq},
    )


def presence(device: str, state: str, connection: int, *, boot: str = BOOT) -> Presence:
    """Return a presence."""
    assert state in {"online", "offline"}
    return Presence(
        device=DeviceId(device),
        state="online" if state == "online" else "offline",
        reason="connected" if state == "online" else "connection-lost",
        boot_id=boot,
        connection=connection,
        agent_version="0.1.0",
    )


def status(device: str, *, mode: str = "steady", uptime_s: float = 1.0, message: str = "", **more: object) -> Status:
    """Return a status."""
    fields: dict[str, object] = {
        "device": DeviceId(device),
        "role": "camera",
        "mode": mode,
        "commit": "a" * 40,
        "release": "b" * 64,
        "wanted_commit": "a" * 40,
        "phase": "confirmed",
        "message": message,
        "at": None,
        "boot_id": BOOT,
        "uptime_s": uptime_s,
        "agent_version": "0.1.0",
        "stream": "0" * 32,
        "last_seq": 0,
        "vitals": Vitals(temperature_celsius=50.0, disk_total_bytes=1000, disk_free_bytes=100),
    }
    return msgspec.convert(fields | more, Status)


def service(name: str, **more: object) -> Service:
    """Return one service; it runs."""
    return msgspec.convert({"name": name, "state": "running"} | more, Service)


def services(device: str, *them: Service, uptime_s: float = 1.0, **more: object) -> Services:
    """Return what runs on a device."""
    fields: dict[str, object] = {"device": DeviceId(device), "at": None, "boot_id": BOOT, "uptime_s": uptime_s}
    return msgspec.convert(fields | {"services": them} | more, Services)


class Device:
    """One connection of a device; ``async with``."""

    def __init__(self, name: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.name = name
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 60
        self.client = aiomqtt.Client(
            HOST,
            port,
            identifier=f"metrica-{FLEET}-{name}",
            username=name,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
            timeout=3,
            tls_context=tls,
        )

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.__aexit__(*exception)  # pyright: ignore[reportArgumentType]

    async def say(self, channel: Channel, payload: bytes, *, retain: bool | None = None) -> None:
        """Publish on a channel."""
        keep = channel.retained if retain is None else retain
        await self.client.publish(topic(self.name, channel), payload, qos=1, retain=keep)

    async def tell(self, record: Record) -> None:
        """Publish a record."""
        await self.say(RECORDS, encode(record))

    async def is_present(self, state: str, connection: int, *, boot: str = BOOT) -> None:
        """Publish a presence."""
        await self.say(PRESENCE, encode(presence(self.name, state, connection, boot=boot)))

    async def has_status(self, said: Status) -> None:
        """Publish a status."""
        await self.say(STATUS, encode(said))

    async def runs(self, said: Services) -> None:
        """Publish what runs."""
        await self.say(SERVICES, encode(said))

    async def stored(self) -> AsyncIterator[Stored]:
        """Yield the hub's answers."""
        await self.client.subscribe(topic(self.name, STORED), qos=1)
        async for message in self.client.messages:
            answer = decode(STORED, message.payload)  # pyright: ignore[reportArgumentType]
            assert isinstance(answer, Stored)
            yield answer


async def deliver(name: str, port: int, records: Sequence[Record], *, pace_s: float = 0.0) -> None:
    """Send ``records`` until the hub's watermark covers them, over any number of connections."""
    stream = records[0].stream
    covered = 0
    while covered < records[-1].seq:
        try:
            async with Device(name, port) as device:
                covered = await _deliver_once(device, stream, records, covered, pace_s)
        except aiomqtt.MqttError:
            await asyncio.sleep(0.2)  # the contract's back-off, not a synchronisation


async def _deliver_once(device: Device, stream: str, records: Sequence[Record], covered: int, pace_s: float) -> int:
    answers = aiter(device.stored())
    pending: asyncio.Task[Stored] | None = None
    try:
        async with asyncio.TaskGroup() as group:
            pending = group.create_task(anext_of(answers))
            while covered < records[-1].seq:
                sending = group.create_task(_send(device, [r for r in records if r.seq > covered], pace_s))
                while covered < records[-1].seq:
                    done, _ = await asyncio.wait([pending], timeout=RESEND_AFTER_S)
                    if not done:
                        break
                    covered = max(covered, pending.result().streams.get(StreamId(stream), 0))
                    pending = group.create_task(anext_of(answers))
                sending.cancel()
            pending.cancel()
    except* aiomqtt.MqttError as lost:
        raise lost.exceptions[0] from None
    return covered


async def anext_of(answers: AsyncIterator[Stored]) -> Stored:
    """Return the next answer."""
    return await anext(answers)


async def _send(device: Device, records: Sequence[Record], pace_s: float) -> None:
    for record in records:
        await device.tell(record)
        if pace_s:
            await asyncio.sleep(pace_s)
