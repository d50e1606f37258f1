"""Bad commits and bad histories: refused with a reason that the hub has too, and what ran before runs again."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.fixtures.broker import free_port, wait_for_port
from tests.fixtures.engine import compose_yaml
from tests.fixtures.git_servers import binary, git
from tests.integration.end_to_end.device import COMPOSE, PAGE, WEB, Device, HubView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metrica_fleet.identity import CommitId


@pytest.fixture
def steady(old_hand: Device) -> Device:
    """A device that serves "good", whatever the tests before have pushed."""
    if old_hand.agent.memory().confirmed is None:
        old_hand.deploy(old_hand.files(page="good"))
        old_hand.serves("good")
    old_hand.settled()
    return old_hand


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty registry on loopback: to every image it answers "manifest unknown"."""
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    config = folder / "config.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {folder / 'images'}}}}}"
    config.write_text(f"version: 0.1\nlog: {{level: error}}\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n")
    command = [binary("docker-registry", "docker-registry"), "serve", str(config)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for_port(port, process, f"docker-registry (see {folder}/log)")
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def assert_refused_at_the_hub(device: Device, hub: HubView, kind: str, commit: CommitId, reason: str) -> None:
    told = hub.event(device.name, kind, commit)
    assert (told["reason"], bool(told["message"])) == (reason, True)
    stored = hub.sql(
        "SELECT reason FROM events"  # noqa: S608
        f" WHERE device = '{device.name}' AND commit = '{commit}' AND kind = '{kind}'",
    )
    assert stored == reason
    seen = hub.wait_for_device(device.name, wanted_commit=commit, phase="refused", mode="steady")
    assert seen["refused"]["commit"] == commit
    assert seen["refused"]["reason"] == reason
    assert seen["commit"] != commit


# --- found out in a trial: the release before runs again ----------------------------------------------------------


def assert_rolled_back(device: Device, hub: HubView, bad: CommitId, reason: str, good: str) -> None:
    told = device.refused(bad)
    assert re.fullmatch(reason, told.reason or ""), told
    device.agent.wait_for("rollback.finished", after=told.seq)
    device.serves("good")
    assert (device.current(), set(device.containers())) == (good, {"web"})
    assert_refused_at_the_hub(device, hub, "release.refused", bad, told.reason or "")
    assert hub.event(device.name, "rollback.finished", good_commit(device))["release"] == good


def good_commit(device: Device) -> str:
    confirmed = device.agent.memory().confirmed
    assert confirmed is not None
    return confirmed.commit


def checked(command: str, **more: Any) -> dict[str, Any]:
    return {**WEB, "healthcheck": {"test": ["CMD", command], "interval": "0.2s", "retries": 1, **more}}


@pytest.mark.parametrize(
    ("web", "reason"),
    [
        pytest.param(checked("false"), "unhealthy", id="unhealthy"),
        pytest.param(checked("false", start_period="60s"), "starting-at-deadline", id="starting for ever"),
        pytest.param(
            {"command": ["sh", "-c", "exit 3"], "restart": "always"},
            "restarting-at-deadline|restarted-in-soak",
            id="crash loop",
        ),
        pytest.param({"command": ["sh", "-c", "exit 3"], "restart": "no"}, "exited", id="dead at once"),
    ],
)
def test_a_commit_whose_container_never_becomes_healthy_is_rolled_back(
    steady: Device, hub: HubView, web: dict[str, Any], reason: str
) -> None:
    good = steady.current()
    bad = steady.push(steady.files({"web": web}, page="bad", health="soak_s = 0.6\nstart_deadline_s = 3"))
    assert_rolled_back(steady, hub, bad, reason, good)


@pytest.mark.parametrize(("restart", "reason"), [("no", "exited-in-soak"), ("always", "restarted-in-soak")])
def test_a_commit_whose_container_dies_during_the_soak_is_rolled_back(
    steady: Device, hub: HubView, restart: str, reason: str
) -> None:
    good, data = steady.current(), steady.agent.state / "data" / "camera" / restart
    doomed = {
        "command": ["sh", "-c", "until [ -e /data/die ]; do sleep 0.1; done; rm /data/die; exit 3"],
        "volumes": [f"${{METRICA_DATA}}/{restart}:/data"],
        "restart": restart,
    }
    bad = steady.push(steady.files({"web": WEB, "doomed": doomed}, page="bad", health="soak_s = 60"))
    steady.soaking()
    steady.serves("bad")
    (data / "die").touch()
    assert_rolled_back(steady, hub, bad, reason, good)


def test_a_commit_that_compose_can_not_apply_half_way_is_rolled_back_as_a_whole(steady: Device, hub: HubView) -> None:
    good = steady.current()
    services = {"a-web": WEB, "web": WEB, "z-broken": {"command": ["/no/such/program"]}}
    bad = steady.push(steady.files(services, page="bad"))
    assert_rolled_back(steady, hub, bad, "command-not-found", good)


# --- found out before: what runs is not touched -----------------------------------------------------------------------


class Bad(NamedTuple):
    """A commit that can't work, and what is said of it. ``{device}`` stands for the device's name."""

    changes: dict[str, str | None]
    kind: str
    reason: str
    words: str


DEVICE = "devices/{device}.toml"
BAD = {
    "a compose file that does not parse": Bad(
        {COMPOSE: "services:\n  web: [\n"}, "release.refused", "compose-invalid", "compose.yaml: "
    ),
    "an unknown key in the compose file": Bad(
        {COMPOSE: "services:\n  web: {image: x, comand: [y]}\n"}, "release.refused", "compose-invalid", "comand"
    ),
    "an unknown key in the device's file": Bad(
        {DEVICE: 'role = "camera"\ntgas = ["roof"]\n'}, "commit.refused", "unknown-key", r"\.toml:2: .*tgas.*tags"
    ),
    "a wrong type in the device's file": Bad(
        {DEVICE: 'role = "camera"\ntags = "roof"\n'}, "commit.refused", "wrong-type", r"\.toml:2: tags"
    ),
    "an unknown role": Bad({DEVICE: 'role = "camrea"\n'}, "commit.refused", "unknown-role", r"\.toml:1: .*camrea"),
    "a missing compose file": Bad({COMPOSE: None}, "commit.refused", "unknown-role", "roles/camera/compose.yaml"),
    "a writable bind": Bad(
        {COMPOSE: compose_yaml({"web": {**WEB, "volumes": ["./site:/www"]}})},
        "release.refused",
        "bind-writable",
        r"\./site at /www writable",
    ),
    "a missing bind source": Bad(
        {COMPOSE: compose_yaml({"web": {**WEB, "volumes": ["./stie:/www:ro"]}})},
        "release.refused",
        "bind-source-missing",
        r"\./stie",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_commit_that_can_not_work_is_refused_and_nothing_is_touched(steady: Device, hub: HubView, what: str) -> None:
    bad = BAD[what]
    good, before = steady.current(), steady.containers()
    changes = {path.format(device=steady.name): content for path, content in bad.changes.items()}
    commit = steady.push({**steady.files(page=f"with {what}"), **changes})
    told = steady.refused(commit)
    assert (told.kind, told.reason) == (bad.kind, bad.reason)
    assert re.search(bad.words, told.message), told.message
    assert_untouched(steady, before, good)
    assert_refused_at_the_hub(steady, hub, bad.kind, commit, bad.reason)


def assert_untouched(device: Device, before: object, good: str) -> None:
    assert device.containers() == before
    assert device.current() == good
    assert device.page() == "good"


def test_a_commit_whose_image_does_not_exist_is_refused_and_nothing_is_touched(
    steady: Device, hub: HubView, registry: str
) -> None:
    good, before = steady.current(), steady.containers()
    services = {"web": WEB, "other": {"image": f"{registry}/nope:1"}}
    bad = steady.push(steady.files(services, page="bad"))
    assert steady.refused(bad).reason == "image-missing"
    assert_untouched(steady, before, good)
    assert_refused_at_the_hub(steady, hub, "release.refused", bad, "image-missing")


# --- history -----------------------------------------------------------------------------------------------------


def test_a_force_push_of_another_history_is_refused_and_the_device_goes_on(device: Device, hub: HubView) -> None:
    device.deploy(device.files(page="good"))
    before = device.containers()
    bad = device.fleet.start_over(device.files(page="bad"))
    told = device.refused(bad)
    assert told.kind == "commit.refused"
    assert told.reason in {"history-diverged", "history-unproven"}
    assert device.containers() == before
    device.serves("good")
    assert_refused_at_the_hub(device, hub, "commit.refused", bad, told.reason or "")

    git("checkout", "--quiet", "--force", "main", folder=device.fleet.work)
    device.deploy({PAGE: "better"})
    device.serves("better")


def test_a_history_that_a_person_accepts_at_the_device_is_taken_and_that_is_recorded(device: Device) -> None:
    device.deploy(device.files(page="before"))
    other = device.fleet.start_over(device.files(page="after"))
    refused = device.refused(other)
    assert f"metrica-agent accept-history {other}" in refused.message
    done = device.agent.command("accept-history", other, "--reason", "the branch was squashed")
    assert done.returncode == 0, done.stderr
    allowed = device.agent.wait_for("history.allowed", commit=other)
    assert "the branch was squashed" in f"{allowed.message} {allowed.detail}"
    device.confirmed(other, after=allowed.seq)
    device.serves("after")


def test_a_force_push_to_an_older_commit_changes_nothing(device: Device) -> None:
    device.deploy(device.files(page="one"))
    second = device.deploy({PAGE: "two"})
    before = device.containers()
    first = device.fleet.go_back(1)
    device.agent.wait_for("git.behind", commit=first)
    assert device.containers() == before
    assert good_commit(device) == second
