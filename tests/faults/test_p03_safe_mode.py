"""Safe mode for real: how a device gets in, what runs there, that it goes on talking, and that a way leads out."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.agent import Agent, until
from tests.fixtures.engine import IMAGE, compose_yaml
from tests.integration.end_to_end.device import COMPOSE, WEB, Device, HubView

from metrica_agent.decisions.starting import CRASH_LOOP_STARTS

if TYPE_CHECKING:
    from tests.faults.failures import FailureTable
    from tests.fixtures.engine import RealEngine

    from metrica_fleet.records import Event

pytestmark = pytest.mark.timeout(300)
STEADY_S = 4.0
RESTART_S = 5.0
"""What systemd waits between two starts; these tests wait for nothing."""
SICK = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "1s", "retries": 1}}


def rewired(device: Device, **tables: dict[str, object]) -> Agent:
    device.rewire(device.wiring(settings={"guard": {"steady_s": STEADY_S}, **tables}))
    return device.agent


def steady(agent: Agent) -> None:
    """Wait until the agent has forgotten its starts: it is past its first minutes."""
    until(lambda: agent.memory().starts == (), what=lambda: f"steadiness\n{agent.story()}")


def crash_loop(agent: Agent) -> int:
    """Kill the agent in its first moments until the start that finds it too many; return the mark before."""
    mark = agent.mark()
    for _ in range(CRASH_LOOP_STARTS - 1):
        before = agent.mark()
        agent.start()
        agent.wait_for("agent.started", after=before)
        agent.kill()
    agent.start()
    return mark


def in_safe_mode(agent: Agent, after: int = 0) -> Event:
    """Wait until the safe-mode stack runs; return the event that tells why."""
    entered = agent.wait_for("safe_mode.entered", after=after)
    agent.wait_for("safe_mode.running", after=entered.seq)
    return entered


def running(engine: RealEngine, *services: str) -> None:
    """Wait until these services have a container, and no others."""
    template = '{{.Label "com.docker.compose.service"}}'
    filters = ("--filter", f"label=com.docker.compose.project={engine.project}", "--format", template)
    until(
        lambda: sorted(engine.docker("ps", *filters).split()) == sorted(services),
        what=lambda: engine.docker("ps", "--all", *filters),
    )


def stack(folder: Path, services: dict[str, Any] | None = None) -> Path:
    """Write a safe-mode stack of one's own."""
    folder.mkdir(exist_ok=True)
    (folder / "note").write_text("safe")
    service = {"volumes": ["./note:/note:ro"], "restart": "unless-stopped"}
    (folder / "compose.yaml").write_text(compose_yaml(services or {"lifeline": service}))
    return folder


# --- an agent that is killed again and again --------------------------------------------------------------------


@pytest.mark.table
def test_a_crash_loop_ends_in_safe_mode_which_talks_and_is_left_by_a_newer_commit(
    device: Device, hub: HubView, engine: RealEngine, failure_table: FailureTable
) -> None:
    agent = rewired(device)
    device.deploy()
    steady(agent)
    agent.kill()
    began_s = time.monotonic()
    mark = crash_loop(agent)
    entered = agent.wait_for("safe_mode.entered", after=mark)
    detected_s = time.monotonic() - began_s
    agent.wait_for("safe_mode.running", after=entered.seq)
    failure_table.row(
        "Agent crash loop",
        "SIGKILL in the first second of three starts",
        detected_s=detected_s,
        recovered_s=time.monotonic() - began_s,
        shortened_s=(CRASH_LOOP_STARTS - 1) * RESTART_S,
    )
    assert entered.reason == "crash-loop"
    running(engine)
    seen = hub.wait_for_device(device.name, mode="safe")
    assert seen["reason"] == "crash-loop"
    assert hub.event(device.name, "safe_mode.entered", entered.commit)["reason"] == "crash-loop"
    status = agent.command("status")
    assert status.returncode == 1
    assert "mode          safe" in status.stdout

    good = device.push(device.files(page="two"))
    device.confirmed(good)
    assert agent.told("safe_mode.left", after=mark)
    device.serves("two")
    hub.wait_for_device(device.name, mode="steady", commit=good)
    steady(agent)

    # Again, and a bad commit this time: it ends where it began.
    agent.kill()
    mark = crash_loop(agent)
    in_safe_mode(agent, mark)
    bad = device.push(device.files({"web": SICK}, page="bad"))
    refused = device.refused(bad)
    until(lambda: agent.memory().safe is not None and agent.memory().trial is None)
    agent.wait_for("safe_mode.running", after=refused.seq)
    running(engine)
    hub.wait_for_device(device.name, mode="safe")
    # As it was before the bad one: the same release, under a commit of its own.
    device.confirmed(device.push(device.files(page="two")))
    device.serves("two")


@pytest.mark.long
def test_a_crash_loop_in_a_trial_refuses_what_was_on_trial(device: Device, engine: RealEngine) -> None:
    agent = rewired(device)
    device.deploy()
    steady(agent)
    suspect = device.push(device.files(page="suspect", health="soak_s = 60"))
    device.soaking(within_s=90)
    agent.kill()
    mark = crash_loop(agent)
    assert agent.wait_for("release.refused", after=mark, commit=suspect).reason == "crash-loop-in-trial"
    in_safe_mode(agent, mark)
    running(engine)
    device.confirmed(device.push(device.files(page="two")))


@pytest.mark.long
def test_a_stack_of_ones_own_runs_in_safe_mode_and_is_kept_like_a_release(
    device: Device, engine: RealEngine, tmp_path: Path
) -> None:
    folder = stack(tmp_path / "safe")
    agent = rewired(device, safe_mode={"folder": str(folder)})
    device.deploy()
    steady(agent)
    agent.kill()
    in_safe_mode(agent, crash_loop(agent))
    running(engine, "lifeline")
    assert engine.read("lifeline", "/note") == "safe"
    mark = agent.mark()
    engine.docker("rm", "--force", engine.id("lifeline"))
    agent.wait_for("drift.repaired", after=mark, within_s=60)
    running(engine, "lifeline")
    device.confirmed(device.push(device.files(page="two")))
    running(engine, "web")


# --- an agent that crashes by itself ----------------------------------------------------------------------------


@pytest.fixture
def odd_docker(tmp_path: Path) -> Path:
    """A docker that answers, while the file ``odd`` beside it is there, in a form that the agent does not know."""
    real = shutil.which("docker")
    folder = tmp_path / "odd-docker"
    folder.mkdir()
    wrapper = folder / "docker"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'if [ -e {folder}/odd ] && [ "$1 $2" = "inspect --type" ]; then echo \'{{"id": 1}}\'; exit 0; fi\n'
        f'exec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    return folder


def test_an_agent_that_crashes_by_itself_goes_on_talking_in_safe_mode(
    device: Device, hub: HubView, engine: RealEngine, odd_docker: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PATH": f"{odd_docker}:{os.environ['PATH']}"}
    wiring = device.wiring(settings={"guard": {"steady_s": STEADY_S}})
    (tmp_path / "crashing").mkdir()
    agent = Agent(tmp_path / "crashing", wiring, environment=environment)
    try:
        commit = device.push()
        agent.start()
        agent.wait_for("release.confirmed", commit=commit)
        steady(agent)
        agent.terminate()
        mark = agent.mark()
        (odd_docker / "odd").touch()
        for _ in range(CRASH_LOOP_STARTS - 1):
            agent.start()
            assert agent.wait(within_s=30) == 1
        agent.start()
        in_safe_mode(agent, mark)
        failed = agent.wait_for("task.failed", after=mark)
        assert failed.detail["task"] == "health"
        running(engine)
        hub.wait_for_device(device.name, mode="safe")
        assert hub.event(device.name, "task.failed", None)["message"].startswith("the task health failed")
        # The machine is mended; the agent needs no restart, and a newer commit leads out.
        (odd_docker / "odd").unlink()
        good = device.push(device.files(page="two"))
        agent.wait_for("release.confirmed", commit=good, within_s=60)
        device.serves("two")
    finally:
        agent.end()


@pytest.mark.long
def test_an_order_that_makes_no_sense_ends_nothing(device: Device) -> None:
    agent = rewired(device)
    device.deploy()
    spool = agent.state / "console"
    spool.mkdir(exist_ok=True)
    bad = '{"type": "accept-history", "commit": "no commit", "reason": "r"}'
    (spool / "000000000001-bad.json").write_text(bad)
    until((spool / "000000000001-bad.unreadable").exists, what=agent.story)
    assert agent.command("hold", "on", "--reason", "afterwards").returncode == 0
    agent.wait_for("hold.begun")


# --- by order ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_orders_at_the_console_lead_in_and_out_while_the_agent_runs_and_while_it_is_down(
    device: Device, hub: HubView, engine: RealEngine
) -> None:
    agent = rewired(device)
    commit = device.deploy()
    ordered = agent.command("safe-mode", "on", "--reason", "smoke at the site")
    assert (ordered.returncode, ordered.stderr) == (0, "")
    entered = in_safe_mode(agent)
    assert (entered.reason, entered.message) == ("ordered", "ordered: smoke at the site")
    running(engine)
    hub.wait_for_device(device.name, mode="safe")
    mark = agent.mark()
    assert agent.command("safe-mode", "off", "--reason", "aired").returncode == 0
    agent.wait_for("rollback.finished", after=mark, commit=commit)
    device.serves("one")

    agent.terminate()
    mark = agent.mark()
    down = agent.command("safe-mode", "on", "--reason", "before it starts")
    assert down.returncode == 0
    assert "it will, before anything else, once it runs" in down.stderr
    agent.start()
    in_safe_mode(agent, mark)
    agent.terminate()
    mark = agent.mark()
    agent.command("safe-mode", "off", "--reason", "down, too")
    agent.start()
    agent.wait_for("safe_mode.left", after=mark)
    agent.wait_for("rollback.finished", after=mark)
    device.serves("one")


@pytest.mark.long
def test_a_held_device_changes_nothing_until_it_is_released(device: Device, hub: HubView) -> None:
    agent = rewired(device)
    first = device.deploy()
    assert agent.command("hold", "on", "--reason", "a visit").returncode == 0
    agent.wait_for("hold.begun")
    held = device.push(device.files(page="two"))
    hub.wait_for_device(device.name, mode="held", wanted_commit=held, commit=first)
    agent.terminate()
    agent.start()
    hub.wait_for_device(device.name, mode="held", wanted_commit=held, commit=first)
    device.serves("one")
    assert agent.command("hold", "off", "--reason", "over").returncode == 0
    device.confirmed(held)
    device.serves("two")


# --- when nothing comes up any more -----------------------------------------------------------------------------


def test_a_first_commit_that_is_bad_leads_to_safe_mode_and_a_good_one_out(
    device: Device, hub: HubView, engine: RealEngine
) -> None:
    agent = rewired(device)
    bad = device.push(device.files({"web": SICK}))
    agent.start()
    device.refused(bad)
    entered = in_safe_mode(agent)
    assert entered.reason == "no-release-comes-up"
    running(engine)
    hub.wait_for_device(device.name, mode="safe")
    device.confirmed(device.push(device.files(page="two")))
    device.serves("two")
    assert agent.told("safe_mode.left")


@pytest.mark.long
def test_when_no_release_comes_up_any_more_safe_mode_does(device: Device, hub: HubView, engine: RealEngine) -> None:
    """The images of the confirmed release and of the one before are gone, as after a cleaning in the wrong moment."""
    agent = rewired(device)
    images = [f"metrica-test/{engine.project}:{number}" for number in (1, 2)]
    for number, image in enumerate(images, start=1):
        engine.docker("tag", IMAGE, image)
        device.deploy(device.files({"web": {**WEB, "image": image}}, page=str(number)))
    mark = agent.mark()
    sick = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "8s", "retries": 1}}
    bad = device.push(device.files({"web": sick}, page="bad", health="soak_s = 0.6\nstart_deadline_s = 30"))
    device.serves("bad", within_s=30)
    for image in images:
        engine.docker("rmi", "--force", image)
    device.refused(bad)
    entered = in_safe_mode(agent, mark)
    assert entered.reason == "no-release-comes-up"
    assert [event.reason for event in agent.told("rollback.failed", after=mark)] == ["image-unreachable"] * 2
    running(engine)
    hub.wait_for_device(device.name, mode="safe")
    device.confirmed(device.push(device.files(page="three")))
    device.serves("three")


# --- when even the safe-mode stack does not -----------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("services: [\n", "compose-invalid"),
        (compose_yaml({"lifeline": {"image": "metrica-test/nowhere:1"}}), "image-unreachable"),
    ],
    ids=["broken YAML", "missing image"],
)
def test_a_safe_mode_stack_that_does_not_work_is_told_and_tried_again_and_a_commit_leads_out(
    device: Device, hub: HubView, engine: RealEngine, tmp_path: Path, broken: str, reason: str
) -> None:
    folder = stack(tmp_path / "safe")
    (folder / "compose.yaml").write_text(broken)
    agent = rewired(device, safe_mode={"folder": str(folder)})
    device.deploy()
    checked = agent.command("check")
    assert checked.returncode == 1
    assert "problem  safe-mode stack: " in checked.stdout
    agent.command("safe-mode", "on", "--reason", "a test")
    told = agent.wait_for("release.waiting")
    assert told.reason == reason
    assert hub.event(device.name, "release.waiting", None)["reason"] == reason
    hub.wait_for_device(device.name, mode="safe")

    mark = agent.mark()
    stack(folder)
    assert "ok       safe-mode stack: " in agent.command("check").stdout
    agent.wait_for("safe_mode.running", after=mark, within_s=90)
    running(engine, "lifeline")

    (folder / "compose.yaml").write_text(broken)
    agent.command("safe-mode", "off", "--reason", "a test")
    agent.wait_for("rollback.finished", after=mark)
    mark = agent.mark()
    agent.command("safe-mode", "on", "--reason", "a test")
    agent.wait_for("release.waiting", after=mark)
    good = device.push({COMPOSE: device.files({"web": WEB, "more": {}})[COMPOSE]})
    device.confirmed(good, within_s=60)
    running(engine, "web", "more")
