"""Devices that publish heartbeats as fast as the broker takes them; run as a program, so that it has its own core.

    python publisher.py PORT DEVICES RECORDS      prints how long it took, in seconds
    python publisher.py PORT DEVICES RECORDS RATE  RECORDS/s in all; prints the delay of each, in seconds

A delay is from the publication to the ``stored`` that covers it: committed in Postgres, and known to the device.
Written on the bare protocol: a client library takes more time for a record than the hub does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import deque

from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import CommitId, DeviceId, FleetId, ReleaseDigest, StreamId
from metrica_fleet.messages import Stored
from metrica_fleet.records import Heartbeat, Vitals
from metrica_fleet.topics import RECORDS, STORED, Address, topic_of

FLEET = FleetId("e2e")
WINDOW = 20
"""Publications on their way at once on a connection: Mosquitto's own default bound."""
_CONNACK, _PUBLISH, _PUBACK = 2, 3, 4


def _variable(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + _variable(len(body)) + body


class Device(asyncio.Protocol):
    """One connection."""

    def __init__(self, name: str) -> None:
        self.name = DeviceId(name)
        self.stream = StreamId(uuid.uuid4().hex)
        self.seq = 0
        self.delays: list[float] = []
        self.ready = asyncio.Event()
        self.done = asyncio.Event()
        self._topic = _text(topic_of(Address(FLEET, RECORDS, self.name)))
        self._sent: deque[tuple[int, float]] = deque()
        self._left = 0
        self._room = WINDOW
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(_packet(0x10, _text("MQTT") + b"\x05\x02\x00\x00\x00" + _text(f"publisher-{self.name}")))

    def publish(self, count: int) -> None:
        """Publish so many more, as the broker takes them."""
        self.done.clear()
        self._left += count
        self._fill()

    def _fill(self) -> None:
        packets: list[bytes] = []
        while self._left and self._room:
            self._left -= 1
            self._room -= 1
            self.seq += 1
            number = (self.seq % 60_000 + 1).to_bytes(2, "big")
            packets.append(_packet(0x32, self._topic + number + b"\x00" + self._record()))
            self._sent.append((self.seq, time.perf_counter()))
        if packets and self._transport is not None:
            self._transport.write(b"".join(packets))

    def _record(self) -> bytes:
        return encode(
            Heartbeat(
                stream=self.stream,
                seq=self.seq,
                prev=self.seq - 1,
                at=None,
                boot_id="11111111-2222-3333-4444-555555555555",
                uptime_s=float(self.seq),
                commit=CommitId("a" * 40),
                release=ReleaseDigest("b" * 64),
                mode="steady",
                phase="confirmed",
                vitals=Vitals(
                    load_1m=0.12,
                    memory_total_bytes=906_000_000,
                    memory_available_bytes=612_345_678,
                    disk_total_bytes=31_000_000_000,
                    disk_free_bytes=20_123_456_789,
                    temperature_celsius=48.5,
                    throttled=False,
                    clock_synchronised=True,
                ),
            )
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (packet := self._next()) is not None:
            head, body = packet
            match head >> 4:
                case 2:  # CONNACK
                    topic = topic_of(Address(FLEET, STORED, self.name))
                    assert self._transport is not None
                    self._transport.write(_packet(0x82, b"\x00\x01\x00" + _text(topic) + b"\x01"))
                case 9:  # SUBACK
                    self.ready.set()
                case 4:  # PUBACK
                    self._room += 1
                case 3:  # PUBLISH
                    self._hear(head, body)
                case _:
                    pass
        self._fill()

    def _next(self) -> tuple[int, bytes] | None:
        length, shift = 0, 0
        for at in range(1, len(self._buffer)):
            length |= (self._buffer[at] & 127) << shift
            shift += 7
            if self._buffer[at] < 128:
                end = at + 1 + length
                if len(self._buffer) < end:
                    return None
                packet = self._buffer[0], self._buffer[at + 1 : end]
                self._buffer = self._buffer[end:]
                return packet
        return None

    def _hear(self, head: int, body: bytes) -> None:
        at = 2 + int.from_bytes(body[:2], "big")
        if head & 0x06:
            assert self._transport is not None
            self._transport.write(_packet(0x40, body[at : at + 2]))
            at += 2
        said = decode(STORED, body[at + 1 + body[at] :])
        assert isinstance(said, Stored)
        now, stored = time.perf_counter(), said.streams.get(self.stream, 0)
        while self._sent and self._sent[0][0] <= stored:
            self.delays.append(now - self._sent.popleft()[1])
        if not self._sent and not self._left:
            self.done.set()


async def _flood(devices: list[Device], records: int) -> str:
    began = time.perf_counter()
    for device in devices:
        device.publish(records // len(devices))
    async with asyncio.timeout(600):
        for device in devices:
            await device.done.wait()
    return json.dumps(time.perf_counter() - began)


async def _trickle(devices: list[Device], records: int, rate: float) -> str:
    began = time.perf_counter()
    for number in range(records):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        device = devices[number % len(devices)]
        device.publish(1)
    async with asyncio.timeout(60):
        for device in devices:
            await device.done.wait()
    return json.dumps([delay for device in devices for delay in device.delays])


async def _main(port: int, count: int, records: int, rate: float | None) -> None:
    devices = [Device(f"publisher-{number}") for number in range(count)]
    loop = asyncio.get_running_loop()
    for device in devices:
        await loop.create_connection(lambda device=device: device, "127.0.0.1", port)
        await device.ready.wait()
    print(await (_flood(devices, records) if rate is None else _trickle(devices, records, rate)))


if __name__ == "__main__":
    numbers = sys.argv[1:]
    speed = float(numbers[3]) if len(numbers) > 3 else None
    asyncio.run(_main(int(numbers[0]), int(numbers[1]), int(numbers[2]), speed))
