"""A device that reports to a real broker, and the smallest hub that keeps the bus's contract."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import aiomqtt
from msgspec import structs
from tests.unit.agent.adapters.ledgers import saying, status

from metrica_agent.adapters.bus import Broker as BrokerAddress
from metrica_agent.adapters.bus import Bus, Patience
from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.ledger import Bounds, Ledger
from metrica_agent.tasks.report import ReportTask, Timing
from metrica_agent.wake import Wake
from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.messages import Head, Presence, Services, Status, Stored
from metrica_fleet.records import Event, Record, Vitals, advanced
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, SERVICES, STATUS, STORED, Address, Channel, topic_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from metrica_agent.decisions.services import Shown
    from metrica_fleet.messages import Message

FLEET = FleetId("test")
DEVICE = DeviceId("pi-01")
QUICK = Timing(heartbeat_s=3600, reconnect_base_s=0.05, reconnect_cap_s=0.3, resend_base_s=0.4, resend_cap_s=2.0)


def topic(channel: Channel) -> str:
    return topic_of(Address(FLEET, channel, DEVICE if channel.per_device else None))


async def until(fact: Callable[[], object], within_s: float = 45.0) -> None:
    """Return when ``fact`` holds."""
    try:
        async with asyncio.timeout(within_s):
            while not fact():  # noqa: ASYNC110  # a fact about another process has no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError("it did not come to be in time") from None


@dataclass
class Device:
    """The telemetry half of an agent."""

    ledger: Ledger
    bus: Bus
    task: ReportTask
    heads: list[Head]
    clock: Clock
    runner: asyncio.Task[None] | None = None
    now: Status = field(default_factory=status)
    runs: Shown | None = None

    async def say(self, *texts: str) -> tuple[int, ...]:
        return await self.ledger.record(self.clock.stamp(), sayings=[saying(text) for text in texts])

    async def stop(self) -> None:
        """End the report task, as SIGTERM does."""
        if self.runner is not None:
            self.runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.runner
            self.runner = None


@contextlib.asynccontextmanager
async def device(
    folder: Path, port: int, *, timing: Timing = QUICK, patience: Patience | None = None, **more: Any
) -> AsyncGenerator[Device]:
    """Run a device until the end of the block."""
    clock = more.pop("clock", None) or Clock.of_this_machine()
    wake = Wake(clock.now_s)
    ledger = await Ledger.open(folder / "agent.sqlite", appended=wake.nudge, bounds=more.pop("bounds", Bounds()))
    heads: list[Head] = []
    slower = more.pop("slower", lambda: 1)
    bus = Bus(BrokerAddress(host="127.0.0.1", port=port, **more), fleet=FLEET, device=DEVICE, patience=patience)

    async def vitals() -> Vitals:
        return Vitals(load_1m=0.5)

    this: Device
    task = ReportTask(
        device=DEVICE,
        agent_version="0.1.0",
        outbox=ledger,
        bus=bus,
        clock=clock,
        vitals=vitals,
        status=lambda: this.now,
        shown=lambda: this.runs,
        on_head=heads.append,
        chance=random.Random(1).random,  # jitter
        wake=wake,
        timing=timing,
        slower=slower,
    )
    this = Device(ledger, bus, task, heads, clock)
    try:
        async with asyncio.TaskGroup() as group:
            this.runner = group.create_task(task.run())
            try:
                yield this
            finally:
                await this.stop()
    finally:
        await ledger.close()


@dataclass
class TinyHub:
    """Stores what comes in its memory, and says so; as deaf or as silent as the test wants it."""

    client: aiomqtt.Client
    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    watermarks: dict[str, int] = field(default_factory=dict)
    presences: list[Presence] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    services: list[Services] = field(default_factory=list)
    raw: list[aiomqtt.Message] = field(default_factory=list)
    came: int = 0
    deaf: bool = False
    """Nothing arrives, as when the broker forgot it."""
    loses: set[int] = field(default_factory=set[int])
    """Numbers that do not arrive."""
    silent: bool = False
    """It stores, and does not say so."""

    def said(self) -> list[str]:
        found = (self.records[key] for key in self.order)
        return [record.message for record in found if isinstance(record, Event) and record.kind == "commit.seen"]

    def kinds(self) -> list[str]:
        found = (self.records[key] for key in self.order)
        return [record.kind for record in found if isinstance(record, Event)]

    async def listen(self) -> None:
        async for message in self.client.messages:
            self.raw.append(message)
            if message.topic.value == topic(RECORDS):
                self.came += 1
                record = cast("Record", decode(RECORDS, message.payload))
                if not self.deaf and record.seq not in self.loses:
                    await self.take(record)
            elif message.topic.value == topic(PRESENCE):
                self.presences.append(cast("Presence", decode(PRESENCE, message.payload)))
            elif message.topic.value == topic(SERVICES):
                self.services.append(cast("Services", decode(SERVICES, message.payload)))
            elif message.topic.value == topic(STATUS):
                self.statuses.append(cast("Status", decode(STATUS, message.payload)))

    async def take(self, record: Record) -> None:
        key = (record.stream, record.seq)
        if key in self.records:
            assert structs.replace(self.records[key], prev=0) == structs.replace(record, prev=0)
        else:
            self.records[key] = record
            self.order.append(key)
        self.watermarks[record.stream] = advanced(self.watermarks.get(record.stream, 0), record)
        if not self.silent:
            await self.tell()

    async def tell(self, **more: int) -> None:
        await self.say(STORED, Stored(streams=cast("Any", {**self.watermarks, **more})))

    async def say(self, channel: Channel, message: Message) -> None:
        await self.client.publish(topic(channel), encode(message), qos=1, retain=True)


@contextlib.asynccontextmanager
async def tiny_hub(port: int, before: TinyHub | None = None) -> AsyncGenerator[TinyHub]:
    """Run a hub; ``before`` is the one whose database it goes on with."""
    async with aiomqtt.Client(
        "127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5, identifier="metrica-test-hub"
    ) as client:
        client.pending_calls_threshold = 1000
        hub = TinyHub(client)
        if before is not None:
            hub.records, hub.order, hub.watermarks = before.records, before.order, before.watermarks
        for channel in (RECORDS, PRESENCE, STATUS, SERVICES):
            await client.subscribe(topic(channel), qos=1)
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(hub.listen())
            try:
                yield hub
            finally:
                listening.cancel()


async def retained(port: int, channel: Channel) -> aiomqtt.Message:
    """Return what a newcomer sees on ``channel``."""
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(topic(channel), qos=1)
        async with asyncio.timeout(5):
            return await anext(aiter(client.messages))


__all__ = [
    "HEAD",
    "PRESENCE",
    "QUICK",
    "RECORDS",
    "SERVICES",
    "STATUS",
    "STORED",
    "Device",
    "TinyHub",
    "device",
    "retained",
    "tiny_hub",
    "topic",
    "until",
]
