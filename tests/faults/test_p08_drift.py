"""P8: somebody edits files or containers by hand. It is found, told and repaired, and a quiet device finds nothing."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from tests.faults.devices import broker, busybox, device, engine, served
from tests.fixtures.agent import until
from tests.fixtures.engine import IMAGE, Deployer, RealEngine
from tests.fixtures.engine import until as until_seen
from tests.integration.end_to_end.device import PAGE, WEB, Device

from metrica_agent.adapters.clock import Clock, kernel_boot_id
from metrica_agent.adapters.ledger import Ledger
from metrica_agent.decisions import contest, drift
from metrica_agent.decisions.drift import Repair
from metrica_agent.decisions.repair import SETTLING_S
from metrica_agent.decisions.world import Contest, Memory, Sample
from metrica_fleet.errors import FleetError
from metrica_fleet.identity import BootId

if TYPE_CHECKING:
    from tests.faults.failures import FailureTable

    from metrica_agent.decisions.world import Container, Release

__all__ = ["broker", "busybox", "device", "engine", "served"]

CORPUS = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "corpus").glob("*.yaml"))}
BESIDE = {
    "conf/app.conf": "setting = 1\n",
    "conf/base.yaml": f"services: {{base: {{image: '{IMAGE}', network_mode: none, stop_grace_period: 0s}}}}\n",
    "conf/more.yaml": f"""services:
  more: {{image: '{IMAGE}', network_mode: none, stop_grace_period: 0s, command: [sleep, '100000']}}
""",
    "app.env": "FROM_FILE=a value\nQUOTED='with $dollar'\n",
    "secret.txt": "hush",
}
BOOT = BootId("this boot")
CHECK_S = 0.5
FIELD_S = 300.0 - CHECK_S
"""What the default interval of looks adds to a detection here."""


# --- a quiet device finds nothing -----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_quiet_device_finds_nothing_for_a_corpus_of_compose_files(busybox: str, tmp_path: Path) -> None:
    """After confirmation, after a restart of all containers, and after all were made anew: looked at twice each."""
    assert busybox
    assert len(CORPUS) >= 12
    turns = asyncio.Semaphore(4)

    async def told(name: str, compose: str) -> list[str]:
        async with turns:
            return await found_on_a_quiet_device(compose, tmp_path / name)

    found = await asyncio.gather(*(told(name, compose) for name, compose in CORPUS.items()))
    assert {name: lines for name, lines in zip(CORPUS, found, strict=True) if lines} == {}


async def found_on_a_quiet_device(compose: str, state: Path) -> list[str]:
    engine = RealEngine(f"mt-corpus-{secrets.token_hex(4)}")
    deployer = Deployer(engine.project, state)
    try:
        release = await deployer.deploy({"compose.yaml": compose, **BESIDE})
        sample = await at_rest(deployer, release)
        portrait = drift.portrayed(release, sample, BOOT)
        assert portrait is not None
        assert set(portrait.traits) == {service.name for service in release.services if service.replicas}
        found = [*await looked_twice(deployer, release, portrait, "confirmed")]
        await asyncio.to_thread(engine.restart)
        found += await looked_twice(deployer, release, portrait, "restarted")
        names = tuple(service.name for service in release.services if service.replicas)
        await deployer.engine.repair(
            deployer.releases.folder(release.digest), Repair(services=names, recreate=names), 60.0
        )
        found += await looked_twice(deployer, release, portrait, "made anew")
    except FleetError as error:
        return [error.message]
    finally:
        await asyncio.to_thread(engine.clean)
    return found


async def at_rest(deployer: Deployer, release: Release) -> Sample:
    def well(containers: tuple[Container, ...]) -> bool:
        return not drift.differences(release, seen(containers)) and all(
            one.health in {None, "healthy"} for one in containers
        )

    return seen(await until_seen(deployer.engine.containers, well, deadline_s=40))


def seen(containers: tuple[Container, ...]) -> Sample:
    return Sample(at_s=0, containers=containers)


async def looked_twice(deployer: Deployer, release: Release, portrait: Any, when: str) -> list[str]:
    await at_rest(deployer, release)
    looks = [seen(await deployer.engine.containers()) for _ in range(2)]
    return [f"{when}: {one.message}" for look in looks for one in drift.differences(release, look, portrait, BOOT)]


# --- containers -----------------------------------------------------------------------------------------------


def watchful(device: Device) -> Device:
    """Let the agent look at files often."""
    device.rewire(device.wiring(settings={"drift": {"check_s": CHECK_S}}))
    return device


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.table
def test_each_way_to_tamper_with_containers_is_found_told_and_mended(
    device: Device, failure_table: FailureTable
) -> None:
    idle: dict[str, Any] = {"command": ["sleep", "100000"], "restart": "unless-stopped"}
    other_image = f"mt-drift-{secrets.token_hex(4)}:1"
    device.engine.docker("tag", IMAGE, other_image)
    services = {
        "alone": idle,
        "stopped": idle,
        "removed": idle,
        "paused": idle,
        "policy": idle,
        "limited": {**idle, "mem_limit": "64m"},
        "cut-off": {**idle, "networks": ["net"]},
        "homeless": {**idle, "networks": ["gone"]},
        "imaged": {**idle, "image": other_image},
        "once": {"command": ["sh", "-c", "echo x >> /data/runs"], "volumes": ["${METRICA_DATA}/once:/data"]},
    }
    files = device.files({}, page=None)
    compose = {"services": {name: {"image": IMAGE, "stop_grace_period": "0s", **one} for name, one in services.items()}}
    for one in compose["services"].values():
        one.setdefault("network_mode", "none") if "networks" not in one else None
    compose["networks"] = {"net": {}, "gone": {}}

    watchful(device).deploy({**files, "roles/camera/compose.yaml": json.dumps(compose)}, within_s=90)
    until(lambda: device.agent.memory().portrait is not None)
    before, mark, began_s = device.containers(), device.agent.mark(), time.monotonic()

    docker, project = device.engine.docker, device.engine.project
    identity = {name: one[0] for name, one in before.items()}
    docker("stop", "--time", "0", identity["stopped"], identity["homeless"])
    docker("rm", "--force", identity["removed"])
    docker("pause", identity["paused"])
    docker("update", "--restart", "no", identity["policy"])
    docker("update", "--memory", "96m", "--memory-swap", "-1", identity["limited"])
    docker("network", "disconnect", f"{project}_net", identity["cut-off"])
    docker("network", "rm", f"{project}_gone")
    docker("run", "--detach", "--name", f"{project}-by-hand", "--label", f"com.docker.compose.project={project}",
           "--network", "none", IMAGE, "sleep", "100000")  # fmt: skip
    docker("run", "--detach", "--name", f"{project}-masked", "--label", f"com.docker.compose.project={project}",
           "--label", "com.docker.compose.service=alone", "--network", "none", IMAGE, "sleep", "100000")  # fmt: skip
    wrong = docker("commit", identity["alone"], other_image)
    docker("rm", "--force", identity["imaged"])
    docker("run", "--detach", "--network", "none", "--restart", "unless-stopped",
           *labels_of(device, "imaged", identity["alone"], compose), wrong, "sleep", "100000")  # fmt: skip

    told = device.agent.wait_for("drift.found", after=mark, within_s=40)
    detected_s = time.monotonic() - began_s
    for words in (
        '"stopped" is exited',
        '"removed" has 0 of 1',
        '"paused" is paused',
        '"policy" has other restart policy',
        '"limited" has other limits',
        '"cut-off" has other networks',
        '"homeless" is exited',
        '-by-hand" was started by hand',
        '-masked" was started by hand',
        '"imaged"',
    ):
        assert words in told.message, told.message
    assert "metrica-agent hold on" in told.message

    def well() -> bool:
        after = device.containers()
        rests = {name: "exited" if name == "once" else "running" for name in services}
        return {name: state for name, (_, state, _) in after.items()} == rests

    device.agent.wait_for("drift.repaired", after=told.seq, within_s=60)
    until(lambda: "confirmed and runs as it should" in device.agent.why(), within_s=60, what=device.agent.story)
    until(well, within_s=60, what=lambda: f"{device.containers()}\n{device.agent.story()}")
    recovered_s = time.monotonic() - began_s
    after = device.containers()
    assert (after["alone"], after["once"]) == (before["alone"], before["once"])
    assert (device.agent.state / "data/camera/once/runs").read_text() == "x\n"
    assert docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", after["policy"][0]) == "unless-stopped"
    assert docker("inspect", "--format", "{{.HostConfig.Memory}}", after["limited"][0]) == str(64 * 1024 * 1024)
    assert f"{project}_net" in docker("inspect", "--format", "{{.NetworkSettings.Networks}}", after["cut-off"][0])
    original = docker("image", "inspect", "--format", "{{.Id}}", IMAGE)
    assert docker("inspect", "--format", "{{.Image}}", after["imaged"][0]) == original
    docker("rmi", other_image)
    failure_table.row(
        "Config drift",
        "ten containers stopped, removed, paused, updated, replaced or started by hand",
        detected_s=detected_s,
        recovered_s=recovered_s,
        shortened_s=300.0,
    )


def labels_of(device: Device, service: str, like: str, compose: dict[str, Any]) -> list[str]:
    """Return the labels that make a container look like one of Compose's own."""
    assert compose["services"][service]

    current = device.agent.state / "current" / "compose.json"
    model = json.loads(current.read_text())
    template = "{{json .Config.Labels}}"
    labels: dict[str, str] = json.loads(device.engine.docker("inspect", "--format", template, like))
    labels |= {"com.docker.compose.service": service, **model["services"][service]["labels"]}
    return [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_is_contested_is_told_and_left_alone_for_an_hour_over_a_restart_of_the_agent(device: Device) -> None:
    watchful(device).deploy()
    until(lambda: device.agent.memory().portrait is not None)
    device.agent.terminate()
    boot_id = kernel_boot_id()
    # All but one of the repairs that it takes: at their intervals they would take minutes.
    tried = Contest(subject="web", repairs=contest.CONTESTED_AFTER - 1, boot_id=boot_id, last_s=0)
    asyncio.run(remember(device, replace(device.agent.memory(), contests=(tried,))))
    mark = device.agent.mark()
    device.agent.start()
    device.agent.wait_for("agent.started", after=mark)
    device.engine.docker("stop", "--time", "0", device.engine.id("web"))
    told = device.agent.wait_for("drift.contested", after=mark, within_s=40)
    assert "web" in told.message
    assert "once an hour" in told.message
    assert "hold" in told.message
    device.agent.wait_for("drift.repaired", after=told.seq)
    device.serves("one")

    device.engine.docker("stop", "--time", "0", device.engine.id("web"))
    stopped_s = time.monotonic()
    until(lambda: "is confirmed, and" in device.agent.why(), within_s=40, what=device.agent.story)
    until(lambda: time.monotonic() > stopped_s + 2 * SETTLING_S, within_s=60)
    assert device.containers()["web"][1] == "exited"
    device.agent.kill()
    again = device.agent.mark()
    device.agent.start()
    until(lambda: device.agent.told("agent.started", after=again), what=device.agent.story)
    restarted_s = time.monotonic()
    until(lambda: time.monotonic() > restarted_s + 2 * SETTLING_S, within_s=60)
    assert device.containers()["web"][1] == "exited"
    assert not device.agent.told("drift.repaired", "drift.found", "drift.contested", after=again)


async def remember(device: Device, memory: Memory) -> None:
    ledger = await Ledger.open(device.agent.state / "agent.sqlite")
    await ledger.record(Clock.of_this_machine().stamp(), memory=memory)
    await ledger.close()


# --- files ----------------------------------------------------------------------------------------------------

OTHER = {**WEB, "volumes": ["./other:/www:ro"]}
TWO = {"web": WEB, "second": WEB, "other": OTHER, "folder-less": {"command": ["sleep", "100000"]}}


@pytest.fixture
def served_files(device: Device) -> Device:
    """A device whose services read files; ``web`` and ``second`` the same ones."""
    watchful(device).deploy(device.files(TWO, page="good", also={"roles/camera/other/index.html": "other"}))
    for service, page in (("web", "good"), ("second", "good"), ("other", "other")):
        device.serves(page, service)
    spare = device.agent.state / "spare" / device.current()
    until(spare.is_file, what="a spare copy")
    return device


def tampered(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.table
def test_files_that_are_edited_or_replaced_are_restored_and_exactly_their_readers_restarted(
    served_files: Device, failure_table: FailureTable
) -> None:
    device = served_files
    (content,) = (path for path in (device.agent.state / "content").iterdir() if "good" in page_in(path))
    data = device.agent.state / "data" / "camera" / "kept"
    data.write_text("untouched")
    for how in ("edited in place", "replaced", "with the network away"):
        before, mark, began_s = device.containers(), device.agent.mark(), time.monotonic()
        if how == "with the network away":
            # Neither the mirror nor a remote can help: the copy on this disk must do.
            os.rename(device.agent.state / "mirror.git", device.folder / "mirror-away")  # noqa: PTH104
            device.fleet.bare.rename(device.folder / "remote-away")
        if how == "replaced":
            content.chmod(0o755)
            (content / "new").write_text("evil")
            (content / "new").rename(content / "index.html")
        else:
            tampered(content / "index.html", "evil")
            assert "evil" in (device.engine.read("web", "/www/index.html"), "evil")
        told = device.agent.wait_for("drift.found", after=mark)
        detected_s = time.monotonic() - began_s
        assert (told.reason, content.name in told.message) == ("files", True)
        repaired = device.agent.wait_for("drift.repaired", after=told.seq)
        assert repaired.reason == "files"
        for service in ("web", "second"):
            device.serves("good", service)
        recovered_s = time.monotonic() - began_s
        after = device.containers()
        assert {name for name in before if before[name] != after[name]} == {"web", "second"}
        assert (content / "index.html").read_text() == "good"
        assert data.read_text() == "untouched"
        failure_table.row(
            "Config drift",
            f"a mounted file, {how}",
            detected_s=detected_s,
            recovered_s=recovered_s,
            shortened_s=FIELD_S,
        )
        quiet(device)


def page_in(content: Path) -> str:
    return (content / "index.html").read_text() if (content / "index.html").is_file() else ""


def quiet(device: Device) -> None:
    """Wait until nothing is left to do, and a copy is there again."""
    until(lambda: device.agent.memory().mending is None, what=device.agent.story)


def test_a_crash_between_restoring_and_restarting_leaves_no_reader_of_what_was_altered(served_files: Device) -> None:
    device = served_files
    (content,) = (path for path in (device.agent.state / "content").iterdir() if "good" in page_in(path))
    before = device.containers()
    tampered(content / "index.html", "evil")
    until(lambda: device.agent.memory().mending is not None, what=device.agent.story)
    device.agent.kill()
    mark = device.agent.mark()
    device.agent.start()
    device.agent.wait_for("drift.repaired", after=mark)
    for service in ("web", "second"):
        device.serves("good", service)
    after = device.containers()
    assert {name for name in before if before[name] != after[name]} == {"web", "second"}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_agents_own_files_are_restored_and_nothing_is_restarted(served_files: Device) -> None:
    device = served_files
    folder = device.agent.state / "releases" / device.current()
    before = device.containers()
    for name in ("compose.json", "release.json", "MANIFEST"):
        mark = device.agent.mark()
        good = (folder / name).read_bytes()
        tampered(folder / name, "{}")
        device.agent.wait_for("drift.repaired", after=mark)
        assert (folder / name).read_bytes() == good
        quiet(device)
    mark = device.agent.mark()
    device.agent.kill()  # a whole release goes while nobody looks
    folder.chmod(0o755)
    folder.rename(device.folder / "release-away")
    device.agent.start()
    device.agent.wait_for("drift.repaired", after=mark)
    assert (folder / "MANIFEST").is_file()
    assert device.containers() == before
    # A new commit goes on from there.
    device.deploy({PAGE: "better"})
    device.serves("better")
