"""The hub of a simulated world: its own consuming code over a database that is a dictionary.

What it has of each device is kept beside what the device is known to have written down, so that "exactly once, in
order" is a comparison.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from metrica_hub.decisions.coverage import Coverage
from metrica_hub.errors import BusAway, StoreAway
from metrica_hub.tasks.consume import Consumer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from metrica_fleet.identity import DeviceId, FleetId, StreamId
    from metrica_fleet.records import Event
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.intake import Arrival
    from metrica_hub.decisions.plan import Writes
    from metrica_sim.virtual.bus import SimulatedBroker

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
COMMIT_S: Final = 0.02
ANSWERS_LOST: Final = 0.005
RESTART_S: Final = 3.0


@dataclass(slots=True)
class Database:
    """What the hub has committed."""

    chance: Callable[[], float]
    up: bool = True
    streams: dict[StreamKey, Coverage] = field(default_factory=dict["StreamKey", Coverage])
    events: dict[StreamKey, dict[int, Event]] = field(default_factory=dict["StreamKey", "dict[int, Event]"])
    heartbeats: int = 0
    on_event: Callable[[DeviceId, Event], None] = lambda _device, _event: None
    """Called with each event that was committed."""
    twice: list[str] = field(default_factory=list[str])
    """Events that were written again, or that came again under the same number and were not the same."""

    async def commit(
        self, streams: Sequence[StreamKey], made: Callable[[Mapping[StreamKey, Coverage]], Writes]
    ) -> Writes:
        """Write all or nothing; now and then it is written and the answer is lost."""
        await self._answer()
        self._compare(made({}))
        writes = made({key: self.streams[key] for key in streams if key in self.streams})
        for said in writes.events:
            rows = self.events.setdefault((said.device, said.record.stream), {})
            if said.record.seq in rows:
                self.twice.append(f"{said.device}: {said.record.seq} was written twice")
            rows[said.record.seq] = said.record
            self.on_event(said.device, said.record)
        self.heartbeats += len(writes.heartbeats)
        for one in writes.streams:
            self.streams[one.device, one.stream] = one.coverage
        if self.chance() < ANSWERS_LOST:
            raise StoreAway("the answer to a commit got lost (simulated)")
        return writes

    def _compare(self, whole: Writes) -> None:
        """Note what came under a number that is known to mean something else."""
        for said in whole.events:
            before = self.events.get((said.device, said.record.stream), {}).get(said.record.seq, said.record)
            if (before.kind, before.message) != (said.record.kind, said.record.message):
                self.twice.append(f"{said.device}: {before.kind} and {said.record.kind} are both {before.seq}")

    async def _answer(self) -> None:
        await asyncio.sleep(COMMIT_S)
        if not self.up:
            raise StoreAway("the database is away (simulated)")


class _Uncounted:
    """Nobody reads the meters of a simulated hub."""

    async def timed(self, commit: Awaitable[Writes]) -> Writes:
        return await commit

    def arrived(self, batch: Sequence[Arrival]) -> None:
        """Count nothing."""

    def committed(self, writes: Writes, oldest: datetime) -> None:
        """Count nothing."""

    def store_away(self) -> None:
        """Count nothing."""


@dataclass(slots=True)
class SimulatedHub:
    """One hub process on one broker and one database."""

    fleet: FleetId
    broker: SimulatedBroker
    database: Database
    chance: Callable[[], float]
    dead: bool = False
    """From the start."""
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    also: Callable[[], Coroutine[object, object, None]] | None = None
    """What the hub does beside consuming, until it is cancelled."""
    _consuming: asyncio.Task[None] | None = None
    _leading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run the hub whenever it is up, until cancelled."""
        if not self.dead:
            self._up.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._up.wait()
                self._consuming = group.create_task(self._consume(), name="hub")
                if self.also is not None:
                    self._leading = group.create_task(self.also(), name="rollouts")
                await asyncio.wait([self._consuming])
                if self._leading is not None:
                    self._leading.cancel()
                self.broker.hub_left()
                await asyncio.sleep(RESTART_S)

    def kill(self) -> None:
        """Let the hub be gone, in the middle of whatever it does."""
        self._up.clear()
        for task in (self._consuming, self._leading):
            if task is not None:
                task.cancel()

    @property
    def is_up(self) -> bool:
        """Whether there is a hub."""
        return self._up.is_set()

    def start(self) -> None:
        """Let there be a hub again."""
        self._up.set()

    def events_of(self, device: DeviceId) -> dict[StreamId, dict[int, Event]]:
        """Return the events that are stored of ``device``, by stream and number."""
        return {stream: rows for (name, stream), rows in self.database.events.items() if name == device}

    async def _consume(self) -> None:
        loop = asyncio.get_running_loop()
        consumer = Consumer(
            self.fleet,
            bus=self.broker,
            store=self.database,
            meter=_Uncounted(),
            now=lambda: EPOCH + timedelta(seconds=loop.time()),
            chance=self.chance,
        )
        try:
            await consumer.run()
        except* BusAway:
            pass  # the hub is at its end, and the next one begins
