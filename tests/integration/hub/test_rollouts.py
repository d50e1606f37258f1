"""Rollouts by a real hub: real Git, real broker, real Postgres, and devices that obey the gate."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster
from tests.fixtures.git_servers import Repository, repository
from tests.fixtures.hub import FLEET, Answer, Hub
from tests.integration.hub.herd import Herd, lasting, living
from tests.integration.hub.killing import killed
from tests.integration.hub.newest_rollout import newest
from tests.integration.hub.waiting import until

from metrica_fleet.definition import rollout_in
from metrica_fleet.gate import EVERYBODY
from metrica_fleet.identity import DeviceId
from metrica_fleet.rollout import planned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    import aiomqtt
    from tests.fixtures.database import Database

    from metrica_fleet.policies import RolloutPolicy

STAGES = """
[[rollout.stages]]
name = "canary"
tags = ["canary"]
soak_s = 0.3

[[rollout.stages]]
name = "some"
share = 0.2
soak_s = 0.3

[[rollout.stages]]
name = "half"
share = 0.5
soak_s = 0.3

[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""


def fleet_of(devices: int, more: str = "", stages: str = STAGES) -> dict[str, str | bytes | None]:
    """Return the files of a fleet, its first two devices tagged canary."""
    files: dict[str, str | bytes | None] = {
        "fleet.toml": f'name = "{FLEET}"\n[rollout]\n{more}\n{stages}',
        "roles/camera/compose.yaml": "services: {}",
    }
    for number in range(devices):
        tags = 'tags = ["canary"]' if number < 2 else ""
        files[f"devices/pi-{number:03d}.toml"] = f'role = "camera"\n{tags}'
    return files


def read(files: Mapping[str, str | bytes | None]) -> tuple[RolloutPolicy, Mapping[DeviceId, tuple[str, ...]]]:
    found = rollout_in({name: text.encode() for name, text in files.items() if isinstance(text, str)})
    assert found.policy is not None
    return found.policy, found.devices


@asynccontextmanager
async def rolling_out(
    fleet: Repository,
    files: Mapping[str, str | bytes | None],
    broker: Broker,
    database: Database,
    folder: Path,
    more: Mapping[str, str] | None = None,
) -> AsyncGenerator[tuple[Hub, Herd, aiomqtt.Client]]:
    """A hub that follows ``fleet``, and its devices, which have met the first commit already."""
    with following(fleet, files, broker, database, folder, more) as (hub, herd):
        async with living(herd, broker.port) as client:
            hub.wait_until_ready()
            yield hub, herd, client


@contextmanager
def following(
    fleet: Repository,
    files: Mapping[str, str | bytes | None],
    broker: Broker,
    database: Database,
    folder: Path,
    more: Mapping[str, str] | None = None,
) -> Generator[tuple[Hub, Herd]]:
    """A hub that follows ``fleet``, and its devices, which are to be brought to life."""
    policy, devices = read(files)
    git = {"METRICA_HUB_GIT_URL": str(fleet.bare), "METRICA_HUB_GIT_POLL_S": "0.2", **(more or {})}
    with Hub(database.url, broker.port, settings=git) as hub:
        line = hub.key_line()
        (folder / "signers").write_text(line)
        fleet.commit({**files, "allowed_signers": line})
        yield hub, Herd(devices, policy, folder / "signers")


def state_of(hub: Hub, commit: str) -> str | None:
    found = newest(hub)
    return found["state"] if found is not None and found["commit"] == commit else None


async def test_a_commit_that_breaks_devices_halts_at_the_limit_whatever_is_killed_and_no_gate_opens_after(
    broker: Broker, database: Database, tmp_path: Path
) -> None:
    fleet, files = repository(tmp_path), fleet_of(24, "failure_share = 0.1\ndeadline_s = 600")
    async with rolling_out(fleet, files, broker, database, tmp_path) as (hub, herd, _):
        first = fleet.head()
        await until(lambda: state_of(hub, first) == "done")
        assert herd.started_on(first) == set(herd.devices)

        broken = fleet.commit({"note": "breaks some"})
        plan = planned(herd.policy, broken, herd.devices)
        herd.bad = frozenset(plan.stages[2].members[::2])
        allowed = {device for stage in plan.stages[:3] for device in stage.members}
        await until(lambda: herd.last is not None and herd.last.commit == broken and herd.last.stage >= 1)
        hub.kill()
        hub.start()
        hub.wait_until_ready()
        await until(lambda: state_of(hub, broken) == "halted")
        halted = newest(hub)
        assert halted["reason"] == "failures"
        assert [stage["is_open"] for stage in halted["stages"]] == [True, True, True, False]
        assert [(one["stage"], one["reason"]) for one in halted["failures"]] == [("half", "unhealthy")]
        await until(lambda: herd.last is not None and herd.last.state == "halted")
        assert herd.started_on(broken) <= allowed

        hub.kill()
        heard = len(herd.heard)
        hub.start()
        hub.wait_until_ready()
        await until(lambda: len(herd.heard) > heard)
        assert (herd.heard[-1].state, herd.heard[-1].number) == ("halted", halted["number"])
        assert herd.started_on(broken) <= allowed
        assert state_of(hub, broken) == "halted"

        herd.bad = frozenset()
        mended = fleet.commit({"note": "mended"})
        await until(lambda: state_of(hub, mended) == "done")
        assert [one["state"] for one in hub.get("/api/v1/rollouts").json["items"]] == ["done", "superseded", "done"]
        numbers = [gate.number for gate in herd.heard]
        assert numbers == sorted(numbers)
        assert herd.last is not None
        assert (herd.last.previous, herd.last.threshold) == (broken, EVERYBODY)


SHARES = "".join(
    f'[[rollout.stages]]\nname = "{name}"\nshare = {share}\nsoak_s = 1\n'
    for name, share in (("tenth", 0.1), ("half", 0.5), ("all", 1.0))
)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_of_500_devices_a_commit_breaks_25_and_whatever_is_killed_it_halts_where_they_are(tmp_path: Path) -> None:
    """Postgres, the hub and the broker with its disk are killed on the way there, and all three after the halt."""
    fleet, files = repository(tmp_path), fleet_of(500, "failure_share = 0.05\ndeadline_s = 600", SHARES)
    with (
        Cluster(Path("/var/tmp")) as cluster,  # noqa: S108 - Postgres' user must be able to enter it
        Broker(tmp_path) as broker,
        cluster.database() as database,
        following(fleet, files, broker, database, tmp_path) as (hub, herd),
    ):
        async with lasting(herd, broker.port):
            hub.wait_until_ready()
            first = fleet.head()
            await until(lambda: state_of(hub, first) == "done", within_s=120)
            broken = fleet.commit({"note": "breaks 25"})
            plan = planned(herd.policy, broken, herd.devices)
            assert [len(stage.members) for stage in plan.stages] == [50, 200, 250]
            herd.bad = frozenset(plan.stages[1].members[:25])
            let_in = {device for stage in plan.stages[:2] for device in stage.members}
            await until(lambda: herd.started_on(broken), within_s=60)
            await asyncio.to_thread(killed, hub, cluster)
            await until(lambda: newest(hub)["stage"] >= 0, within_s=60)
            await asyncio.to_thread(killed, hub, hub)
            await until(lambda: herd.started_on(broken) & herd.bad, within_s=60)
            await asyncio.to_thread(killed, hub, broker)
            await until(lambda: state_of(hub, broken) == "halted", within_s=120)
            halted = newest(hub)
            assert [stage["is_open"] for stage in halted["stages"]] == [True, True, False]
            assert herd.started_on(broken) <= let_in

            heard = len(herd.heard)
            await asyncio.to_thread(killed, hub, hub, broker, cluster)
            await until(lambda: len(herd.heard) > heard, within_s=60)
            assert (herd.heard[-1].state, herd.heard[-1].number) == ("halted", halted["number"])
            failed = len(herd.bad & herd.started_on(broken))
            await until(lambda: newest(hub)["stages"][1]["refused"] == failed, within_s=60)
            assert herd.started_on(broken) <= let_in
            assert state_of(hub, broken) == "halted"


PAUSES = """
[[rollout.stages]]
name = "canary"
tags = ["canary"]
soak_s = 0.2
pause = true

[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0.2
"""


def word(hub: Hub, rollout: int, verb: str, token: str, **body: object) -> Answer:
    path, kind = f"/api/v1/rollouts/{rollout}/{verb}", {"Content-Type": "application/json"}
    return hub.get(path, kind, "POST", json.dumps(body), token=token)


async def test_a_person_has_the_last_word_at_any_hub_and_each_word_is_in_the_trail(
    broker: Broker, cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    quick = 'failure_share = 0\ndeadline_s = 1.5\nabort = "revert"'
    fleet, files = repository(tmp_path), fleet_of(6, quick, PAUSES)
    grace = {"METRICA_HUB_PRESENCE_GRACE_S": "1"}
    async with rolling_out(fleet, files, broker, database, tmp_path, more=grace) as (hub, herd, _):
        herd.mute, herd.off = frozenset({DeviceId("pi-001")}), frozenset({DeviceId("pi-005")})
        commit = fleet.head()
        with Hub(database.url, broker.port) as other:
            other.wait_until_ready()
            viewer, operator = other.token("viewer"), other.token("operator")
            await until(lambda: state_of(hub, commit) == "halted")
            halted = newest(other)
            rollout = halted["id"]
            assert [(one["stage"], one["reason"], one["example"]) for one in halted["failures"]] == [
                ("canary", "silent", "pi-001")
            ]
            assert {(one["stage"], one["why"]): one["devices"] for one in halted["waits"]} == {
                ("all", "rollout-halted"): 3,
                ("all", "never-seen"): 1,
            }
            silent = other.get(f"/api/v1/rollouts/{rollout}/devices?state=silent&stage=canary").json["items"]
            assert [(one["device"], one["why"]) for one in silent] == [("pi-001", "silent")]
            metrics = hub.get("/metrics").text
            assert "\nmetrica_rollout_halted 1.0\n" in metrics
            assert '\nmetrica_rollout_devices{stage="canary",state="silent"} 1.0\n' in metrics
            assert "\nmetrica_rollout_refused_ratio 0.5\n" in metrics

            assert word(other, rollout, "resume", viewer, reason="let me").status == 403
            assert word(other, rollout, "resume", operator).status == 422
            assert word(other, rollout, "resume", operator, reason="a\0b").status == 422
            assert other.get("/api/v1/rollouts/99999999999999999999").status == 404
            assert other.get(f"/api/v1/rollouts/{rollout}/devices?state=well").status == 400
            assert word(other, rollout, "pause", operator, reason="too late").json["type"] == "/problems/rollout-halted"
            assert word(other, rollout + 1, "abort", operator, reason="which?").status == 404

            assert word(other, rollout, "resume", operator, reason="pi-001 is on my desk").status == 200
            await until(lambda: state_of(hub, commit) == "paused")
            assert newest(hub)["reason"] == "planned-pause"
            assert newest(hub)["stages"][0]["forgiven"] == 1
            assert herd.started_on(commit) == {"pi-000", "pi-001"}
            assert word(other, rollout, "resume", operator, reason="it looks well").status == 200
            await until(lambda: newest(hub)["stages"][1]["confirmed"] == 3)
            assert word(other, rollout, "abort", operator, reason="it leaks").json["state"] == "aborted"
            await until(lambda: herd.last is not None and herd.last.state == "aborted")
            assert herd.last is not None
            assert (herd.last.revert, herd.last.reason) == (True, "operator: it leaks")
        assert newest(hub)["abort"] == {"revert": True, "devices": 4}
        trail = cluster.execute("SELECT actor, action, subject FROM trail ORDER BY number", database.name)
        assert [line for line in trail.splitlines() if "rollout" in line] == [
            f"operator|rollout.{verb}|rollout/{rollout}" for verb in ("resume", "resume", "abort")
        ]

        broken = fleet.commit({"fleet.toml": "nam = 1"})
        head = await until(lambda: read_head(hub, broken))
        assert head["problems"][0].startswith('fleet.toml:1: unknown key "nam"')
        assert head["is_believed"] is True
        assert newest(hub)["commit"] == commit
        await until(lambda: "can&#39;t be used: fleet.toml:1" in hub.get("/").text)
        silent = fleet.commit({"allowed_signers": None})
        assert (await until(lambda: read_head(hub, silent)))["is_believed"] is False
        for path in ("/", "/rollouts"):
            await until(lambda path=path: "lacks this hub&#39;s key" in hub.get(path).text)


def read_head(hub: Hub, commit: str) -> Any:
    head = hub.get("/api/v1/head").json
    return head if head["read_commit"] == commit else None
