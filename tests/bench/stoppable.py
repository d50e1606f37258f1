"""Many devices in one process, each with all tasks of the agent, that stand still and wait to be stopped.

    python stoppable.py PORT FIRST COUNT STATE SIGNERS

Prints for each order that all of them have taken note of ``{"number": 7, "at_s": [...]}``, a line: when each had it in
its ledger, on the clock CLOCK_MONOTONIC.

The devices have no remotes and nothing deployed, and their ledgers share a thread: a fleet's disks and processors are
one machine here. For the same reason ssh-keygen is asked once a process for the same bytes and signers; what it takes
by itself is measured beside (test_stop.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
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
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.orders import Orders
from metrica_agent.tasks.parts import Identity, Pace, Parts
from metrica_agent.tasks.staging import SHIPPED_SAFE_MODE, Staging
from metrica_agent.wake import Wake
from metrica_agent.wiring import verified
from metrica_fleet.identity import DeviceId, FleetId
from metrica_sim.crowd.main import allow_files
from metrica_sim.engine import SimulatedEngine
from metrica_sim.probes import SimulatedProbe
from metrica_sim.vitals import SimulatedVitals

FLEET: Final = "e2e"
PROJECT: Final = "metrica"
RAMP_S: Final = 15.0


class Verdicts:
    """ssh-keygen's, asked once for the same question."""

    def __init__(self) -> None:
        self._asked: dict[tuple[object, ...], asyncio.Future[str]] = {}

    async def __call__(self, text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
        key = (text, signature, signers, namespace, at)
        if key not in self._asked:
            asking = verified(text, signature, signers, namespace=namespace, at=at)
            self._asked[key] = asyncio.ensure_future(asking)  # noqa: TID251 - awaited by whoever asks
        return await asyncio.shield(self._asked[key])


class Fleet:
    """The devices, and when each obeyed what."""

    def __init__(self, port: int, first: int, count: int, state: Path, signers: str) -> None:
        self._port, self._state = port, state
        self._names = [f"pi-{number:04d}" for number in range(first, first + count)]
        self._notary = Notary(verify=Verdicts(), own=signers)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledgers")
        self._ledgers: dict[str, Ledger] = {}
        self._at_s: dict[int, list[float]] = {}
        self._seen: dict[str, int] = {}

    async def run(self) -> None:
        """Run them, and tell, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for place, name in enumerate(self._names):
                group.create_task(self._device(name, RAMP_S * place / len(self._names)))

    async def _device(self, name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        folder = self._state / name
        folder.mkdir(parents=True)
        clock = Clock(boot_id=kernel_boot_id(), synchronised=lambda: True)
        async with AsyncExitStack() as stack:
            ledger = await Ledger.open(
                folder / "agent.sqlite", appended=lambda: self._appended(name), thread=self._thread
            )
            stack.push_async_callback(ledger.close)
            self._ledgers[name] = ledger
            git, releases = GitMirror(folder / "mirror.git", isolation="thread"), Releases(folder)
            engine = SimulatedEngine(PROJECT, clock.now_s, name=name)
            spool = Spool(folder / "console")
            await run_device(
                Parts(
                    identity=Identity(fleet=FleetId(FLEET), device=DeviceId(name), agent_version="0"),
                    pace=Pace(heartbeat_s=600.0, look_s=600.0, poll_s=3600.0),
                    remotes=(),
                    git=git,
                    releases=releases,
                    runtime=Staging(
                        git=git,
                        store=releases,
                        engine=engine,
                        project=PROJECT,
                        safe_mode=SHIPPED_SAFE_MODE,
                        leftovers=Leftovers(),
                    ),
                    engine=engine,
                    probe=SimulatedProbe(engine, clock.now_s),
                    ledger=ledger,
                    bus=Bus(Broker(host="127.0.0.1", port=self._port), fleet=FleetId(FLEET), device=DeviceId(name)),
                    clock=clock,
                    vitals=SimulatedVitals(name, clock.now_s),
                    orders=Orders(spool=spool, wake=Wake(clock.now_s), now_s=clock.now_s, chance=random.random),
                    notary=self._notary,
                    chance=random.random,
                )
            )

    def _appended(self, name: str) -> None:
        """Note when the ledger had an order: it says something to the hub in the same transaction."""
        stop = self._ledgers[name].memory().stop if name in self._ledgers else None
        if stop is None or self._seen.get(name) == stop.number:
            return
        self._seen[name] = stop.number
        times = self._at_s.setdefault(stop.number, [])
        times.append(time.monotonic())
        if len(times) == len(self._names):
            tell({"number": stop.number, "at_s": times})


def tell(what: dict[str, object]) -> None:
    """Print a line."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Run until killed."""
    port, first, count, state, signers = sys.argv[1:]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=True
    )
    allow_files(10 * int(count) + 200)
    fleet = Fleet(int(port), int(first), int(count), Path(state), Path(signers).read_text(encoding="utf-8"))
    try:
        import uvloop  # noqa: PLC0415 - not on every Python
    except ImportError:
        asyncio.run(fleet.run())
    else:
        uvloop.run(fleet.run())


if __name__ == "__main__":
    main()
