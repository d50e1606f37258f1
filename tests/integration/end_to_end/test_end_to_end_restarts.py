"""Containers and engine are restarted at any time: what comes back is the confirmed release, nothing between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.agent import HEALTH, until
from tests.fixtures.engine import compose_yaml
from tests.fixtures.git_servers import repository
from tests.integration.end_to_end.device import COMPOSE, PAGE, WEB, Device, HubView
from tests.integration.end_to_end.private_engine import PrivateEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.git_servers import GitHttpServer

ONCE = {**WEB, "restart": "no"}
"""Nobody but the agent starts it again."""
READERS: dict[str, Any] = {
    "by-config": {**WEB, "volumes": [], "configs": [{"source": "page", "target": "/www/index.html"}]},
    "by-env-file": {"env_file": ["./kept/env"], "restart": "unless-stopped"},
}
"""Two whose files stay the same when the page is another: they keep the containers that they have."""


def test_containers_that_are_restarted_have_the_files_of_the_confirmed_release(device: Device) -> None:
    device.deploy(device.files(page="one"))
    device.deploy({PAGE: "two"})
    before = device.containers()["web"]
    device.engine.restart()
    device.serves("two")
    after = device.containers()["web"]
    assert (after[0], after[2] != before[2]) == (before[0], True)


def test_containers_that_are_restarted_in_a_trial_end_it_and_the_confirmed_release_runs_again(device: Device) -> None:
    device.deploy(device.files(page="one"))
    bad = device.push(device.files(page="two", health="soak_s = 30"))
    device.soaking()
    device.engine.restart()
    told = device.refused(bad)
    assert told.reason == "restarted-in-soak"
    device.agent.wait_for("rollback.finished", after=told.seq)
    device.serves("one")
    device.engine.restart()
    device.serves("one")


@pytest.fixture(scope="module")
def own_engine(busybox: str) -> Iterator[PrivateEngine]:
    """An engine that may be stopped: nobody else uses it."""
    assert busybox
    with PrivateEngine() as running:
        yield running


@pytest.fixture
def rebooted(
    tmp_path: Path, own_engine: PrivateEngine, served: tuple[Path, GitHttpServer], broker: Broker
) -> Iterator[Device]:
    """A device on an engine of its own."""
    root, server = served
    fleet = repository(root, own_engine.project)
    device = Device(own_engine.project, tmp_path, fleet, own_engine, url=server.url(fleet), broker_port=broker.port)
    device.rewire(device.wiring(settings={"compose": {"docker_host": own_engine.address}}))
    try:
        yield device
    finally:
        device.agent.end()
    assert "Traceback" not in device.agent.log


def whole(device: Device, page: str, kept: str, services: dict[str, Any], health: str = HEALTH) -> dict[str, str]:
    """Return a release of ``services``: two that mount one folder, one of ``configs:`` and one of an ``env_file``."""
    files = device.files(page=page, health=health)
    compose = compose_yaml({**READERS, **services}, configs={"page": {"file": "./kept/index.html"}})
    folder = "roles/camera/kept"
    return {**files, COMPOSE: compose, f"{folder}/index.html": kept, f"{folder}/env": f"WORD={kept}\n"}


def reads(device: Device, page: str, kept: str) -> None:
    """Wait until each of the four has what it is to have."""
    for service, content in (("web", page), ("once", page), ("by-config", kept)):
        device.serves(content, service, within_s=40)
    assert device.engine.shell("by-env-file", "echo $WORD") == kept


@pytest.mark.long
def test_an_engine_that_is_restarted_at_any_time_runs_the_confirmed_release_afterwards(
    rebooted: Device, own_engine: PrivateEngine, hub: HubView
) -> None:
    services = {"web": WEB, "once": ONCE}

    # At rest, when the release of which two containers were made is no longer on the disk.
    rebooted.deploy(whole(rebooted, "first", "one", services))
    first, made = rebooted.agent.state / "releases" / rebooted.current(), rebooted.containers()
    assert first.is_dir()
    for page in ("second", "third", "one"):  # two are kept to fall back on
        rebooted.deploy({PAGE: page})
    until(lambda: not first.exists(), what=rebooted.agent.story)
    mark = rebooted.agent.mark()
    own_engine.reboot()
    reads(rebooted, "one", "one")
    repaired = rebooted.agent.wait_for("drift.repaired", after=mark)
    assert '"once"' in repaired.message
    now = rebooted.containers()
    assert [now[name][0] == made[name][0] for name in (*services, *READERS)] == [False, False, True, True]

    # In the trial of a good release.
    good = rebooted.push(whole(rebooted, "two", "two", services, "soak_s = 3\nstart_deadline_s = 30"))
    rebooted.soaking()
    own_engine.reboot()
    rebooted.confirmed(good, within_s=60)
    reads(rebooted, "two", "two")

    # In the trial of a bad one, and on the way back.
    sick = {**ONCE, "healthcheck": {"test": ["CMD", "false"], "interval": "1s", "start_period": "60s"}}
    bad = rebooted.push(whole(rebooted, "bad", "bad", {"web": WEB, "once": sick}, "start_deadline_s = 4"))
    rebooted.serves("bad", within_s=20)
    own_engine.reboot()
    told = rebooted.refused(bad, within_s=60)
    own_engine.reboot()
    back = rebooted.agent.wait_for("rollback.finished", after=told.seq, within_s=60)
    assert back.commit == good
    reads(rebooted, "two", "two")
    assert hub.event(rebooted.name, "release.refused", bad)["reason"] == told.reason
