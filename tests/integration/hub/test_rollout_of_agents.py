"""A rollout over real agents on simulated machines: what they say of themselves is what the hub takes them for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster
from tests.fixtures.git_servers import git, http_server, repository
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.machines import Machines
from tests.integration.hub.killing import killed
from tests.integration.hub.newest_rollout import is_in, newest_of
from tests.integration.hub.waiting import until

from metrica_fleet.definition import rollout_in
from metrica_fleet.identity import DeviceId
from metrica_fleet.rollout import planned
from metrica_hub.tasks.rollout import REPEAT_S

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.fixtures.database import Database

    from metrica_agent.decisions.world import Memory

DEVICES = 10
FLEET_FILE = f"""
name = "{FLEET}"

[health]
soak_s = 0.4
start_deadline_s = 3

[limits]
apply_deadline_s = 10

"""
ROLLOUT = """
[rollout]
failure_share = 0.2
deadline_s = 60
prefetch_s = 0.5
abort = "revert"

[[rollout.stages]]
name = "canary"
devices = ["pi-01"]
soak_s = 0.5

[[rollout.stages]]
name = "some"
share = 0.4
soak_s = 0.5

[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""


def compose(version: int) -> str:
    return f"services:\n  web:\n    image: example.org/web:{version}\n    restart: unless-stopped\n"


FILES: Mapping[str, str] = {
    "fleet.toml": FLEET_FILE,
    "roles/camera/compose.yaml": compose(1),
    **{f"devices/pi-{number:02d}.toml": 'role = "camera"\n' for number in range(1, DEVICES + 1)},
}


@pytest.mark.long
async def test_agents_begin_with_the_gate_halt_with_it_and_go_back_with_an_abort(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    fleet = repository(tmp_path)
    files = FILES
    policy, devices = read({**files, "fleet.toml": FLEET_FILE + ROLLOUT})
    with http_server(fleet.root) as server:
        git = {"METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.3"}
        with Hub(database.url, broker.port, settings=git) as hub:
            first = fleet.commit({**files, "allowed_signers": hub.key_line()})
            with Machines.running(server.url(fleet), broker.port, tmp_path, devices=DEVICES) as machines:
                hub.wait_until_ready()
                await until(lambda: on(hub, first), within_s=60)
                assert hub.get("/api/v1/rollouts").json["items"] == []

                second = fleet.commit({"fleet.toml": FLEET_FILE + ROLLOUT, "roles/camera/compose.yaml": compose(2)})
                done = await until(lambda: is_in(hub, second, "done"), within_s=60)
                assert [stage["confirmed"] for stage in done["stages"]] == [1, 4, 5]

                # Broken for some of the second stage: no device of the third begins it.
                broken = fleet.commit({"roles/camera/compose.yaml": compose(3)})
                bad = planned(policy, broken, devices).stages[1].members[:2]
                for device in bad:
                    assert machines.told(f"fault {device} exits") == "ok"
                halted = await until(lambda: is_in(hub, broken, "halted"), within_s=60)
                assert {one["stage"] for one in halted["failures"]} == {"some"}
                assert halted["stages"][2]["waiting"] == 5

                operator = hub.token("operator")
                body = '{"reason": "it is broken"}'
                path, kind = f"/api/v1/rollouts/{halted['id']}/abort", {"Content-Type": "application/json"}
                assert hub.get(path, kind, "POST", body, token=operator).json["state"] == "aborted"
                await until(lambda: went_back(hub, broken, second, bad), within_s=60)
                assert newest_of(hub, broken)["stages"][0]["confirmed"] == 0


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_whatever_is_killed_meanwhile_a_bad_commit_halts_in_its_stage_and_nobody_begins_it_after(
    tmp_path: Path,
) -> None:
    """Hub, broker (with its disk) and Postgres are killed in every stage, and once more all of them after the halt."""
    fleet = repository(tmp_path)
    policy, devices = read({**FILES, "fleet.toml": FLEET_FILE + ROLLOUT})
    with (
        Cluster(Path("/var/tmp")) as cluster,  # noqa: S108 - Postgres' user must be able to enter it
        Broker(tmp_path) as broker,
        cluster.database() as database,
        http_server(fleet.root) as server,
        Hub(
            database.url,
            broker.port,
            settings={"METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.3"},
        ) as hub,
    ):
        hub.wait_until_ready()
        first = fleet.commit({**FILES, "allowed_signers": hub.key_line()})
        with Machines.running(server.url(fleet), broker.port, tmp_path, devices=DEVICES) as machines:

            def begun(commit: str) -> set[str]:
                """Whose ledgers say that they have begun it."""
                return {device for device in devices if has_begun(machines.memory(device), commit)}

            await until(lambda: on(hub, first), within_s=60)
            broken = fleet.commit({"fleet.toml": FLEET_FILE + ROLLOUT, "roles/camera/compose.yaml": compose(2)})
            plan = planned(policy, broken, devices)
            let_in = {device for stage in plan.stages[:2] for device in stage.members}
            for device in plan.stages[1].members[:2]:
                assert machines.told(f"fault {device} exits") == "ok"
            await until(lambda: newest_of(hub, broken), within_s=60)
            killed(hub, hub)
            await until(lambda: begun(broken), within_s=60)
            killed(hub, cluster)
            await until(lambda: newest_of(hub, broken)["stages"][1]["is_open"], within_s=60)
            killed(hub, broker)
            halted = await until(lambda: is_in(hub, broken, "halted"), within_s=90)
            assert [stage["is_open"] for stage in halted["stages"]] == [True, True, False]
            assert begun(broken) <= let_in

            killed(hub, hub, broker, cluster)
            heard = halted["number"]
            others = set(devices) - let_in
            await until(lambda: all(told_of(machines.memory(one), heard) for one in others), within_s=60)
            await until(lambda: all(is_heard_again(hub, device) for device in devices), within_s=90)
            assert begun(broken) <= let_in
            again = newest_of(hub, broken)
            assert (again["state"], again["number"]) == ("halted", halted["number"])


async def test_a_new_device_begins_its_first_rollout_without_waiting_for_the_hub_to_repeat_the_gate(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    """It hears the gate before its first commit tells it who may sign one."""
    fleet, late = repository(tmp_path), repository(tmp_path, "late")
    files = {"roles/camera/compose.yaml": compose(1), "devices/pi-01.toml": 'role = "camera"\n'}
    with http_server(fleet.root) as server:
        git_settings = {"METRICA_HUB_GIT_URL": server.url(fleet), "METRICA_HUB_GIT_POLL_S": "0.3"}
        with Hub(database.url, broker.port, settings=git_settings) as hub:
            hub.wait_until_ready()
            first = fleet.commit({**files, "fleet.toml": FLEET_FILE + ROLLOUT, "allowed_signers": hub.key_line()})
            repeats_at_s = time.monotonic() + REPEAT_S
            await until(lambda: newest_of(hub, first))
            with Machines.running(server.url(late), broker.port, tmp_path, devices=1):
                await until(lambda: hub.get("/api/v1/events?kind=gate.refused").json["items"])
                git("push", "--quiet", str(late.bare), "HEAD:refs/heads/main", folder=fleet.work)
                await until(lambda: is_in(hub, first, "done"), within_s=repeats_at_s - 5 - time.monotonic())


def has_begun(memory: Memory, commit: str) -> bool:
    """Whether a device is on trial with a commit, has confirmed it, or was and found it bad."""
    refused = next((one for one in memory.refused if one.commit == commit), None)
    trial, confirmed = memory.trial, memory.confirmed
    runs = (trial is not None and trial.commit == commit) or (confirmed is not None and confirmed.commit == commit)
    return runs or refused is not None


def told_of(memory: Memory, number: int) -> bool:
    """Whether a device remembers that gate."""
    return memory.gate is not None and memory.gate.number == number


def is_heard_again(hub: Hub, device: str) -> bool:
    return hub.get(f"/api/v1/devices/{device}").json["connection"] == "online"


def on(hub: Hub, commit: str, besides: Collection[str] = ()) -> bool:
    """Whether every device, ``besides`` some, has confirmed ``commit`` and is well."""
    devices = hub.get("/api/v1/devices").json["items"]
    well = [one for one in devices if (one["commit"], one["mode"]) == (commit, "steady")]
    return len({one["device"] for one in well}.difference(besides)) == DEVICES - len(besides)


def went_back(hub: Hub, aborted: str, before: str, bad: Collection[str]) -> bool:
    """Whether nobody runs the commit any more; who could not even go back is in safe mode."""
    found = newest_of(hub, aborted)
    return on(hub, before, bad) and not any(stage["confirmed"] + stage["started"] for stage in found["stages"])


def read(files: Mapping[str, str]) -> tuple[Any, Mapping[DeviceId, tuple[str, ...]]]:
    found = rollout_in({name: text.encode() for name, text in files.items()})
    assert found.policy is not None
    return found.policy, found.devices
