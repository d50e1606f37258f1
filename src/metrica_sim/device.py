"""One simulated device: the real tasks, ledger, releases, Git and bus on a simulated engine, network and sensors."""

from __future__ import annotations

import asyncio
import random
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from metrica_agent.adapters.bus import Broker, Bus
from metrica_agent.adapters.clock import Clock, kernel_boot_id
from metrica_agent.adapters.git import GitMirror
from metrica_agent.adapters.ledger import Ledger
from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.adapters.releases import Releases
from metrica_agent.adapters.spool import Spool
from metrica_agent.tasks.device import run_device
from metrica_agent.tasks.notary import Notary, Verify
from metrica_agent.tasks.orders import Orders
from metrica_agent.tasks.parts import Identity, Pace, Parts
from metrica_agent.tasks.staging import SHIPPED_SAFE_MODE, Staging
from metrica_agent.wake import Wake
from metrica_agent.wiring import verified
from metrica_fleet import __version__
from metrica_fleet.identity import DeviceId, FleetId
from metrica_sim.engine import SimulatedEngine
from metrica_sim.network import Network, NetworkedGit, Relay
from metrica_sim.probes import SimulatedProbe
from metrica_sim.vitals import SimulatedVitals

PROJECT: Final = "metrica"
RESTART_S: Final = 5.0
"""What systemd waits before it starts a crashed agent again (RestartSec)."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all devices of one world share."""

    fleet: FleetId
    remotes: tuple[str, ...]
    broker: tuple[str, int]
    pace: Pace
    state: Path
    turns: asyncio.Semaphore
    """How many of them may be busy with Git at once: each is a thread."""
    verify: Verify = verified
    """Finds out who signed an order."""


@dataclass(slots=True)
class SimulatedDevice:
    """A machine, and the agent that runs on it."""

    id: DeviceId
    around: Surroundings
    clock: Clock = field(default_factory=lambda: Clock(boot_id=kernel_boot_id(), synchronised=lambda: True))
    network: Network = field(default_factory=Network)
    engine: SimulatedEngine = field(init=False)
    crashes: int = 0

    def __post_init__(self) -> None:
        began = datetime.now(UTC) - timedelta(seconds=self.clock.now_s())
        self.engine = SimulatedEngine(PROJECT, self.clock.now_s, name=str(self.id), began=began)

    @property
    def folder(self) -> Path:
        """The machine's state directory."""
        return self.around.state / self.id

    async def run(self) -> None:
        """Run the machine until cancelled; an agent that crashed is started again, as systemd does."""
        structlog.contextvars.bind_contextvars(device=str(self.id))
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as machine:
            machine.create_task(Relay(self.network, *self.around.broker).run(listening), name=f"{self.id} relay")
            port = await listening
            while True:
                try:
                    await self._agent(port)
                except Exception:
                    self.crashes += 1
                    log.exception("agent_crashed", crashes=self.crashes)
                await asyncio.sleep(RESTART_S)

    async def _agent(self, port: int) -> None:
        folder, around = self.folder, self.around
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            ledger = await Ledger.open(folder / "agent.sqlite")
            stack.push_async_callback(ledger.close)
            mirror = GitMirror(folder / "mirror.git", isolation="thread")
            stack.push_async_callback(mirror.aclose)
            git = NetworkedGit(mirror, self.network, around.turns)
            releases = Releases(folder)
            await run_device(
                Parts(
                    identity=Identity(fleet=around.fleet, device=self.id, agent_version=__version__),
                    pace=around.pace,
                    remotes=around.remotes,
                    git=git,
                    releases=releases,
                    runtime=Staging(
                        git=git,
                        store=releases,
                        engine=self.engine,
                        project=PROJECT,
                        safe_mode=SHIPPED_SAFE_MODE,
                        leftovers=Leftovers(),
                    ),
                    engine=self.engine,
                    probe=SimulatedProbe(self.engine, self.clock.now_s),
                    ledger=ledger,
                    bus=Bus(Broker(host="127.0.0.1", port=port), fleet=around.fleet, device=self.id),
                    clock=self.clock,
                    vitals=SimulatedVitals(str(self.id), self.clock.now_s),
                    orders=Orders(
                        spool=Spool(folder / "console"),
                        wake=Wake(self.clock.now_s),
                        now_s=self.clock.now_s,
                        chance=random.random,
                    ),
                    notary=Notary(verify=around.verify),
                    chance=random.random,
                )
            )

    def forget(self) -> None:
        """Remove the machine's disk."""
        shutil.rmtree(self.folder, ignore_errors=True)
