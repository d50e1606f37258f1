"""P2: a commit is bad in any way. The confirmed release runs again, the reason is told, the commit is not tried again.

What is found out before anything is touched, and the commoner ways to fail a trial, are in
tests/integration/end_to_end/test_end_to_end_refusals.py; here are the others, and what comes after.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.faults.devices import broker, busybox, device, engine, old_hand, served
from tests.fixtures.agent import HEALTH, until
from tests.fixtures.git_servers import mute_server, repository
from tests.integration.agent.test_compose import load_for_machine
from tests.integration.end_to_end.device import COMPOSE, WEB, Device
from tests.integration.end_to_end.private_engine import PrivateEngine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.faults.failures import FailureTable
    from tests.fixtures.broker import Broker
    from tests.fixtures.git_servers import GitHttpServer

    from metrica_fleet.identity import CommitId
    from metrica_fleet.records import Event

__all__ = ["broker", "busybox", "device", "engine", "old_hand", "served"]

ROLE = "roles/camera/role.toml"
FLEET = "fleet.toml"
IDLE: dict[str, Any] = {"command": ["sleep", "100000"]}


@pytest.fixture
def steady(old_hand: Device) -> Device:
    """A device that serves "good", whatever the tests before have pushed."""
    if old_hand.agent.memory().confirmed is None:
        old_hand.deploy(old_hand.files(page="good"))
        old_hand.serves("good")
    old_hand.settled()
    return old_hand


def files(device: Device, services: Any = None, *, also: Mapping[str, str] | None = None, **how: str) -> dict[str, str]:
    """Return the whole repository of a device that others used before: what they left in role.toml is gone."""
    return device.files(services, also={ROLE: "", **(also or {})}, **how)


def assert_as_before(device: Device, good: str) -> None:
    """The confirmed release runs, and nothing of the other."""
    device.serves("good")
    assert (device.current(), set(device.containers())) == (good, {"web"})


def assert_rolled_back(device: Device, bad: CommitId, reason: str, good: str, *, within_s: float = 40) -> Event:
    told = device.refused(bad, within_s=within_s)
    assert (told.kind, told.reason) == ("release.refused", reason)
    device.agent.wait_for("rollback.finished", after=told.seq, within_s=within_s)
    assert_as_before(device, good)
    return told


# --- found out in the trial -------------------------------------------------------------------------------------


@pytest.mark.table
def test_a_port_that_is_taken(steady: Device, failure_table: FailureTable) -> None:
    good = steady.current()
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - as a stranger's service would
        port = taken.getsockname()[1]
        services = {"web": WEB, "shop": {**IDLE, "ports": [f"{port}:80"]}}
        began_s = time.monotonic()
        bad = steady.push(files(steady, services, page="bad"))
        assert_rolled_back(steady, bad, "port-in-use", good)
    took_s = time.monotonic() - began_s
    failure_table.row(
        "Bad config deployed",
        "a port that is taken",
        detected_s=took_s,
        recovered_s=took_s,
        shortened_s=60.0,
    )


def test_a_check_whose_command_hangs(steady: Device) -> None:
    good = steady.current()
    check = (
        '[[checks]]\ntype = "command"\nname = "hangs"\nservice = "web"\ncommand = ["sleep", "3600"]\ntimeout_s = 0.5\n'
    )
    health = "soak_s = 0.6\nstart_deadline_s = 3"
    bad = steady.push(files(steady, page="bad", health=health, also={ROLE: check}))
    told = assert_rolled_back(steady, bad, "check-failed-at-deadline", good)
    assert "hangs" in told.message
    assert processes_with("sleep 3600") == []


def processes_with(words: str) -> list[str]:
    lines = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
    return [line for line in lines if words in line]


def test_compose_that_does_not_end_is_killed_with_its_children(steady: Device) -> None:
    good = steady.current()
    slow = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "1s", "start_period": "1000s"}}
    services = {"slow": slow, "web": {**WEB, "depends_on": {"slow": {"condition": "service_healthy"}}}}
    wanted = files(steady, services, page="bad")
    wanted[FLEET] = wanted[FLEET].replace("apply_deadline_s = 60", "apply_deadline_s = 4")
    bad = steady.push(wanted)
    assert_rolled_back(steady, bad, "apply-timeout", good)
    assert processes_with(f"--project-name {steady.engine.project} --ansi never --progress plain --project-dir") == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_failure_at_each_position_of_a_stack_brings_the_whole_stack_back(steady: Device, position: int) -> None:
    good = steady.current()
    broken = {"entrypoint": ["/no/such/program"]}
    names = ["first", "second", "web"]
    services = {
        name: {
            **WEB,
            **(broken if at == position else {}),
            **({"depends_on": [names[at - 1]]} if at else {}),
        }
        for at, name in enumerate(names)
    }
    bad = steady.push(files(steady, services, page=f"bad at {position}"))
    assert_rolled_back(steady, bad, "command-not-found", good)


# --- found out before: nothing is touched ---------------------------------------------------------------------


def assert_refused_untouched(device: Device, bad: CommitId, reason: str, before: object, good: str) -> None:
    assert device.refused(bad).reason == reason
    assert device.containers() == before
    assert_as_before(device, good)


def test_an_image_that_takes_for_ever_to_arrive(steady: Device) -> None:
    good, before = steady.current(), steady.containers()
    with mute_server() as registry:
        services = {"web": WEB, "other": {"image": f"127.0.0.1:{registry.port}/slow:1"}}
        wanted = files(steady, services, page="bad")
        wanted[FLEET] += "pull_deadline_s = 3\n"
        bad = steady.push(wanted)
        assert_refused_untouched(steady, bad, "image-unreachable", before, good)


def test_an_image_for_another_machine(steady: Device) -> None:
    good, before = steady.current(), steady.containers()
    foreign = f"mt-foreign-{steady.name}:1"
    load_for_machine(foreign, "s390x")
    try:
        bad = steady.push(files(steady, {"web": {**WEB, "image": foreign}}, page="bad"))
        assert_refused_untouched(steady, bad, "wrong-architecture", before, good)
    finally:
        steady.engine.docker("rmi", foreign)


def test_a_refused_commit_is_not_tried_again_after_a_restart_and_without_the_mirror(steady: Device) -> None:
    bad = steady.push({**files(steady, page="bad"), COMPOSE: "services: [\n"})
    steady.refused(bad)
    refused = {one.commit for one in steady.agent.memory().refused}
    steady.agent.kill()
    shutil.rmtree(steady.agent.state / "mirror.git")
    mark = steady.agent.mark()
    steady.agent.start()
    steady.agent.wait_for("agent.started", after=mark)
    # The next commit that is good is deployed from a mirror made anew; what was refused meanwhile was not touched.
    steady.deploy(files(steady, page="good again"), within_s=60)
    assert refused <= {one.commit for one in steady.agent.memory().refused}
    tried = steady.agent.told("release.trial_started", "release.staged", "commit.seen", after=mark)
    assert {event.commit for event in tried} & refused == set()
    steady.deploy(files(steady, page="good"))
    steady.serves("good")


# --- the way back is checked as well --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_confirmed_release_that_no_longer_comes_up_gives_way_to_the_one_before_and_then_to_safe_mode(
    device: Device,
) -> None:
    needs = {"one": device.folder / "one", "two": device.folder / "two"}
    sick = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "0.2s", "retries": 1}}

    def release(page: str) -> dict[str, str]:
        web = {**WEB, "volumes": ["./site:/www:ro", f"{needs[page]}:/needed:ro"]}
        return device.files({"web": web}, page=page)

    for path in needs.values():
        path.mkdir()
    one = device.deploy(release("one"))
    device.deploy(release("two"))
    device.serves("two")

    # All that is needed for the way back is here: neither Git nor its mirror can help.
    bad = device.push(device.files({"web": sick}, page="bad", health="soak_s = 0.6\nstart_deadline_s = 20"))
    device.agent.wait_for("release.trial_started", commit=bad)
    needs["two"].rmdir()
    os.rename(device.agent.state / "mirror.git", device.folder / "mirror-away")  # noqa: PTH104
    told = device.refused(bad)
    device.agent.wait_for("rollback.failed", after=told.seq)
    back = device.agent.wait_for("rollback.finished", after=told.seq, within_s=60)
    assert back.commit == one
    device.serves("one")
    assert device.agent.memory().safe is None

    worse = device.push(device.files({"web": sick}, page="worse", health="soak_s = 0.6\nstart_deadline_s = 20"))
    device.agent.wait_for("release.trial_started", commit=worse, within_s=60)
    needs["one"].rmdir()
    told = device.refused(worse)
    device.agent.wait_for("safe_mode.running", after=told.seq, within_s=60)
    assert device.containers() == {}
    device.deploy(device.files(page="well"), within_s=60)
    device.agent.wait_for("safe_mode.left", after=told.seq)
    device.serves("well")


def test_the_first_commit_ever_is_bad_and_the_next_one_good(device: Device) -> None:
    sick = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "0.2s", "retries": 1}}
    bad = device.push(device.files({"web": sick}, page="bad"))
    device.agent.start()
    assert device.refused(bad).reason == "unhealthy"
    device.agent.wait_for("safe_mode.running", within_s=40)
    assert device.containers() == {}
    device.deploy(device.files(page="good"))
    device.serves("good")
    assert device.agent.told("safe_mode.left")


@pytest.mark.long
def test_what_has_broken_since_it_was_confirmed_does_not_block_the_update_that_mends_it(device: Device) -> None:
    reads = {"volumes": ["${METRICA_DATA}/flag:/flag"], "restart": "always"}
    alive = "test -e /flag/ok && exec sleep 100000; exit 3"
    healthy = {"test": ["CMD", "test", "-e", "/flag/ok"], "interval": "0.2s", "start_period": "3600s"}
    services = {
        "loops": {**reads, "command": ["sh", "-c", alive]},
        "starts": {**reads, **IDLE, "healthcheck": healthy},
        "web": WEB,
    }
    flag = device.agent.state / "data" / "camera" / "flag"
    flag.mkdir(parents=True)
    (flag / "ok").touch()
    device.deploy(device.files(services, page="one"))
    (flag / "ok").unlink()
    device.engine.docker("restart", "--time", "0", device.engine.id("loops"), device.engine.id("starts"))
    until(lambda: "is not well" in device.agent.why(), within_s=40, what=device.agent.story)
    device.deploy(device.files({"loops": IDLE, "starts": IDLE, "web": WEB}, page="two"), within_s=60)
    device.serves("two")


def test_a_volume_that_is_defined_otherwise_keeps_its_data(device: Device) -> None:
    def labelled(label: str) -> dict[str, str]:
        web = {**WEB, "volumes": ["./site:/www:ro", "kept:/kept"]}
        made = device.files({"web": web}, page=label)
        return {**made, COMPOSE: made[COMPOSE][:-1] + f', "volumes": {{"kept": {{"labels": {{"is": "{label}"}}}}}}}}'}

    device.deploy(labelled("one"))
    device.engine.shell("web", "echo precious > /kept/rows")
    device.deploy(labelled("two"))
    device.serves("two")
    assert device.engine.read("web", "/kept/rows") == "precious"


# --- an engine that is killed ---------------------------------------------------------------------------------


@pytest.fixture
def on_its_own_engine(
    busybox: str, tmp_path: Path, served: tuple[Path, GitHttpServer], broker: Broker
) -> Iterator[tuple[Device, PrivateEngine]]:
    """A device with an engine that nobody else uses."""
    assert busybox
    root, server = served
    with PrivateEngine() as own:
        fleet = repository(root, own.project)
        device = Device(own.project, tmp_path, fleet, own, url=server.url(fleet), broker_port=broker.port)
        device.rewire(device.wiring(settings={"compose": {"docker_host": own.address}}))
        try:
            yield device, own
        finally:
            device.agent.end()
        assert "Traceback" not in device.agent.log


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_engine_that_is_killed_in_the_middle_of_a_deployment_and_of_a_rollback(
    on_its_own_engine: tuple[Device, PrivateEngine],
) -> None:
    device, own = on_its_own_engine
    pair = {"web": WEB, "twin": {**WEB, "restart": "no"}}
    device.deploy(device.files(pair, page="one"), within_s=60)

    good = device.push(device.files(pair, page="two", health="soak_s = 2\nstart_deadline_s = 40"))
    device.agent.wait_for("release.trial_started", commit=good)
    until(lambda: (trial := device.agent.memory().trial) is not None and trial.applies > 0, what=device.agent.story)
    own.crash()
    device.confirmed(good, within_s=90)
    for service in pair:
        device.serves("two", service, within_s=40)

    sick = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "0.5s", "retries": 1}}
    bad = device.push(device.files({"web": WEB, "twin": sick}, page="bad", health=HEALTH))
    told = device.refused(bad, within_s=60)
    own.crash()
    back = device.agent.wait_for("rollback.finished", after=told.seq, within_s=90)
    assert back.commit == good
    for service in pair:
        device.serves("two", service, within_s=40)
