"""From a commit to devices that have started it, and to devices that have confirmed it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.bench.figures import boot_s
from tests.bench.nudges import Nudges
from tests.fixtures.agent import FLEET, Agent, Wiring, fleet_files, until

from metrica_agent.adapters.ledger import recent_events
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.figures import Table
    from tests.fixtures.broker import Broker
    from tests.fixtures.engine import RealEngine
    from tests.fixtures.git_servers import GitHttpServer, Repository
    from tests.fixtures.hub import Hub

    from metrica_fleet.records import Event

SOAK_S = 1.0
HEALTH = f"soak_s = {SOAK_S}\nstart_deadline_s = 30"
POLL_S = 5.0
COMMITS = 8
DEVICES = 12
STARTED_WITHIN_S = 2.0
WEB = {
    "web": {
        "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
        "volumes": ["./site:/www:ro"],
        "restart": "unless-stopped",
    }
}


def page(number: int) -> dict[str, str]:
    return {"roles/camera/site/index.html": f"page {number}\n"}


def first_files() -> dict[str, str]:
    return {**fleet_files("pi-01", WEB, health=HEALTH), **page(0)}


def told(ledger: Path, kind: str, commit: str, *, within_s: float = 60.0) -> Event:
    """Wait for an event of the agent whose ledger this is."""

    def look() -> list[Event]:
        try:
            events = recent_events(ledger, 50)
        except NotNow:
            return []
        return [event for event in events if event.kind == kind and event.commit == commit]

    return until(look, within_s=within_s, what=f"{kind} {commit} in {ledger}")[0]


def measured(agent: Agent, fleet: Repository, table: Table, nudges: Nudges | None, pause: Callable[[], float]) -> None:
    ledger = agent.state / "agent.sqlite"
    told(ledger, "release.confirmed", fleet.head())
    started: list[float] = []
    confirmed: list[float] = []
    nudged: list[float] = []
    for number in range(1, COMMITS + 1):
        time.sleep(pause())
        commit = fleet.commit(page(number))
        pushed_s = boot_s()
        started_s = told(ledger, "release.trial_started", commit).uptime_s
        started.append(started_s - pushed_s)
        confirmed.append(told(ledger, "release.confirmed", commit).uptime_s - pushed_s)
        if nudges is not None:
            nudged.append(started_s - nudges.heard(commit))
    if nudged:
        table.spread("nudge → started", nudged)
    table.spread("push → started", started)
    table.spread(f"push → confirmed (soak {SOAK_S:g} s)", confirmed)


def test_real_agent_with_a_poll_of_5_s(
    git: tuple[Repository, GitHttpServer],
    broker: Broker,
    engine: RealEngine,
    tmp_path: Path,
    table: Table,
    agent_python: Path,
    agent_environment: dict[str, str],
) -> None:
    fleet, server = git
    wiring = Wiring(
        device="pi-01",
        project=engine.project,
        remotes=(server.url(fleet),),
        broker_port=broker.port,
        poll_s=POLL_S,
        sample_s=2.0,
    )
    fleet.commit(first_files())
    with Agent(tmp_path, wiring, python=str(agent_python), environment=agent_environment) as agent:
        measured(agent, fleet, table, None, lambda: random.uniform(0, POLL_S))


def test_real_agent_with_the_hubs_nudge(
    git: tuple[Repository, GitHttpServer],
    broker: Broker,
    engine: RealEngine,
    hub_on: Callable[..., Hub],
    tmp_path: Path,
    table: Table,
    agent_python: Path,
    agent_environment: dict[str, str],
) -> None:
    fleet, server = git
    wiring = Wiring(
        device="pi-01",
        project=engine.project,
        remotes=(server.url(fleet),),
        broker_port=broker.port,
        poll_s=3600,
        sample_s=2.0,
    )
    fleet.commit(first_files())
    with (
        hub_on(git_url=server.url(fleet), git_poll_s="1") as hub,
        Nudges(broker) as nudges,
        Agent(tmp_path, wiring, python=str(agent_python), environment=agent_environment) as agent,
    ):
        hub.wait_until_ready()
        table.row("the hub looks at the repository", "every 1 s")
        measured(agent, fleet, table, nudges, lambda: random.uniform(0, 1))


def test_12_simulated_devices_with_the_hubs_nudge(
    git: tuple[Repository, GitHttpServer],
    broker: Broker,
    hub_on: Callable[..., Hub],
    tmp_path: Path,
    table: Table,
) -> None:
    fleet, server = git
    names = [f"pi-{number:02d}" for number in range(1, DEVICES + 1)]
    files = first_files() | {f"devices/{name}.toml": 'role = "camera"\n' for name in names}
    commits = [fleet.commit(files)]
    state = tmp_path / "world"
    world = [sys.executable, "-m", "metrica_sim", "run", "--fleet", FLEET, "--git", server.url(fleet)]
    world += ["--bus", f"127.0.0.1:{broker.port}", "--state", str(state), "--devices", str(DEVICES), "--poll", "3600"]
    ledgers = [state / name / "agent.sqlite" for name in names]
    with (
        hub_on(git_url=server.url(fleet), git_poll_s="1") as hub,
        Nudges(broker) as nudges,
        (tmp_path / "sim.log").open("wb") as log,
        subprocess.Popen(world, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=dict(os.environ)) as running,
    ):
        try:
            hub.wait_until_ready()
            for ledger in ledgers:
                told(ledger, "release.confirmed", commits[0])
            all_started: list[float] = []
            each_started: list[float] = []
            all_confirmed: list[float] = []
            for number in range(1, COMMITS + 1):
                commit = fleet.commit(page(number))
                nudge_s = nudges.heard(commit)
                started = [told(ledger, "release.trial_started", commit).uptime_s - nudge_s for ledger in ledgers]
                confirmed = [told(ledger, "release.confirmed", commit).uptime_s - nudge_s for ledger in ledgers]
                all_started.append(max(started))
                each_started += started
                all_confirmed.append(max(confirmed))
        finally:
            running.terminate()
    table.spread("nudge → a device has started", each_started)
    table.spread(f"nudge → all {DEVICES} have started", all_started)
    table.spread(f"nudge → all {DEVICES} have confirmed (soak {SOAK_S:g} s)", all_confirmed)
    assert sorted(all_started)[len(all_started) // 2] <= STARTED_WITHIN_S
