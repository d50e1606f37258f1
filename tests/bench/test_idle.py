"""What an agent at rest takes of a device: memory, processor, traffic; at the default intervals."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from tests.bench.nudges import Nudges
from tests.bench.relay import Relay, Traffic
from tests.bench.test_latency import HEALTH, WEB, page
from tests.fixtures.agent import Agent, Wiring, fleet_files, until
from tests.fixtures.own_clock import BELIEVED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.figures import Table
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.engine import RealEngine
    from tests.fixtures.git_servers import GitHttpServer, Repository
    from tests.fixtures.hub import Hub

POLLS = 20
FETCHES = 3
WINDOW_S = 600.0
"""Ten polls and heartbeats, and two of the rare looks at what runs."""
INTERVALS_A_DAY = 1_440
"""Of a minute each, the default of polls and of heartbeats."""
MAX_RSS_BYTES = 36_000_000
MAX_CPU_SHARE = 0.001
MAX_DAY_BYTES = 6_000_000


@dataclass(frozen=True)
class Cost:
    """Processor time so far, in seconds: of the agent, of children that ended, of children that live."""

    own_s: float
    ended_s: float
    living_s: float

    @classmethod
    def of(cls, process: psutil.Process) -> Cost:
        """Look now."""
        times = process.cpu_times()
        living = [child.cpu_times() for child in process.children(recursive=True)]
        return cls(
            times.user + times.system,
            times.children_user + times.children_system,
            sum(one.user + one.system for one in living),
        )

    def __sub__(self, before: Cost) -> Cost:
        return Cost(self.own_s - before.own_s, self.ended_s - before.ended_s, self.living_s - before.living_s)


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def share(seconds: float, window_s: float) -> str:
    return f"{100 * seconds / window_s:.3f} % of a core ({1000 * seconds:.0f} ms in {window_s:.0f} s)"


def a_day(traffic: Traffic, count: int) -> Traffic:
    """Return a day's traffic, from that of ``count`` intervals."""
    return Traffic(*(one * INTERVALS_A_DAY // count for one in (traffic.payload_bytes, traffic.segments)))


def megabytes(traffic: Traffic) -> str:
    payload, wire = traffic.payload_bytes / 1e6, traffic.wire_bytes / 1e6
    return f"{payload:.2f} MB a day of payload, {wire:.2f} MB with the headers of TCP and IP"


def test_an_agent_at_rest_at_the_default_intervals(
    git: tuple[Repository, GitHttpServer],
    broker: Broker,
    engine: RealEngine,
    hub_on: Callable[..., Hub],
    cluster: Cluster,
    database: Database,
    tmp_path: Path,
    table: Table,
    agent_python: Path,
    agent_environment: dict[str, str],
) -> None:
    fleet, server = git

    def beats() -> int:
        return int(cluster.execute("SELECT count(*) FROM heartbeats", database.name))

    fleet.commit({**fleet_files("pi-01", WEB, health=HEALTH), **page(0)})
    with Relay(server.port) as to_git, Relay(broker.port) as to_broker, hub_on() as hub, Nudges(broker) as nudges:
        hub.wait_until_ready()
        wiring = Wiring(
            device="pi-01",
            project=engine.project,
            remotes=(f"http://127.0.0.1:{to_git.port}/{fleet.bare.name}",),
            broker_port=to_broker.port,
            poll_s=60.0,
            sample_s=2.0,
        )
        python = in_step(tmp_path, agent_python)
        with Agent(tmp_path, wiring, python=str(python), environment=agent_environment) as agent:
            in_use(agent, fleet, server, nudges, table)
            at_rest(agent, beats, server, to_git, to_broker, table)


def in_step(folder: Path, python: Path) -> Path:
    """Return ``python`` on a machine whose clock systemd-timesyncd keeps, as Raspberry Pi OS has it.

    Elsewhere the kernel is asked by ctypes, which takes 0.3 MiB more.
    """
    wrapped = folder / "python-in-step"
    wrapped.write_text(f'#!/bin/sh\nexec {shlex.join((*BELIEVED, str(python)))} "$@"\n')
    wrapped.chmod(0o755)
    return wrapped


def in_use(agent: Agent, fleet: Repository, server: GitHttpServer, nudges: Nudges, table: Table) -> None:
    """Deploy a few commits, poll a few times: what an agent has behind it when it comes to rest."""
    agent.wait_for("release.confirmed", commit=fleet.head())
    process = agent.process
    before = Cost.of(process)
    for number in range(1, FETCHES):
        commit = fleet.commit(page(number))
        nudges.nudge()
        agent.wait_for("release.confirmed", commit=commit, within_s=60)
    cost, deployments = Cost.of(process) - before, FETCHES - 1
    own_s, ended_s = cost.own_s / deployments, cost.ended_s / deployments
    table.row("one deployment", f"{own_s:.2f} s of processor time in the agent, {ended_s:.2f} s in children that ended")
    before = Cost.of(process)
    for _ in range(POLLS):
        seen = len(server.seen)
        nudges.nudge()
        until(lambda seen=seen: len(server.seen) > seen, what="a poll")
    cost = Cost.of(process) - before
    table.row("one poll (nudge included)", f"{1000 * cost.own_s / POLLS:.1f} ms of processor time in the agent")


def at_rest(
    agent: Agent, beats: Callable[[], int], server: GitHttpServer, to_git: Relay, to_broker: Relay, table: Table
) -> None:
    """Leave it alone for a while."""
    process = agent.process
    cost, polls, beat = Cost.of(process), len(server.seen), beats()
    git, bus, began_s = to_git.traffic(), to_broker.traffic(), time.monotonic()
    time.sleep(WINDOW_S)
    window_s = time.monotonic() - began_s
    cost, git, bus = Cost.of(process) - cost, to_git.traffic() - git, to_broker.traffic() - bus
    polls, beat = len(server.seen) - polls, beats() - beat

    memory = process.memory_full_info()
    table.row("memory of the agent", f"{mebibytes(memory.rss)} resident (proportional: {mebibytes(memory.pss)})")
    for child in process.children(recursive=True):
        used, name = child.memory_full_info(), " ".join(child.cmdline()[:2])
        table.row(f"memory of its child `{name.rpartition('/')[2]}`", f"{mebibytes(used.rss)} resident")
    table.row("processor, the agent itself", share(cost.own_s, window_s))
    table.row("processor, children that ended", share(cost.ended_s, window_s))
    table.row("processor, children that live on", share(cost.living_s, window_s))
    assert polls > 0
    assert beat > 0
    whole = Traffic(0, 0)
    for name, traffic, count in (("polls", git, polls), ("heartbeats", bus, beat)):
        day = a_day(traffic, count)
        whole += day
        each = traffic.payload_bytes / count
        table.row(f"traffic of {name}", f"{megabytes(day)} ({count} counted, {each:.0f} B of payload each)")
    table.row("traffic in all", megabytes(whole))
    table.row("connections since the start", f"{to_git.connections} to Git, {to_broker.connections} to the broker")
    assert memory.rss <= MAX_RSS_BYTES
    assert cost.own_s <= MAX_CPU_SHARE * window_s
    assert whole.wire_bytes <= MAX_DAY_BYTES
