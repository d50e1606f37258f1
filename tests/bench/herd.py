"""Ten thousand devices in one process, as a broker and a hub see them: an agent's messages, order, pace and window.

    python herd.py PORT DEVICES HEARTBEAT_S [CA]     CA: a file; then by TLS

Commands on standard input, a JSON object a line; a tally as JSON on standard output every half second:

    {"do": "connect", "over_s": 20}     each at some moment of that time
    {"do": "vanish"}                    all connections are gone, without a word
    {"do": "return", "backlog": 60}     each has so many records more, and tries again with full jitter
    {"do": "hush"}                      no more heartbeats

On the codec alone: the agent's own client takes ten times as much processor as the hub, and both would share this
machine. ``metrica simulate`` runs the real one.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final, cast

import mqtt5
import uvloop

from metrica_agent.decisions.pace import Pace, take
from metrica_agent.decisions.saying_status import Said, heeded
from metrica_agent.tasks.report import Timing
from metrica_agent.tasks.talk import UNSTORED
from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import BootId, CommitId, DeviceId, FleetId, ReleaseDigest, RoleId, StreamId
from metrica_fleet.messages import Presence, Status, Stored
from metrica_fleet.records import Heartbeat, Vitals
from metrica_fleet.retry import full_jitter, spread
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, STATUS, STORED, Address, Channel, topic_of
from metrica_sim.crowd.main import allow_files

FLEET: Final = FleetId("e2e")
TELL_S: Final = 0.5
WILL_DELAY_S: Final = 5
COMMIT: Final = CommitId("a" * 40)
RELEASE: Final = ReleaseDigest("b" * 64)
VITALS: Final = Vitals(
    load_1m=0.12,
    memory_total_bytes=906_000_000,
    memory_available_bytes=612_345_678,
    disk_total_bytes=31_000_000_000,
    disk_free_bytes=20_123_456_789,
    temperature_celsius=48.5,
    throttled=False,
    clock_synchronised=True,
    memory_pressure_some_ratio=0.0,
    memory_pressure_full_ratio=0.0,
    disk_path="/var/lib/metrica",
    inodes_total=1_900_000,
    inodes_free=1_700_000,
    under_voltage=False,
    frequency_capped=False,
    soft_temperature_limit=False,
)


class Device(asyncio.Protocol):
    """One device, over all its connections."""

    def __init__(self, number: int, heartbeat_s: float, way: dict[str, Any]) -> None:
        self.id = DeviceId(f"herd-{number:05d}")
        self.stream = StreamId(uuid.uuid4().hex)
        self.boot_id = BootId(str(uuid.uuid4()))
        self.last_seq = 0
        self.stored = 0
        self.connected = False
        self.hushed = False
        self._heartbeat_s = heartbeat_s
        self._way = way
        self._loop = asyncio.get_running_loop()
        self._connections = 0
        self._failures = 0
        self._pace = Pace()
        self._sent = 0
        self._beaten = 0
        self._said: Said | None = None
        self.statuses = 0
        self._flying: deque[int] = deque()
        self._packet_id = 0
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._waits: asyncio.TimerHandle | None = None
        self._beats: asyncio.TimerHandle | None = None
        self._topics = {
            channel: topic_of(Address(FLEET, channel, self.id)) for channel in (PRESENCE, STATUS, RECORDS, STORED)
        }

    async def connect_after(self, delay_s: float) -> None:
        """Connect, and again with full jitter when nobody answers."""
        timing = Timing()
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self._loop.create_connection(lambda: self, "127.0.0.1", **self._way)
            except OSError:
                self._failures += 1
                chance = random.random()
                delay_s = full_jitter(self._failures, chance, timing.reconnect_base_s, timing.reconnect_cap_s)
            else:
                return

    def vanish(self) -> None:
        """Be gone without a word."""
        if self._beats is not None:
            self._beats.cancel()
        if self._transport is not None:
            self._transport.abort()

    # --- the connection ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        self._connections += 1
        self._rest, self._sent, self._said = b"", self.stored, None
        self._flying.clear()
        will = mqtt5.Will(
            self._topics[PRESENCE],
            payload=encode(self._presence("offline", "connection-lost")),
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain=True,
            will_delay_interval=WILL_DELAY_S,
        )
        connect = mqtt5.ConnectPacket(
            str(self.id),
            username=str(self.id),
            clean_start=True,
            will=will,
            keep_alive=int(4 * self._heartbeat_s),
            session_expiry_interval=60,
        )
        transport.write(connect.write())

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.connected, self._transport = False, None
        for timer in (self._waits, self._beats):
            if timer is not None:
                timer.cancel()
        self._waits = self._beats = None

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        view, done = memoryview(data), 0
        while done < len(data):
            try:
                packet, size = mqtt5.read(view[done:])
            except IndexError:
                break
            done += size
            self._heard(packet)
        self._rest = data[done:]

    def _heard(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.ConnAckPacket():
                filters = [self._topics[STORED], topic_of(Address(FLEET, HEAD, None))]
                topics = [mqtt5.TopicFilter(name, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for name in filters]
                self._send(mqtt5.SubscribePacket(self._fresh_id(), topics).write())
            case mqtt5.SubAckPacket():
                self._publish(PRESENCE, encode(self._presence("online", "connected")), retain=True)
                self._say_status()
                self.connected, self._failures = True, 0
                self._beats = self._loop.call_later(random.random() * self._heartbeat_s, self._beat)
                self._fill()
            case mqtt5.PublishPacket(topic=topic, payload=payload, packet_id=packet_id):
                if packet_id is not None:
                    self._send(mqtt5.PubAckPacket(packet_id).write())
                if topic == self._topics[STORED]:
                    self._hear_stored(payload)
            case _:
                pass

    def _hear_stored(self, payload: bytes) -> None:
        said = decode(STORED, payload)
        assert isinstance(said, Stored)
        self.stored = max(self.stored, said.streams.get(self.stream, 0))
        while self._flying and self._flying[0] <= self.stored:
            self._flying.popleft()
        self._fill()

    # --- what it says -----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        if self.hushed:
            return
        self.last_seq += 1
        self._beaten += 1
        self._say_status()
        self._fill()
        self._beats = self._loop.call_later(spread(self._heartbeat_s, random.random()), self._beat)

    def _fill(self) -> None:
        if self._waits is not None or self._transport is None:
            return
        while self._sent < self.last_seq and len(self._flying) < UNSTORED:
            self._pace, wait_s = take(self._pace, self._loop.time())
            self._sent += 1
            self._flying.append(self._sent)
            if wait_s > 0:
                self._waits = self._loop.call_later(wait_s, self._go_on, self._sent)
                return
            self._publish(RECORDS, self._record(self._sent))

    def _go_on(self, seq: int) -> None:
        self._waits = None
        self._publish(RECORDS, self._record(seq))
        self._fill()

    def _publish(self, channel: Channel, payload: bytes, *, retain: bool = False) -> None:
        packet = mqtt5.PublishPacket(
            self._topics[channel],
            payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain=retain,
            packet_id=self._fresh_id(),
            payload_format_indicator=1,
            content_type="application/json",
        )
        self._send(packet.write())

    def _send(self, packet: bytes) -> None:
        if self._transport is not None:
            self._transport.write(packet)

    def _fresh_id(self) -> int:
        self._packet_id = self._packet_id % 65_535 + 1
        return self._packet_id

    def _presence(self, state: str, reason: str) -> Presence:
        return Presence(
            device=self.id,
            state="online" if state == "online" else "offline",
            reason=reason,
            boot_id=self.boot_id,
            connection=self._connections,
            agent_version="0.1.0",
        )

    def _say_status(self) -> None:
        status = Status(
            device=self.id,
            role=RoleId("camera"),
            mode="steady",
            commit=COMMIT,
            release=RELEASE,
            wanted_commit=COMMIT,
            phase="confirmed",
            at=datetime.now(UTC),
            boot_id=self.boot_id,
            uptime_s=self._loop.time(),
            agent_version="0.1.0",
            stream=self.stream,
            last_seq=self.last_seq,
            vitals=VITALS,
        )
        is_due, self._said = heeded(self._said, status, beats=self._beaten, stored=self.stored, now_s=self._loop.time())
        if is_due:
            self.statuses += 1
            self._publish(STATUS, encode(status), retain=True)

    def _record(self, seq: int) -> bytes:
        return encode(
            Heartbeat(
                stream=self.stream,
                seq=seq,
                prev=seq - 1,
                at=datetime.now(UTC),
                boot_id=self.boot_id,
                uptime_s=self._loop.time(),
                commit=COMMIT,
                release=RELEASE,
                mode="steady",
                phase="confirmed",
                vitals=VITALS,
            )
        )


async def _herd(count: int, heartbeat_s: float, way: dict[str, Any]) -> None:
    devices = [Device(number, heartbeat_s, way) for number in range(count)]
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=10)
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: orders.put_nowait(json.loads(sys.stdin.readline())))
    async with asyncio.TaskGroup() as group:
        group.create_task(_tell(devices))
        while True:
            order = await orders.get()
            match order["do"]:
                case "connect":
                    for device in devices:
                        group.create_task(device.connect_after(random.random() * order["over_s"]))
                case "vanish":
                    for device in devices:
                        device.vanish()
                case "return":
                    cap_s = Timing().reconnect_cap_s  # after an hour of failures
                    for device in devices:
                        device.last_seq += order["backlog"]
                        group.create_task(device.connect_after(random.random() * cap_s))
                case _:
                    for device in devices:
                        device.hushed = True


async def _tell(devices: list[Device]) -> None:
    began_s = time.monotonic()
    while True:
        tally = {
            "at_s": time.monotonic() - began_s,
            "connected": sum(device.connected for device in devices),
            "records": sum(device.last_seq for device in devices),
            "stored": sum(device.stored for device in devices),
            "statuses": sum(device.statuses for device in devices),
            "waiting": sum(device.stored < device.last_seq for device in devices),
        }
        print(json.dumps(tally), flush=True)
        await asyncio.sleep(TELL_S)


def _main(port: str, devices: str, heartbeat_s: str, authority: str | None = None) -> None:
    allow_files(int(devices) + 100)
    way: dict[str, Any] = {"port": int(port)}
    if authority is not None:
        way |= {"ssl": ssl.create_default_context(cafile=authority), "server_hostname": "localhost"}
    uvloop.run(_herd(int(devices), float(heartbeat_s), way))


if __name__ == "__main__":
    _main(*sys.argv[1:])
