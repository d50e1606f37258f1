"""The smallest hub that keeps the bus's contract, for many devices: stores in memory, says so, notes contradictions."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Self, cast

import aiomqtt
from msgspec import structs
from tests.faults.machine import in_order, up_to

from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import DeviceId, FleetId, StreamId
from metrica_fleet.messages import Stored
from metrica_fleet.records import Event, Record
from metrica_fleet.topics import RECORDS, STORED, Address, address_of, every_device, topic_of

if TYPE_CHECKING:
    from collections.abc import Sequence

START_S: Final = 15.0


class Witness:
    """What devices have said over one broker; runs in a thread of its own from ``with`` to its end."""

    def __init__(self, port: int, fleet: str) -> None:
        self._port = port
        self._fleet = FleetId(fleet)
        self._records: dict[str, dict[tuple[str, int], Record]] = defaultdict(dict)
        self._watermarks: dict[str, dict[StreamId, int]] = defaultdict(dict)
        self._contradictions: dict[str, list[str]] = defaultdict(list)
        self._listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="witness")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(START_S), "the witness does not reach the broker"
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._work is not None:
            self._loop.call_soon_threadsafe(self._work.cancel)
        self._thread.join(START_S)

    # --- what was said ---

    def stored(self, device: str, stream: str) -> int:
        """Return up to where ``stream`` is stored without a gap."""
        return self._watermarks[device].get(StreamId(stream), 0)

    def events(self, device: str) -> Sequence[Event]:
        """Return all events that came, in the order in which the device wrote them."""
        return in_order(self._records[device].copy())  # at once: its thread goes on adding to it

    def contradictions(self, device: str) -> Sequence[str]:
        """Return one sentence for each number that meant two things."""
        return tuple(self._contradictions[device])

    def missing(self, device: str) -> Sequence[int]:
        """Return the numbers up to the highest that came, of any stream, that never did."""
        came = {seq for _, seq in list(self._records[device])}
        return sorted(set(range(1, max(came, default=0))) - came)

    # --- in the thread ---

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            self._work = group.create_task(self._listen())

    async def _listen(self) -> None:
        version = aiomqtt.ProtocolVersion.V5
        async with aiomqtt.Client("127.0.0.1", self._port, protocol=version, identifier="witness") as client:
            client.pending_calls_threshold = 1000
            await client.subscribe(every_device(self._fleet, RECORDS), qos=1)
            self._listening.set()
            async for message in client.messages:
                device = address_of(message.topic.value).device
                if device is not None:
                    self._take(str(device), cast("Record", decode(RECORDS, message.payload)))
                    await self._tell(client, str(device))

    def _take(self, device: str, record: Record) -> None:
        known = self._records[device].setdefault((record.stream, record.seq), record)
        if structs.replace(known, prev=0) != structs.replace(record, prev=0):
            self._contradictions[device].append(f"number {record.seq} means two things: {known} and {record}")
        watermarks = self._watermarks[device]
        watermarks[record.stream] = up_to(watermarks.get(record.stream, 0), record, self._records[device])

    async def _tell(self, client: aiomqtt.Client, device: str) -> None:
        topic = topic_of(Address(self._fleet, STORED, DeviceId(device)))
        stored = Stored(streams=dict(self._watermarks[device]))
        await client.publish(topic, encode(stored), qos=1, retain=True)
