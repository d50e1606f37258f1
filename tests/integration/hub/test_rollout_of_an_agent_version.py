"""Another agent is part of a rollout like anything else: installed ahead, and not started before its stage is open."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.fixtures import wheels
from tests.fixtures.agent import Agent, Wiring, until
from tests.fixtures.agent_versions import Installed, python_program
from tests.fixtures.git_servers import repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.supervisor import Supervisor
from tests.integration.hub.newest_rollout import is_in, newest_of

from metrica_agent import launcher
from metrica_fleet.agent_versions import LISTING, AgentVersion, read_listing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Database

NUMBER = "9.9.9"
ROLLOUT = f"""
[agent]
version = "{NUMBER}"

[rollout]
waiting_s = 2
deadline_s = 600
prefetch_s = 0

[[rollout.stages]]
name = "canary"
devices = ["pi-02"]
pause = true

[[rollout.stages]]
name = "all"
share = 1.0
"""
SETTINGS = {
    "guard": {"steady_s": 2.0, "blocked_s": 10.0},
    "compose": {"docker_host": "unix:///nonexistent"},
    "agent_update": {"trial_s": 200.0},
}


@pytest.mark.long
@pytest.mark.timeout(500)
def test_another_agent_is_installed_ahead_and_begun_by_the_gate_that_opens_its_stage(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    """The first stage has nobody to wait for: its only device was never there. A person says go on to the second."""
    fleet, made = repository(tmp_path), wheels.of_the_agent(tmp_path / "wheels", NUMBER)
    wanted = AgentVersion(version=NUMBER, wheels=read_listing(NUMBER, (made / LISTING).read_bytes(), []) or ())
    installed = Installed(tmp_path / "opt")
    installed.put(launcher.BASE, python_program("from metrica_agent.__main__ import main\nmain()\n"))
    wiring = Wiring(
        device="pi-01",
        project="none",
        remotes=(str(fleet.bare),),
        broker_port=broker.port,
        fleet=FLEET,
        settings=SETTINGS,
    )
    agent = Agent(tmp_path, wiring)
    git = {"METRICA_HUB_GIT_URL": str(fleet.bare), "METRICA_HUB_GIT_POLL_S": "0.3"}
    with (
        Hub(database.url, broker.port, settings=git) as hub,
        Supervisor(partial(installed.start, agent), watchdog_s=60.0),
    ):
        hub.wait_until_ready()
        first = fleet.commit(
            {
                "fleet.toml": f'name = "{FLEET}"\n',
                "allowed_signers": hub.key_line(),
                "devices/pi-01.toml": 'role = "camera"\n',
                "devices/pi-02.toml": 'role = "camera"\n',
                "roles/camera/compose.yaml": "services:\n  web:\n    image: example.org/web:1\n",
            }
        )
        until(lambda: agent.memory().accepted == first, what=agent.story)
        commit = fleet.commit(
            {
                "fleet.toml": f'name = "{FLEET}"\n{ROLLOUT}',
                **{f"agent/{NUMBER}/{one.name}": one.read_bytes() for one in made.iterdir()},
            }
        )
        paused = until(lambda: is_in(hub, commit, "paused"), what=lambda: hub.log[-3000:])
        assert [stage["is_open"] for stage in paused["stages"]] == [True, False]

        # It is on the disk, the hub's word was heard, and what is waited for is the gate and nothing else.
        until(lambda: agent.told("agent.update_staged", commit=commit), within_s=200, what=agent.story)
        assert wanted.name in installed.there()
        until(lambda: agent.told("release.waiting", commit=commit), what=agent.story)
        until(lambda: heard(agent, commit) == ("paused", 0), what=agent.story)
        until(lambda: "paused" in agent.why(), what=agent.story)
        assert not agent.told("agent.update_started"), agent.story()
        assert launcher.read_choice(installed.versions).get("trial") is None

        body = json.dumps({"reason": "it looks well"})
        path, kind = f"/api/v1/rollouts/{paused['id']}/resume", {"Content-Type": "application/json"}
        assert hub.get(path, kind, "POST", body, token=hub.token("operator")).status == 200
        until(lambda: agent.told("agent.update_started", commit=commit), what=agent.story)
        assert heard(agent, commit) == ("open", 1)
        until(lambda: newest_of(hub, commit)["stages"][1]["started"] == 1, what=lambda: str(newest_of(hub, commit)))
        (updated,) = until(lambda: agent.told("agent.updated"), within_s=200, what=agent.story)
        assert updated.detail["version"] == NUMBER
        assert launcher.read_choice(installed.versions)["steady"] == wanted.name


def heard(agent: Agent, commit: str) -> tuple[str, int] | None:
    """Return what the agent remembers of the rollout of ``commit``: what it is, and up to which stage it is open."""
    gate = agent.memory().gate
    return (gate.state, gate.stage) if gate is not None and gate.commit == commit else None
