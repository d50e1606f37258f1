"""P11: an emergency stop is obeyed in every phase of a deployment, whoever carries it, and nobody else's is."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import FLEET, Agent, until
from tests.fixtures.broker import Broker
from tests.fixtures.engine import RealEngine
from tests.fixtures.git_servers import mute_server, repository
from tests.fixtures.signing import Person, allowed
from tests.fixtures.stopping import Operator
from tests.integration.end_to_end.device import COMPOSE, WEB, Device
from tests.integration.end_to_end.private_engine import PrivateEngine

from metrica_fleet.signed import COMMANDS, GATES
from metrica_fleet.stop import Level, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.git_servers import GitHttpServer

    from metrica_fleet.records import Event

pytestmark = pytest.mark.timeout(300)
SICK = {**WEB, "healthcheck": {"test": ["CMD", "false"], "interval": "0.2s", "retries": 1}}
NEVER_UP = {**WEB, "depends_on": {"first": {"condition": "service_healthy"}}}
FIRST = {**SICK, "healthcheck": {**SICK["healthcheck"], "start_period": "60s"}}
SLOWLY = "soak_s = 3\nstart_deadline_s = 20"


@pytest.fixture(scope="module")
def air(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of these tests: what is stopped here is stopped nowhere else."""
    with Broker(tmp_path_factory.mktemp("air")) as running:
        yield running


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Person]:
    folder = tmp_path_factory.mktemp("people")
    return {name: Person.made(folder, name) for name in ("alice", "mallory", "hub")}


@pytest.fixture(scope="module")
def alice(air: Broker, people: dict[str, Person]) -> Operator:
    return Operator(people["alice"], FLEET, air, number=int(time.time()))


@pytest.fixture(scope="module")
def old_hand(
    busybox: str,
    tmp_path_factory: pytest.TempPathFactory,
    served: tuple[Path, GitHttpServer],
    air: Broker,
    people: dict[str, Person],
) -> Iterator[Device]:
    """A device that lives through all of these tests, whose repository says that alice may sign."""
    assert busybox
    engine = RealEngine(f"mt-p11-{secrets.token_hex(4)}")
    root, server = served
    fleet = repository(root, engine.project)
    folder = tmp_path_factory.mktemp("old-hand")
    device = Device(f"pi-{secrets.token_hex(4)}", folder, fleet, engine, url=server.url(fleet), broker_port=air.port)
    hub = people["hub"].line(f'namespaces="{GATES},{COMMANDS}"')
    try:
        device.deploy(device.files(also={"allowed_signers": allowed(people["alice"]) + hub}))
        yield device
    finally:
        device.agent.end()
        engine.clean()
    assert "Traceback" not in device.agent.log


@pytest.fixture
def steady(old_hand: Device, alice: Operator) -> Device:
    """The device, at rest on a release that is confirmed and serves "one", with nothing stopped."""
    agent = old_hand.agent
    if not agent.runs:
        agent.start()
    wanted = old_hand.push({**old_hand.files(), "STOP": None} if stops(old_hand) else old_hand.files())
    until(lambda: agent.memory().accepted == wanted, what=agent.story)  # or what was stopped would go on
    if agent.memory().stop is not None:
        alice.resume()

    def rests() -> bool:
        memory = agent.memory()
        confirmed = memory.confirmed is not None and memory.confirmed.commit == wanted
        return confirmed and memory.trial is None and (memory.stop is None or memory.stop.number == alice.number)

    until(rests, what=agent.story)
    until(lambda: "bus_connected" in agent.log)
    return old_hand


def stops(device: Device) -> bool:
    return (device.fleet.work / "STOP").exists()


def obeyed(agent: Agent, number: int, *, within_s: float = 10.0) -> Event:
    """Wait until the agent obeys the order; return the event."""

    def look() -> list[Event]:
        return [one for one in agent.told("stop.obeyed", "stop.lifted") if one.detail["number"] == number]

    return until(look, within_s=within_s, what=agent.story)[0]


def done(agent: Agent) -> None:
    until(lambda: (stop := agent.memory().stop) is not None and stop.done, what=agent.story)


def up(device: Device) -> list[str]:
    """Return the services that run."""
    template = '{{.Label "com.docker.compose.service"}}'
    filters = ("--filter", f"label=com.docker.compose.project={device.engine.project}")
    return sorted(device.engine.docker("ps", *filters, "--format", template).split())


def at_rest_on(device: Device, page: str, confirmed: object) -> None:
    """The device stands on the release that was confirmed, and serves it."""
    device.settled()
    assert device.agent.memory().confirmed == confirmed
    assert up(device) == ["web"]
    device.serves(page)


# --- in each phase of a deployment ----------------------------------------------------------------------------------


def test_a_halt_while_images_are_pulled_ends_the_pull_at_once(steady: Device, alice: Operator) -> None:
    agent, confirmed = steady.agent, steady.agent.memory().confirmed
    with mute_server() as registry:
        image = f"127.0.0.1:{registry.port}/slow:1"
        wanted = steady.push({COMPOSE: steady.files({"web": {**WEB, "image": image}})[COMPOSE]})
        agent.wait_for("release.staged", commit=wanted)
        assert registry.asked.wait(20)
        began_s = time.monotonic()
        mark = agent.mark()
        obeyed(agent, alice.stop(Level.HALT))
        assert time.monotonic() - began_s < 60, "it did not wait for the pull, which never ends"
        done(agent)
        until(lambda: not any(" pull " in words for words in agent.children()))
        assert up(steady) == []
        assert agent.memory().confirmed == confirmed
        obeyed(agent, alice.resume())
        agent.wait_for("rollback.finished", after=mark)
        at_rest_on(steady, "one", confirmed)


@pytest.mark.parametrize("level", [Level.FREEZE, Level.HALT])
def test_a_stop_while_compose_works_ends_at_the_confirmed_release(
    steady: Device, alice: Operator, level: Level
) -> None:
    agent, confirmed = steady.agent, steady.agent.memory().confirmed
    services = {"first": FIRST, "web": NEVER_UP}
    steady.push({COMPOSE: steady.files(services)[COMPOSE]})
    until(lambda: steady.engine.ids("first"), what=agent.story)
    mark = agent.mark()
    obeyed(agent, alice.stop(level))
    if level is Level.FREEZE:
        agent.wait_for("rollback.finished", after=mark)
        at_rest_on(steady, "one", confirmed)
    done(agent)
    assert confirmed is not None
    assert steady.current() == confirmed.release
    # What the ended Compose had asked the engine for may still begin a moment later: it is stopped, too.
    until(lambda: up(steady) == (["web"] if level is Level.FREEZE else []), what=agent.story)
    assert not agent.told("release.refused", after=mark), "the commit is no worse for it"


@pytest.mark.long
def test_a_halt_in_the_soak_stops_all_and_comes_back_to_what_was_confirmed(steady: Device, alice: Operator) -> None:
    agent, confirmed = steady.agent, steady.agent.memory().confirmed
    steady.push(steady.files(page="two", health=SLOWLY))
    steady.soaking()
    obeyed(agent, alice.stop(Level.HALT))
    done(agent)
    assert up(steady) == []
    assert confirmed is not None
    assert steady.current() == confirmed.release
    steady.engine.docker("start", steady.engine.id("web"))
    until(lambda: up(steady) == [], what=agent.story)
    mark = agent.mark()
    agent.kill()
    steady.engine.docker("start", steady.engine.id("web"))
    agent.start()
    until(lambda: up(steady) == [], what=agent.story)
    agent.wait_for("agent.started", after=mark)
    obeyed(agent, alice.resume())
    agent.wait_for("rollback.finished", after=mark)
    assert agent.memory().confirmed is not None


@pytest.mark.long
def test_a_freeze_lets_the_way_back_and_an_applied_trial_come_to_their_end(steady: Device, alice: Operator) -> None:
    agent, confirmed = steady.agent, steady.agent.memory().confirmed
    bad = steady.push(steady.files({"web": SICK}, page="two"))
    mark = steady.refused(bad).seq
    obeyed(agent, alice.stop(Level.FREEZE))
    agent.wait_for("rollback.finished", after=mark)
    at_rest_on(steady, "one", confirmed)
    good = steady.push(steady.files(page="three", health=SLOWLY))
    agent.wait_for("commit.seen", commit=good)
    assert agent.memory().trial is None
    obeyed(agent, alice.resume())
    steady.soaking()
    obeyed(agent, alice.stop(Level.FREEZE))
    steady.confirmed(good)


# --- whoever carries it ---------------------------------------------------------------------------------------------


def test_a_device_that_was_off_obeys_when_it_starts_and_begins_nothing_before(steady: Device, alice: Operator) -> None:
    agent = steady.agent
    agent.terminate()
    alice.stop(Level.FREEZE, f"device:{steady.name}")
    mark = agent.mark()
    steady.push(steady.files(page="two"))
    agent.start()
    obeyed(agent, alice.number)
    agent.wait_for("commit.seen", after=mark)
    assert not agent.told("release.trial_started", after=mark)
    # What is remembered needs no broker: nobody tells it anything at the next start.
    agent.kill()
    alice.publish(b"")
    killed = agent.mark()
    agent.start()
    agent.wait_for("agent.started", after=killed)
    assert agent.command("stop-status").returncode == 1
    assert not agent.told("release.trial_started", after=mark)


def test_a_stop_in_git_is_obeyed_within_a_poll_while_the_broker_is_down_however_bad_its_commit_is(
    steady: Device, air: Broker
) -> None:
    agent, mark = steady.agent, steady.agent.mark()
    air.stop()
    try:
        steady.push({"STOP": 'level = "halt"\nreason = "smoke"\n', "fleet.toml": "no toml at all"})
        # Polls are half a second apart; the rest is what a machine may take that tests other things beside.
        told = agent.wait_for("stop.obeyed", after=mark, within_s=10)
        assert (told.reason, told.detail["source"]) == ("halt", "git")
        until(lambda: up(steady) == [], what=agent.story)
        agent.kill()
        killed = agent.mark()
        agent.start()
        agent.wait_for("agent.started", after=killed)
        steady.push({**steady.files(page="two"), "STOP": None})
        lifted = agent.wait_for("stop.lifted", after=killed)
        assert [one.kind for one in agent.told("stop.lifted", after=mark)] == ["stop.lifted"], lifted
        steady.serves("two")
    finally:
        air.start()


def test_an_order_in_a_file_is_obeyed_by_its_signature(steady: Device, alice: Operator, tmp_path: Path) -> None:
    agent, order, forged = steady.agent, tmp_path / "order", tmp_path / "forged"
    text = alice.order(Stop(level=Level.FREEZE))
    order.write_bytes(alice.signed(text))
    forged.write_bytes(alice.signed(text.replace("freeze", "halt"))[:-60] + alice.signed(text)[-60:])
    assert agent.command("obey", str(forged)).returncode == 1
    ordered = agent.command("obey", str(order))
    assert ordered.returncode == 0, ordered.stderr + agent.story()
    assert "freeze" in agent.command("stop-status").stdout


# --- and nobody else's ----------------------------------------------------------------------------------------------


def test_what_is_forged_replayed_older_or_for_others_stops_nothing(
    steady: Device, alice: Operator, people: dict[str, Person]
) -> None:
    agent = steady.agent
    halt = Stop(level=Level.HALT)
    text = alice.order(halt)

    def refused(payload: bytes, reason: str) -> None:
        before = agent.log.count('"order_refused"')
        alice.publish(payload)
        until(lambda: agent.log.count('"order_refused"') > before, what=agent.story)
        last = next(line for line in reversed(agent.log.splitlines()) if '"order_refused"' in line)
        assert f'"{reason}"' in last

    mark, stop = agent.mark(), agent.memory().stop
    refused(alice.signed(text, by=people["mallory"]), "signer-unknown")
    refused(alice.signed(text, by=people["hub"]), "signer-unknown")
    refused(alice.signed(text, GATES, by=people["hub"]), "signature-bad")
    refused(alice.signed(text).replace(b"halt", b"safe"), "signature-bad")
    refused(alice.signed(alice.order(halt, fleet="other")), "wrong-fleet")
    refused(alice.signed(text.replace('"scope":"fleet"', '"scope":"site:x"')), "wrong-type")
    reasons = {"signer-unknown", "signature-bad", "wrong-fleet", "wrong-type"}
    until(lambda: {one.reason for one in agent.told("stop.refused")} == reasons, what=agent.story)
    assert agent.memory().stop == stop
    first = alice.signed(alice.order(halt))
    alice.publish(first)
    obeyed(agent, alice.number)
    obeyed(agent, alice.resume())
    refused(first, "order-outdated")
    refused(alice.signed(alice.order(halt, number=alice.number)), "order-outdated")
    elsewhere = alice.stop(Level.HALT, "device:somebody-else")
    until(lambda: (stop := agent.memory().stop) is not None and stop.number == elsewhere, what=agent.story)
    agent.wait_for("rollback.finished", after=mark)
    assert up(steady) == ["web"]


# --- what the engine starts by itself -------------------------------------------------------------------------------


def test_what_comes_back_with_the_engine_under_a_halt_is_stopped_again(device: Device) -> None:
    """The policy "always" outlives a stop: the engine starts such a container whenever it starts itself."""
    always = {"web": {**WEB, "restart": "always"}, "other": WEB}
    with PrivateEngine() as engine:
        device.engine = engine
        device.rewire(device.wiring(project=engine.project, settings={"compose": {"docker_host": engine.address}}))
        device.deploy(device.files(always))
        device.push({"STOP": 'level = "halt"'})
        until(lambda: device.agent.told("stop.done"), what=device.agent.story)
        assert up(device) == []
        device.agent.kill()
        engine.reboot()
        until(lambda: up(device) == ["web"], what="nobody is there to stop it; the other stays as it was left")
        device.agent.start()
        until(lambda: up(device) == [], within_s=20, what=device.agent.story)
        engine.docker("start", *engine.ids("other"))
        until(lambda: up(device) == [], within_s=20, what=device.agent.story)
        device.agent.end()
