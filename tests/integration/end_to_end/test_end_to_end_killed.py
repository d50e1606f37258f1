"""The agent is killed or told to stop in the middle of anything: it ends, and the next one brings it to a good end."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.agent import FLEET, SHUTDOWN_S, until
from tests.fixtures.git_servers import binary, mute_server
from tests.integration.end_to_end.device import WEB, Device

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fixtures.broker import Broker

PAIR = {"web": WEB, "twin": {**WEB, "restart": "no"}}
"""Two that serve the same folder: a mixture of releases shows."""


@pytest.fixture
def steady(old_hand: Device) -> Device:
    """A device that runs a pair of services, confirmed."""
    if old_hand.agent.memory().confirmed is None:
        old_hand.deploy(old_hand.files(PAIR, page="first"))
    if not old_hand.agent.runs:
        old_hand.agent.start()
    old_hand.settled()
    return old_hand


def pages(device: Device) -> dict[str, str]:
    """Return what both serve; the containers of both were made from one release, or it shows."""
    return {service: device.engine.read(service, "/www/index.html") for service in PAIR}


def told(kind: str) -> Callable[[Device, str, int], None]:
    return lambda device, _, mark: ignored(device.agent.wait_for(kind, after=mark))


def ignored(_: object) -> None:
    """Do nothing."""


def compose_runs(device: Device, _: str, mark: int) -> None:
    """Wait until Compose is at work for the trial."""
    device.agent.wait_for("release.trial_started", after=mark)

    def at_work() -> bool:
        trial = device.agent.memory().trial
        return trial is not None and trial.applies > 0 and trial.applied_s is None

    until(at_work, what=device.agent.story)


def half_replaced(device: Device, page: str, mark: int) -> None:
    """Wait until one of the two runs what is new."""
    compose_runs(device, page, mark)
    until(lambda: page in pages_now(device), what=device.agent.story)


def pages_now(device: Device) -> list[str]:
    ids = device.engine.ids()
    return [device.engine.docker("exec", one, "cat", "/www/index.html", check=False) for one in ids]


def in_soak(device: Device, _: str, __: int) -> None:
    device.soaking()


FORWARD = {
    "seen": told("commit.seen"),
    "staged": told("release.staged"),
    "preflighted": told("release.preflighted"),
    "begun": told("release.trial_started"),
    "applying": compose_runs,
    "half replaced": half_replaced,
    "soaking": in_soak,
}


@pytest.mark.parametrize("phase", FORWARD)
def test_an_agent_that_is_killed_on_the_way_forward_confirms_the_commit_after_its_restart(
    steady: Device, phase: str
) -> None:
    page, mark = f"good when {phase}", steady.agent.mark()
    commit = steady.push(steady.files(PAIR, page=page, health="soak_s = 0.6\nstart_deadline_s = 20"))
    FORWARD[phase](steady, page, mark)
    steady.agent.kill()
    steady.agent.start()
    steady.confirmed(commit)
    assert pages(steady) == dict.fromkeys(PAIR, page)
    assert_at_rest(steady, commit)


@pytest.mark.parametrize("phase", ["release.refused", "rollback.started", "applying", "soaking"])
def test_an_agent_that_is_killed_on_the_way_back_goes_all_the_way_back_after_its_restart(
    steady: Device, phase: str
) -> None:
    confirmed, before = steady.agent.memory().confirmed, pages(steady)
    assert confirmed is not None
    sick = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "0.2s", "retries": 1}}
    bad = steady.push(steady.files({**PAIR, "twin": sick}, page=f"bad when {phase}", health="soak_s = 0.6"))
    mark = steady.refused(bad).seq
    if phase == "applying":
        compose_works_again(steady)
    elif phase == "soaking":
        until(lambda: "soaking" in steady.agent.why() or steady.agent.memory().trial is None)
    else:
        steady.agent.wait_for(phase, after=mark - 1)
    steady.agent.kill()
    steady.agent.start()
    back = steady.agent.wait_for("rollback.finished", "rollback.failed", after=mark)
    assert back.kind == "rollback.finished", steady.agent.story()
    assert pages(steady) == before
    assert_at_rest(steady, confirmed.commit)


def compose_works_again(device: Device) -> None:
    def at_work() -> bool:
        trial = device.agent.memory().trial
        return trial is None or trial.applies > 0

    until(at_work, what=device.agent.story)


def assert_at_rest(device: Device, commit: str) -> None:
    memory = device.agent.memory()
    assert memory.confirmed is not None
    assert (memory.confirmed.commit, memory.confirmed.release, memory.trial) == (commit, device.current(), None)


# --- told to stop -------------------------------------------------------------------------------------------------


def presence(device: Device, broker: Broker) -> dict[str, Any]:
    """Return the retained presence."""
    topic = f"metrica/v1/{FLEET}/devices/{device.name}/presence"
    program = binary("mosquitto_sub", "mosquitto-clients")
    command = [program, "-p", str(broker.port), "-V", "5", "-t", topic, "-C", "1", "-W", "10"]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)


def assert_stopped_well(device: Device, broker: Broker) -> None:
    until(lambda: presence(device, broker)["state"] == "online", what="it is online")
    code, took_s = device.agent.terminate()
    assert code == 0, device.agent.log
    assert took_s < SHUTDOWN_S, device.agent.log
    assert device.agent.left_behind() == []
    last = presence(device, broker)
    assert (last["state"], last["reason"]) == ("offline", "shutdown")
    assert device.agent.told("agent.stopped")


def test_an_agent_that_is_told_to_stop_at_rest_ends_at_once_and_says_so(device: Device, broker: Broker) -> None:
    device.deploy()
    assert_stopped_well(device, broker)
    device.serves("one")


def test_an_agent_that_is_told_to_stop_while_it_pulls_ends_at_once(device: Device, broker: Broker) -> None:
    with mute_server() as registry:
        device.push(device.files({"web": {**WEB, "image": f"127.0.0.1:{registry.port}/slow:1"}}))
        device.agent.start()
        device.agent.wait_for("release.staged")
        assert registry.asked.wait(20)
        assert_stopped_well(device, broker)


def test_an_agent_that_is_told_to_stop_while_compose_works_ends_at_once_and_goes_on_later(
    device: Device, broker: Broker
) -> None:
    slow = {
        **WEB,
        "healthcheck": {"test": ["CMD", "test", "-e", "/data/go"], "interval": "0.2s", "start_period": "60s"},
        "volumes": ["./site:/www:ro", "${METRICA_DATA}/slow:/data"],
    }
    after_it = {**WEB, "depends_on": {"slow": {"condition": "service_healthy"}}}
    commit = device.push(device.files({"slow": slow, "web": after_it}, health="soak_s = 0.6\nstart_deadline_s = 30"))
    device.agent.start()
    compose_runs(device, "", 0)
    until(lambda: device.engine.ids("slow"), what=device.agent.story)
    assert_stopped_well(device, broker)
    (device.agent.state / "data" / "camera" / "slow" / "go").touch()
    device.agent.start()
    device.confirmed(commit)
    device.serves("one")
