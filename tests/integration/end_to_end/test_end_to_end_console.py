"""What a person at the device is told by ``metrica-agent``, and how it takes what it can't work with."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import Agent, metrica_agent, until
from tests.fixtures.broker import free_port
from tests.integration.end_to_end.device import COMPOSE, Device

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.engine import RealEngine


def without_docker(folder: Path) -> dict[str, str]:
    """Return an environment in which no ``docker`` is found."""
    (folder / "bin").mkdir(exist_ok=True)
    return {**os.environ, "PATH": str(folder / "bin")}


def test_status_explain_and_check_of_a_device_at_rest(device: Device) -> None:
    commit = device.deploy()
    status = device.agent.command("status")
    assert (status.returncode, status.stderr) == (0, "")
    for line in (
        rf"device\s+{device.name} of fleet e2e",
        r"role\s+camera",
        r"mode\s+steady",
        rf"wanted\s+{commit[:8]} confirmed",
        rf"confirmed\s+commit {commit[:8]}, release {device.current()[:8]}",
        r"trial\s+none",
        r"last refused\s+none",
        r"\s+release\.confirmed\s+release [0-9a-f]{8} runs and stayed well",
    ):
        assert re.search(rf"^{line}$|{line}$", status.stdout, re.MULTILINE), status.stdout

    explained = device.agent.command("explain", "-n", "50")
    assert explained.returncode == 0
    assert "by rule update.begin\n  because staged, verified and preflighted\n" in explained.stdout
    assert "by rule trial.healthy\n  because all stayed well through the soak\n" in explained.stdout
    assert re.search(rf"^  wanted       {commit[:8]}$", explained.stdout, re.MULTILINE)
    shorter = device.agent.command("explain", "-n", "1").stdout
    assert shorter.count("because") == 1
    assert explained.stdout.endswith(shorter)

    checked = device.agent.command("check")
    assert checked.returncode == 0, checked.stdout
    assert "problem" not in checked.stdout
    for what in ("state directory", "disk", "clock", "docker compose", "container engine", "git remote", "broker"):
        assert f"ok       {what}: " in checked.stdout
    assert "1 of 1 containers" in checked.stdout
    assert checked.stderr == "nothing is wrong here\n"


def test_status_says_why_a_commit_was_refused(device: Device) -> None:
    device.deploy()
    bad = device.push({COMPOSE: "services: [\n"})
    device.refused(bad)
    status = device.agent.command("status")
    assert status.returncode == 1
    assert re.search(rf"^wanted\s+{bad[:8]} refused$", status.stdout, re.MULTILINE), status.stdout
    assert re.search(rf"^last refused\s+{bad[:8]} \(compose-invalid\): compose\.yaml: ", status.stdout, re.MULTILINE)


# --- what it can't work with ------------------------------------------------------------------------------------


def one_sentence(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done
    assert done.stdout == ""
    assert re.fullmatch(f"metrica-agent: .*{words}.*\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("poll_s = ", "pol_s = ", r'agent\.toml:\d+: unknown key "pol_s"; did you mean "poll_s"\?'),
        ("poll_s = 0.5", 'poll_s = "often"', r"agent\.toml:\d+: .*poll_s"),
        ("poll_s = 0.5", "poll_s = 0", r"agent\.toml:\d+: .*poll_s"),
        ("port = ", "port = 9", r"agent\.toml:\d+: .*port"),
        ("device = ", 'device = "Pi 1" #', r"agent\.toml:\d+: .*device"),
        ("[git]", "[git", r"agent\.toml:\d+: "),
    ],
    ids=["unknown key", "wrong type", "out of bounds", "no port", "no name", "no TOML"],
)
def test_settings_that_are_wrong_are_one_sentence(device: Device, old: str, new: str, words: str) -> None:
    written = device.agent.config.read_text()
    assert old in written
    device.agent.config.write_text(written.replace(old, new, 1))
    one_sentence(device.agent.command("run"), 2, words)


def test_settings_that_are_missing_are_one_sentence(tmp_path: Path) -> None:
    one_sentence(metrica_agent("run", "--config", str(tmp_path / "no.toml")), 2, r"no\.toml: .*--config")


def test_a_state_directory_that_can_not_be_written_is_one_sentence(device: Device) -> None:
    (device.folder / "a-file").touch()
    device.agent.config.write_text(device.agent.wiring.toml(device.folder / "a-file" / "state"))
    one_sentence(device.agent.command("run"), 2, "a-file/state: .*directory")


def test_a_second_agent_on_the_same_state_is_one_sentence(device: Device) -> None:
    device.agent.start()
    device.agent.wait_for("agent.started")
    one_sentence(device.agent.command("run"), 2, "another agent runs")


def test_asking_where_no_agent_ever_ran_is_one_sentence(device: Device) -> None:
    for command in ("status", "explain"):
        one_sentence(device.agent.command(command), 1, "has an agent run here")


def test_an_agent_without_docker_says_so_and_deploys_once_it_is_there(device: Device, engine: RealEngine) -> None:
    environment = without_docker(device.folder)
    device.agent = Agent(device.folder, device.agent.wiring, environment=environment)
    commit = device.push()
    device.agent.start()
    waiting = device.agent.wait_for("release.waiting")
    assert (waiting.reason, waiting.commit) == ("docker-missing", commit)
    assert re.fullmatch(r"docker is not installed[^\n]*", waiting.message)
    checked = device.agent.command("check")
    assert checked.returncode == 1
    assert re.search(
        r"^problem  docker compose: docker is not installed.*; install Docker", checked.stdout, re.MULTILINE
    )
    assert device.agent.log.count("docker is not installed") <= 2, device.agent.log

    found = os.environ["PATH"].split(os.pathsep)
    docker = next(f"{folder}/docker" for folder in found if os.access(f"{folder}/docker", os.X_OK))
    (device.folder / "bin" / "docker").symlink_to(docker)
    device.confirmed(commit, within_s=60)
    assert engine.ids("web")


def test_an_agent_without_a_broker_deploys_all_the_same_and_says_it_once(device: Device) -> None:
    port = free_port()
    device.rewire(device.wiring(broker_port=port))
    device.deploy()
    until(lambda: '"bus_away"' in device.agent.log)
    assert device.agent.log.count("bus_away") == 1
    checked = device.agent.command("check")
    assert checked.returncode == 1
    assert re.search(rf"^problem  broker: 127\.0\.0\.1:{port} does not answer", checked.stdout, re.MULTILINE)
    assert checked.stderr == "1 to be mended\n"
    assert "Traceback" not in checked.stdout + checked.stderr


def test_an_agent_without_its_remote_goes_on_with_what_it_has_and_says_so(device: Device) -> None:
    device.deploy()
    device.agent.terminate()
    (url,) = device.agent.wiring.remotes
    device.rewire(device.wiring(remotes=(url.replace(".git", "-gone.git"),)))
    mark = device.agent.mark()
    device.agent.start()
    told = device.agent.wait_for("git.unreachable", after=mark)
    assert told.reason
    assert device.agent.runs
    device.serves("one")
    checked = device.agent.command("check")
    assert checked.returncode == 1
    assert "problem  git remote: " in checked.stdout


def test_an_order_is_heard_at_once(device: Device) -> None:
    device.deploy()
    for state in ("on", "off", "on", "off"):
        began_s = time.monotonic()
        done = device.agent.command("hold", state, "--reason", "a test")
        assert "the agent obeys" in done.stdout
        assert time.monotonic() - began_s < 10  # without the bell it looks every 20 s
