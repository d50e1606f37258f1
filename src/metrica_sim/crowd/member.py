"""One device of a crowd: the agent's own ledger, report task and bus, on a clock and a network of its own."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from metrica_agent.adapters.bus import Broker, Bus
from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.ledger import Ledger
from metrica_agent.decisions.services import Shown
from metrica_agent.decisions.world import Saying, Stamp
from metrica_agent.tasks.report import ReportTask, Timing
from metrica_agent.wake import Wake
from metrica_fleet import __version__
from metrica_fleet.identity import BootId, CommitId, DeviceId, FleetId, ReleaseDigest, RoleId, StreamId
from metrica_fleet.messages import Status
from metrica_fleet.records import Vitals
from metrica_sim.crowd.diary import Diary
from metrica_sim.crowd.plan import Plan
from metrica_sim.crowd.workload import REPAIRED, runs
from metrica_sim.network import Network, Relay
from metrica_sim.vitals import SimulatedVitals

KIND: Final = "drift.repaired"
"""Of the events that a crowd tells: a device that deploys nothing tells no other of this kind."""
LOOK_S: Final = 0.5
BOOT_S: Final = 3.0
"""What a machine takes to be up again."""


@dataclass(slots=True, kw_only=True)
class Member:
    """A machine that tells."""

    id: DeviceId
    plan: Plan
    thread: ThreadPoolExecutor
    """Of all ledgers of the process."""
    diary: Diary
    chance: random.Random
    relayed: bool
    """Whether its network can be cut, which costs a second connection."""
    network: Network = field(default_factory=Network)
    on: bool = False
    connected: bool = False
    events: int = 0
    reboots: int = 0
    _ledger: Ledger | None = None
    _shown: Shown | None = None
    """What runs: said on each connection, and when a service was put right."""
    _last_event: int = 0
    """The number that the ledger gave to the last event."""
    _quiet: bool = False
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    _switched_off: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Be switched on in its turn, and live until cancelled."""
        await asyncio.sleep(self.chance.random() * self.plan.ramp_s)
        async with asyncio.TaskGroup() as machine:
            host, port = self.plan.host, self.plan.port
            if self.relayed:
                listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                machine.create_task(Relay(self.network, host, port).run(listening))
                host, port = "127.0.0.1", await listening
            while True:
                await self._boot(host, port)
                await asyncio.sleep(self.chance.uniform(0.3, 1.0) * BOOT_S)
                self.network.mend()

    def reboot(self, *, power_cut: bool) -> None:
        """Switch it off and on; after a power cut nobody says good-bye."""
        if not self.on:
            return
        if power_cut and self.relayed:
            self.network.cut()
        self.reboots += 1
        self._switched_off.set()

    async def fall_quiet(self) -> None:
        """Tell no more events; what is being told is told."""
        self._quiet = True
        async with self._telling:
            pass

    async def heard(self) -> None:
        """Return when the hub is known to have every event."""
        while not self.is_heard:  # noqa: ASYNC110 - the ledger tells nobody that it forgets
            await asyncio.sleep(LOOK_S)

    @property
    def records(self) -> int:
        """How many it has written."""
        return 0 if self._ledger is None else self._ledger.last_seq()

    @property
    def stored(self) -> int:
        """How many of them the hub is known to have."""
        return 0 if self._ledger is None else self._ledger.stored()

    @property
    def is_heard(self) -> bool:
        """Whether the hub is known to have every event."""
        return self._last_event == 0 or (self._ledger is not None and self._ledger.stored() >= self._last_event)

    # --- one boot -------------------------------------------------------------------------------------------

    async def _boot(self, host: str, port: int) -> None:
        self._switched_off.clear()
        began_s = time.monotonic()
        clock = Clock(
            boot_id=BootId(str(uuid.UUID(int=self.chance.getrandbits(128), version=4))),
            boot_s=lambda: time.monotonic() - began_s,
            synchronised=lambda: True,
        )
        wake = Wake(clock.now_s)
        folder = Path(self.plan.state) / self.id
        self._ledger = ledger = await Ledger.open(folder / "agent.sqlite", appended=wake.nudge, thread=self.thread)
        try:
            await self._catch_up(ledger, clock)
            began = clock.stamp()
            self._shown = runs(began, began)
            self.on = True
            async with asyncio.TaskGroup() as life:
                tasks = [
                    life.create_task(self._report(ledger, clock, wake, host, port).run()),
                    life.create_task(self._tell(ledger, clock, began)),
                ]
                await self._switched_off.wait()
                async with self._telling:
                    for task in tasks:
                        task.cancel()
        finally:
            self.on = self.connected = False
            await ledger.close()

    async def _catch_up(self, ledger: Ledger, clock: Clock) -> None:
        """Write the backlog, at the first boot."""
        if ledger.last_seq() == 0:
            for _ in range(self.plan.backlog):
                await ledger.heartbeat(clock.stamp(), self._status())

    def _report(self, ledger: Ledger, clock: Clock, wake: Wake, host: str, port: int) -> ReportTask:
        plan, usual = self.plan, Timing()
        broker = Broker(
            host=host,
            port=port,
            username=plan.username,
            password_file=None if plan.password_file is None else Path(plan.password_file),
        )
        return ReportTask(
            device=self.id,
            agent_version=__version__,
            outbox=ledger,
            bus=Bus(broker, fleet=FleetId(plan.fleet), device=self.id),
            clock=clock,
            vitals=SimulatedVitals(str(self.id), clock.now_s),
            status=self._status,
            shown=lambda: self._shown,
            on_head=lambda _: None,
            chance=self.chance.random,
            wake=wake,
            on_link=partial(setattr, self, "connected"),
            timing=Timing(
                heartbeat_s=plan.heartbeat_s,
                reconnect_base_s=usual.reconnect_base_s / plan.haste,
                reconnect_cap_s=usual.reconnect_cap_s / plan.haste,
                stood_s=usual.stood_s / plan.haste,
                resend_base_s=usual.resend_base_s / plan.haste,
                resend_cap_s=usual.resend_cap_s / plan.haste,
            ),
        )

    async def _tell(self, ledger: Ledger, clock: Clock, began: Stamp) -> None:
        while not self._quiet:
            await asyncio.sleep(self.chance.expovariate(1 / self.plan.event_every_s))
            async with self._telling:
                if self._quiet or self._switched_off.is_set():
                    return
                number, repaired = self.events + 1, clock.stamp()
                self._shown = runs(began, repaired)
                saying = Saying(
                    kind=KIND,
                    reason="containers",
                    message=f'service "{REPAIRED}" is exited (exit code {self.chance.randrange(256)})',
                    detail={"number": number},
                )
                (self._last_event,) = await ledger.record(repaired, sayings=(saying,))
                self.events = number
                self.diary.told(self.id, number)

    def _status(self) -> Status:
        commit = hashlib.sha1(self.plan.fleet.encode(), usedforsecurity=False).hexdigest()
        return Status(
            device=self.id,
            role=RoleId("camera"),
            mode="steady",
            commit=CommitId(commit),
            release=ReleaseDigest(hashlib.sha256(commit.encode()).hexdigest()),
            wanted_commit=CommitId(commit),
            phase="confirmed",
            at=None,
            boot_id="",
            uptime_s=0.0,
            agent_version=__version__,
            stream=StreamId("0" * 32),
            last_seq=0,
            vitals=Vitals(),
        )
