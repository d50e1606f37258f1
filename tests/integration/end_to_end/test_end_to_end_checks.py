"""A role with a one-shot and checks of every kind: confirmed when all is well, taken back for any that is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.fixtures.broker import HOST, free_port
from tests.fixtures.engine import compose_yaml
from tests.integration.end_to_end.device import COMPOSE, PAGE, SITE, WEB, Device, HubView

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = "roles/camera"
ANSWER = f"{ROLE}/site/cgi-bin/healthz"
SERVICES = {"feed", "migrate", "web"}


class Ports(NamedTuple):
    """Where the role is, on the device: the page by a port that is published, the feed on the device's own network."""

    page: int
    feed: int


def services(ports: Ports, *, migrates: str = "echo done >>/data/migrated", feeds: bool = True) -> str:
    data = "${METRICA_DATA}/web:/data"
    feed = ["httpd", "-f", "-p", f"{HOST}:{ports.feed}"] if feeds else ["sleep", "100000"]
    return compose_yaml(
        {
            "migrate": {"command": ["sh", "-c", migrates], "restart": "no", "volumes": [data]},
            "web": {**WEB, "volumes": [SITE, f"{data}:ro"], "ports": [f"{HOST}:{ports.page}:8080"]},
            "feed": {"command": feed, "network_mode": "host", "restart": "unless-stopped"},
        }
    )


def answers(status: int) -> str:
    return f"#!/bin/sh\nprintf 'Status: {status} As the test says\\r\\n\\r\\n'\n"


def role(ports: Ports) -> str:
    return f"""
[[checks]]
type = "http"
name = "page"
url = "http://{HOST}:{ports.page}/cgi-bin/healthz"

[[checks]]
type = "tcp"
name = "feed"
port = {ports.feed}

[[checks]]
type = "command"
name = "content"
service = "web"
command = ["sh", "-c", "grep -q good /www/index.html && grep -q done /data/migrated"]
"""


class Bad(NamedTuple):
    """A commit that must not stay: what it changes, and what is said of it."""

    changes: Callable[[Ports], dict[str, str]]
    reason: str
    message: str


def fails(ports: Ports) -> dict[str, str]:
    return {COMPOSE: services(ports, migrates="exit 3")}


def answers_500(_: Ports) -> dict[str, str]:
    return {ANSWER: answers(500)}


def feeds_nobody(ports: Ports) -> dict[str, str]:
    return {COMPOSE: services(ports, feeds=False)}


def has_other_content(_: Ports) -> dict[str, str]:
    return {PAGE: "bad"}


LATE = "check-failed-at-deadline"
BAD = {
    "the one-shot ends with 3": Bad(fails, "exited", 'service "migrate" ended with exit code 3'),
    "http answers 500": Bad(answers_500, LATE, 'check "page" failed: answered 500 instead of 200'),
    "nobody listens": Bad(feeds_nobody, LATE, 'check "feed" failed: '),
    "the command ends with 1": Bad(has_other_content, LATE, 'check "content" failed: sh ended with 1'),
}


@pytest.mark.long
@pytest.mark.parametrize("what", BAD)
def test_a_role_with_a_one_shot_and_checks_is_confirmed_and_a_commit_that_breaks_one_is_rolled_back(
    device: Device, hub: HubView, what: str
) -> None:
    ports, bad = Ports(free_port(), free_port()), BAD[what]
    script = device.fleet.work / ANSWER
    script.parent.mkdir(parents=True)
    script.touch(0o755)
    more = {COMPOSE: services(ports), f"{ROLE}/role.toml": role(ports), ANSWER: answers(200)}
    good = device.deploy({**device.files(page="good"), **more})
    release = device.current()
    assert hub.event(device.name, "release.confirmed", good)["release"] == release
    assert_all_is_well(device)

    commit = device.push(bad.changes(ports))
    told = device.refused(commit)
    assert (told.kind, told.reason) == ("release.refused", bad.reason)
    assert bad.message in told.message
    back = device.agent.wait_for("rollback.finished", after=told.seq)
    assert (back.commit, device.current()) == (good, release)
    device.serves("good")
    assert_all_is_well(device)
    seen = hub.wait_for_device(device.name, wanted_commit=commit, commit=good, phase="refused", mode="steady")
    assert (seen["refused"]["commit"], seen["refused"]["reason"]) == (commit, bad.reason)
    assert bad.message in hub.event(device.name, "release.refused", commit)["message"]
    # Who has done their work and ended is not missed.
    assert not device.agent.told("drift.found", "drift.repaired")


def assert_all_is_well(device: Device) -> None:
    states = {service: state for service, (_, state, _) in device.containers().items()}
    assert states == dict.fromkeys(SERVICES, "running") | {"migrate": "exited"}
    (migrate,) = inspected(device, "migrate")
    assert (migrate["State"]["ExitCode"], migrate["RestartCount"]) == (0, 0)


def inspected(device: Device, service: str) -> list[dict[str, Any]]:
    return json.loads(device.engine.docker("inspect", "--type", "container", *device.engine.ids(service)))
