"""Commands, as the hub sends them, to a real agent with a real engine: what is done, answered, refused and bounded."""

from __future__ import annotations

import io
import json
import secrets
import shlex
import tarfile
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from tests.fixtures.agent import FLEET, until
from tests.fixtures.broker import HOST, free_port
from tests.fixtures.commanding import OPTIONS, Commanding
from tests.fixtures.signing import Person
from tests.integration.end_to_end.device import WEB

from metrica_fleet.codec import MAX_PAYLOAD_BYTES, encode
from metrica_fleet.commands import ANSWER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.integration.end_to_end.device import Device, HubView

TEN_MEGABYTES = """awk 'BEGIN { for (i = 0; i < 13000; i++) printf "line %d %0800d\\n", i, 0 }'; exec sleep 3600"""
TALKER = {
    "command": ["sh", "-c", TEN_MEGABYTES],
    "restart": "unless-stopped",
    "stop_grace_period": "0s",
}
CREDENTIAL = f"canary-{secrets.token_hex(8)}"
"""By which the device fetches; of its two remotes the first is not there, and that is told."""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, hub_key: Person) -> tuple[Person, Person]:
    folder: Path = tmp_path_factory.mktemp("people")
    return hub_key, Person.made(folder, "mallory")


@pytest.fixture(scope="module")
def caller(broker: Broker, people: tuple[Person, Person]) -> Iterator[Commanding]:
    """Who has the hub's key and a place on the bus."""
    with Commanding(broker.port, FLEET, people[0]) as caller:
        yield caller


@pytest.fixture(scope="module")
def running(old_hand: Device, people: tuple[Person, Person]) -> Device:
    """A device that trusts the hub's key, and runs a web server and somebody who talks much."""
    services = {"web": {**WEB, "stop_grace_period": "0s"}, "talker": TALKER}
    (url,) = old_hand.agent.wiring.remotes
    mirror = f"http://{HOST}:{free_port()}/fleet.git"
    deploying = tuple(one.replace("://", f"://deploy:{CREDENTIAL}@") for one in (mirror, url))
    old_hand.rewire(old_hand.wiring(remotes=deploying))
    old_hand.deploy(old_hand.files(services, also={"allowed_signers": people[0].line(OPTIONS)}), within_s=60)
    return old_hand


def event_of(device: Device, number: int) -> tuple[str, str | None, object]:
    def look() -> list[tuple[str, str | None, object]]:
        told = device.agent.told("command.done", "command.failed")
        return [(one.kind, one.reason, one.detail["verb"]) for one in told if one.detail["number"] == number]

    return until(look, what=device.agent.story)[0]


def test_an_operator_restarts_a_service_and_reads_its_log_through_the_hub(hub: HubView, running: Device) -> None:
    hub.wait_for_device(running.name, connection="online")
    token = hub.hub.token("operator")

    def given(verb: str, arguments: dict[str, object]) -> dict[str, Any]:
        body = json.dumps({"verb": verb, "arguments": arguments, "queue_s": 0})
        headers = {"Content-Type": "application/json"}
        path = f"/api/v1/devices/{running.name}/commands"
        answer = hub.hub.get(path, headers, "POST", body, token=token)
        assert answer.status == 202, answer.text

        def look() -> dict[str, Any] | None:
            found = hub.hub.get(answer.headers["Location"], token=token).json
            return found if found["ended_at"] is not None else None

        return until(look, what=running.agent.story) or {}

    before = running.containers()["web"]
    restarted = given("restart", {"service": "web"})
    assert (restarted["state"], restarted["message"]) == ("done", "web was restarted; it is judged as ever")
    assert running.containers()["web"][2] > before[2]
    log = given("logs", {"service": "talker", "tail": 2})
    assert (log["state"], log["message"], log["parts"]) == ("done", "2 lines", 1)
    stream = hub.hub.get(f"/api/v1/commands/{log['id']}/stream", token=token).text
    assert '"lines":["line 12998 ' in stream
    told = until(
        lambda: [one for one in hub.events(running.name) if one["detail"].get("number") == log["id"]], within_s=10
    )
    assert [one["kind"] for one in told] == ["command.done"]


def test_a_service_is_restarted_and_the_device_finds_nothing_wrong_with_that(
    caller: Commanding, running: Device
) -> None:
    before, mark = running.containers(), running.agent.mark()
    number = caller.send(running.name, "restart", service="web")
    done = caller.ended(running.name, number)
    assert (done.state, done.message) == ("done", "web was restarted; it is judged as ever")
    assert [one.state for one in caller.answers(running.name, number)] == ["running", "done"]
    after = running.containers()
    assert after["web"][0] == before["web"][0]
    assert after["web"][2] > before["web"][2]
    assert after["talker"] == before["talker"]
    assert event_of(running, number) == ("command.done", None, "restart")
    assert not running.agent.told("drift.found", "rollback.started", after=mark)


def test_the_release_is_deployed_anew_and_its_containers_are_others(caller: Commanding, running: Device) -> None:
    before, current = running.containers(), running.current()
    done = caller.ended(running.name, caller.send(running.name, "redeploy"), within_s=40)
    assert done.state == "done", done
    after = running.containers()
    assert {name: one[0] for name, one in after.items()}.keys() == before.keys()
    assert all(after[name][0] != before[name][0] for name in before)
    assert running.current() == current


def test_of_a_log_of_ten_megabytes_no_more_comes_than_fits(caller: Commanding, running: Device) -> None:
    until(lambda: "line 12999 " in running.engine.docker("logs", "--tail", "1", *running.engine.ids("talker")))
    number = caller.send(running.name, "logs", service="talker", tail=10_000)
    done = caller.ended(running.name, number)
    lines = caller.lines(running.name, number)
    assert done.state == "done", done
    assert "are left out" in done.message
    assert done.part == len([one for one in caller.answers(running.name, number) if one.lines])
    assert lines[-1].startswith("line 12999 ")
    assert 0.9 * ANSWER_BYTES < sum(map(len, lines)) <= ANSWER_BYTES
    assert all(len(encode(one)) <= MAX_PAYLOAD_BYTES for one in caller.answers(running.name, number))
    short = caller.send(running.name, "logs", service="talker", tail=3)
    assert caller.ended(running.name, short).message == "3 lines"
    assert [line[:11] for line in caller.lines(running.name, short)] == ["line 12997 ", "line 12998 ", "line 12999 "]


def test_a_log_is_followed_until_somebody_ends_it(caller: Commanding, running: Device) -> None:
    number = caller.send(running.name, "logs", service="web", tail=0, follow=True)
    caller.wait_for(running.name, number)
    script = "for i in 1 2 3; do echo said $i >/proc/1/fd/1; done"

    def heard() -> bool:
        running.engine.shell("web", script)
        return "said 3" in caller.lines(running.name, number)

    until(heard)
    assert caller.ended(running.name, caller.send(running.name, "cancel", command=number)).state == "done"
    done = caller.ended(running.name, number)
    assert (done.state, done.reason) == ("done", "cancelled")
    until(lambda: not any(" logs " in words for words in running.agent.children()))


def test_the_bundle_has_what_helps_and_no_secret(caller: Commanding, running: Device) -> None:
    age, token = str(pyrage.x25519.Identity.generate()), f"mte_{secrets.token_urlsafe(32)}"
    told = ("password=hunter2", f"the key {age}", f"the token {token}", f"from https://deploy:{CREDENTIAL}@git/fleet")
    running.engine.shell("web", f"printf '%s\\n' {shlex.join(told)} >/proc/1/fd/1")
    number = caller.send(running.name, "collect", timeout_s=60)
    done = caller.ended(running.name, number, within_s=40)
    assert done.state == "done", done
    bundle = caller.data(running.name, number)
    assert len(bundle) <= ANSWER_BYTES
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        files = {one.name.removeprefix(f"{running.name}/"): tar.extractfile(one) for one in tar.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert json.loads(texts["about.json"])["device"] == running.name
    assert json.loads(texts["memory.json"])["confirmed"]["release"] == running.current()
    assert "release.confirmed" in texts["events.jsonl"]
    assert "line 12999 " in texts["logs/talker.txt"]
    assert "Server Version" in texts["docker-info.txt"]
    hidden = ("password=***", "the key AGE-SECRET-KEY-1***", "the token mte_***", "from https://***@git/fleet")
    assert [line for line in hidden if line not in texts["logs/web.txt"]] == []
    secret = ("hunter2", age.removeprefix("AGE-SECRET-KEY-1"), token.removeprefix("mte_"), CREDENTIAL)
    assert [(name, one[:4]) for name, text in texts.items() for one in secret if one in text] == []


def test_decisions_are_told_and_git_is_asked(caller: Commanding, running: Device) -> None:
    number = caller.send(running.name, "explain", limit=5)
    assert caller.ended(running.name, number).message == "5 decisions, the newest last"
    assert all(json.loads(line)["decision"]["rule"] for line in caller.lines(running.name, number))
    done = caller.ended(running.name, caller.send(running.name, "sync"))
    assert (done.state, done.message) == ("done", f"commit {running.fleet.head()[:8]} is wanted")


def test_a_hold_is_given_and_lifted(caller: Commanding, running: Device) -> None:
    assert caller.ended(running.name, caller.send(running.name, "hold", on=True, reason="a visit")).state == "done"
    until(lambda: running.agent.memory().held is not None)
    assert caller.ended(running.name, caller.send(running.name, "hold", on=False, reason="it is over")).state == "done"
    until(lambda: running.agent.memory().held is None)


def test_what_runs_is_shown_at_the_hub_and_a_service_that_stopped_as_stopped_until_it_runs_again(
    hub: HubView, caller: Commanding, running: Device
) -> None:
    def shown() -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in hub.device(running.name).get("services") or ()}

    def is_seen(**states: str) -> None:
        until(lambda: {name: one["state"] for name, one in shown().items()} == states, what=lambda: f"{shown()}")

    def is_since(which: str) -> dict[str, Any]:
        (found,) = json.loads(running.engine.docker("inspect", running.engine.id("web")))
        at = found["State"][which][:19]
        until(lambda: shown()["web"]["since"] == f"{at}Z", what=lambda: f"since {at}: {shown()}")
        return found

    is_seen(talker="running", web="running")
    started = is_since("StartedAt")
    web = shown()["web"]
    assert (web["image"], web["restarts"], web["containers"]) == (started["Config"]["Image"], 0, 1)
    assert started["Image"][: len("sha256:") + 12] == f"sha256:{web['image_id']}"
    assert caller.ended(running.name, caller.send(running.name, "hold", on=True, reason="a visit")).state == "done"
    running.engine.docker("stop", "--time", "0", *running.engine.ids("web"))
    is_seen(talker="running", web="exited")
    ended = is_since("FinishedAt")
    assert shown()["web"]["exit_code"] == ended["State"]["ExitCode"] != 0
    assert caller.ended(running.name, caller.send(running.name, "hold", on=False, reason="it is over")).state == "done"
    is_seen(talker="running", web="running")


@pytest.mark.parametrize(
    ("verb", "arguments", "state", "reason"),
    [
        ("sh", {"command": "id"}, "refused", "unknown-verb"),
        ("restart", {"service": "--all"}, "refused", "bad-arguments"),
        ("restart", {"service": "camera"}, "failed", "unknown-service"),
        ("logs", {"service": "camera"}, "failed", "unknown-service"),
        ("logs", {}, "failed", "unknown-service"),  # it has several: which, the message says
        ("cancel", {"command": 1}, "failed", "not-running"),
    ],
)
def test_what_can_not_be_done_is_answered_with_its_reason(
    caller: Commanding, running: Device, verb: str, arguments: dict[str, str | int], state: str, reason: str
) -> None:
    number = caller.send(running.name, verb, timeout_s=30, **arguments)
    ended = caller.ended(running.name, number)
    assert (ended.state, ended.reason) == (state, reason)
    assert event_of(running, number) == ("command.failed", reason, verb)


def test_a_duplicate_and_an_old_command_are_answered_and_never_done_again(caller: Commanding, running: Device) -> None:
    command = caller.command(running.name, "restart", service="web")
    payload = caller.payload(command)
    caller.publish(running.name, payload)
    done = caller.ended(running.name, command.number)
    restarted = running.containers()["web"]
    caller.publish(running.name, payload)
    assert caller.wait_for(running.name, command.number, 3)[-1].message == done.message
    running.agent.terminate()
    caller.publish(running.name, payload, retain=True)
    running.agent.start()
    assert caller.wait_for(running.name, command.number, 4)[-1].message == done.message
    caller.publish(running.name, b"", retain=True)
    assert running.containers()["web"] == restarted


def test_nobody_but_the_hub_commands_and_nobody_on_the_way(
    caller: Commanding, running: Device, people: tuple[Person, Person]
) -> None:
    _, mallory = people
    restarted = running.containers()["web"]
    forged = caller.command(running.name, "restart", service="web")
    caller.publish(running.name, caller.payload(forged, by=mallory))
    assert caller.ended(running.name, forged.number).reason == "signer-unknown"
    order = caller.command(running.name, "restart", service="web")
    caller.publish(running.name, caller.payload(order, namespace="metrica-order"))
    assert caller.ended(running.name, order.number).reason == "signature-bad"
    others = caller.command("pi-99", "restart", service="web")
    caller.publish(running.name, caller.payload(others))
    caller.publish(running.name, b'{"verb": "reboot"}')
    told = until(lambda: running.agent.told("command.distrusted")[2:], what=running.agent.story)
    assert told[0].reason == "other-device"
    assert running.containers()["web"] == restarted
    # What was refused for its signature has used up no number.
    caller.publish(running.name, caller.payload(forged))
    until(lambda: any(one.state == "done" for one in caller.answers(running.name, forged.number)))


def test_a_command_in_which_the_agent_dies_is_answered_as_interrupted(caller: Commanding, running: Device) -> None:
    number = caller.send(running.name, "logs", service="web", follow=True, timeout_s=300)
    caller.wait_for(running.name, number)
    running.agent.kill()
    running.agent.start()
    ended = caller.ended(running.name, number)
    assert (ended.state, ended.reason) == ("failed", "interrupted")


def test_a_history_that_was_rewritten_is_followed_once_that_is_accepted_and_not_before(
    caller: Commanding, running: Device, people: tuple[Person, Person]
) -> None:
    signers = {"allowed_signers": people[0].line(OPTIONS)}
    rewritten = running.fleet.start_over(running.files(page="rewritten", also=signers))
    told = running.refused(rewritten)
    assert told.reason in {"history-diverged", "history-unproven"}
    number = caller.send(running.name, "accept-history", commit=rewritten, reason="main was rewritten, by ada")
    done = caller.ended(running.name, number)
    assert (done.state, done.message) == ("done", f"commit {rewritten[:8]} may follow, once, whatever its history")
    running.confirmed(rewritten, after=told.seq)
    running.serves("rewritten")
    assert running.agent.memory().accepted == rewritten
