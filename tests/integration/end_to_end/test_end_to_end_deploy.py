"""A push becomes what runs: over http and ssh, seen on the device, on the bus, at the hub and in Postgres."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.fixtures.agent import FLEET
from tests.fixtures.engine import compose_yaml
from tests.fixtures.git_servers import binary, ssh_server
from tests.integration.end_to_end.device import COMPOSE, PAGE, WEB, Device, HubView

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.broker import Broker

    from metrica_fleet.identity import CommitId

WAY = ["commit.seen", "release.staged", "release.preflighted", "release.trial_started", "release.confirmed"]


def assert_confirmed_at_the_hub(device: Device, hub: HubView, commit: CommitId) -> None:
    told = hub.event(device.name, "release.confirmed", commit)
    assert told["release"] == device.current()
    seen = hub.wait_for_device(device.name, commit=commit, phase="confirmed", mode="steady", connection="online")
    assert (seen["release"], seen["role"], seen["refused"]) == (device.current(), "camera", None)
    stored = hub.sql(
        f"SELECT kind FROM events WHERE device = '{device.name}' AND commit = '{commit}' ORDER BY seq",  # noqa: S608
    )
    assert stored.split() == WAY


def test_a_commit_pushed_over_http_is_deployed_and_confirmed(device: Device, hub: HubView) -> None:
    (url,) = device.agent.wiring.remotes
    assert url.startswith("http://")
    first = device.push_to(url, device.files(page="one"))
    device.agent.start()
    device.confirmed(first)
    device.serves("one")
    assert_confirmed_at_the_hub(device, hub, first)

    second = device.push_to(url, {PAGE: "two"})
    device.confirmed(second)
    device.serves("two")
    assert_confirmed_at_the_hub(device, hub, second)


def test_a_commit_pushed_over_ssh_is_deployed_and_confirmed(device: Device, hub: HubView, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "sshd") as server:
        url = server.url(device.fleet)
        known = {"ssh_key_file": str(server.key_file), "known_hosts_file": str(server.known_hosts_file)}
        device.rewire(device.wiring(remotes=(url,), settings={"git": known}))
        ssh = f"ssh -F none -i {server.key_file} -o UserKnownHostsFile={server.known_hosts_file} -o BatchMode=yes"
        commit = device.push_to(url, device.files(page="one"), ssh=ssh)
        device.agent.start()
        device.confirmed(commit)
        device.serves("one")
        assert_confirmed_at_the_hub(device, hub, commit)
        device.agent.terminate()


def test_a_commit_for_another_role_or_device_restarts_nothing_and_is_confirmed_as_unchanged(
    device: Device, hub: HubView
) -> None:
    device.deploy()
    before = device.containers()
    other = {
        "roles/kiosk/compose.yaml": compose_yaml({"screen": {}}),
        "devices/pi-other.toml": 'role = "kiosk"\n',
        "README.md": "about\n",
    }
    commit = device.push(other)
    event = device.confirmed(commit)
    assert event.reason == "unchanged"
    assert device.containers() == before
    assert hub.event(device.name, "release.confirmed", commit)["reason"] == "unchanged"
    hub.wait_for_device(device.name, commit=commit, phase="confirmed")


def test_a_commit_that_changes_one_config_restarts_exactly_its_readers(device: Device) -> None:
    def reader(config: str) -> dict[str, Any]:
        return {**WEB, "volumes": [f"./{config}:/www:ro"]}

    services = {
        "by-folder": reader("shared"),
        "by-file": {**WEB, "volumes": ["./shared/index.html:/www/index.html:ro"]},
        "by-config": {**WEB, "volumes": [], "configs": [{"source": "page", "target": "/www/index.html"}]},
        "by-env-file": {"env_file": ["./shared/env"], "restart": "unless-stopped"},
        "bystander": reader("other"),
        "no-files": {"restart": "unless-stopped"},
    }
    role = "roles/camera"
    files = device.files(services, page=None) | {
        COMPOSE: compose_yaml(services, configs={"page": {"file": "./shared/index.html"}}),
        f"{role}/shared/index.html": "one",
        f"{role}/shared/env": "WORD=one\n",
        f"{role}/other/index.html": "other",
    }
    device.deploy(files)
    before = device.containers()
    device.deploy({f"{role}/shared/index.html": "two", f"{role}/shared/env": "WORD=two\n"})
    after = device.containers()
    touched = {service for service in after if after[service] != before[service]}
    assert touched == {"by-folder", "by-file", "by-config", "by-env-file"}
    for service in ("by-folder", "by-file", "by-config"):
        device.serves("two", service)
    device.serves("other", "bystander")
    assert device.engine.shell("by-env-file", "echo $WORD") == "two"


@pytest.mark.long
def test_what_a_workload_writes_survives_ten_releases_and_a_rollback(device: Device) -> None:
    write = "cat /www/index.html | tee -a /data/log >>/journal/log; exec httpd -f -p 8080 -h /www"
    web = {
        **WEB,
        "command": ["sh", "-c", write],
        "volumes": ["./site:/www:ro", "${METRICA_DATA}/web:/data", "journal:/journal"],
    }
    sick = {**web, "healthcheck": {"test": ["CMD", "false"], "interval": "0.2s", "retries": 1}}
    device.rewire(device.wiring(poll_s=0.3, sample_s=0.2))
    fast = device.files({"web": web}, health="soak_s = 0.2\nstart_deadline_s = 6")
    files = {**fast, COMPOSE: compose_yaml({"web": web}, volumes={"journal": {}})}
    for number in range(1, 11):
        device.deploy({**files, PAGE: f"release {number}\n"})
    bad = device.push({**files, COMPOSE: compose_yaml({"web": sick}, volumes={"journal": {}}), PAGE: "the bad one\n"})
    device.refused(bad)
    device.agent.wait_for("rollback.finished")

    written = [*(f"release {number}" for number in range(1, 11)), "the bad one", "release 10"]
    assert device.engine.read("web", "/data/log").splitlines() == written
    assert device.engine.read("web", "/journal/log").splitlines() == written
    assert (device.agent.state / "data" / "camera" / "web" / "log").read_text().splitlines() == written


def test_the_status_is_retained_and_readable_with_mosquitto_sub(device: Device, broker: Broker) -> None:
    commit = device.deploy()

    def status() -> dict[str, Any]:
        command = [binary("mosquitto_sub", "mosquitto-clients"), "-p", str(broker.port), "-V", "5"]
        heard = subprocess.run(
            [*command, "-t", f"metrica/v1/{FLEET}/devices/+/status", "-v", "-W", "1"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        ).stdout
        said = dict(line.split(" ", 1) for line in heard.splitlines())
        return json.loads(said[f"metrica/v1/{FLEET}/devices/{device.name}/status"])

    seen = status()
    assert (seen["device"], seen["role"], seen["mode"]) == (device.name, "camera", "steady")
    assert (seen["commit"], seen["wanted_commit"], seen["phase"]) == (commit, commit, "confirmed")
    assert seen["release"] == device.current()
    assert seen["vitals"]["memory_total_bytes"] > 0
