"""The real command against a real hub, as an operator types it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import ANY

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.hub import Hub
from tests.fixtures.signing import Person
from tests.integration.hub.device import Device, event, new_stream, status, topic
from tests.integration.hub.waiting import until

from metrica_cli.main import main
from metrica_fleet.codec import decode, encode
from metrica_fleet.commands import understood
from metrica_fleet.messages import Answer, StopStanding
from metrica_fleet.signed import Signed
from metrica_fleet.stop import Level
from metrica_fleet.topics import ANSWERS, COMMANDS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a command wrote."""

    stdout: str
    stderr: str


class Operator:
    """Somebody at a shell, with a home of their own."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("METRICA_")}
        self.environment = {**kept, "XDG_CONFIG_HOME": str(home), "PYTHONUTF8": "1"}
        self._beside = ThreadPoolExecutor(1)

    def types(self, *arguments: str, code: int = 0) -> Done:
        """Run ``metrica`` to its end, in this process: the tests of one command take long enough as it is."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with redirect_stdout(stdout), redirect_stderr(stderr):
            ended = self._beside.submit(main, arguments).result(60)
        done = Done(stdout.getvalue(), stderr.getvalue())
        assert ended == code, done
        return done

    def runs(self, *arguments: str) -> Done:
        """Run ``metrica`` as a process, to its end."""
        command = [sys.executable, "-m", "metrica_cli", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return Done(done.stdout, done.stderr)

    def begins(self, *arguments: str) -> subprocess.Popen[str]:
        """Run ``metrica`` beside the test."""
        command = [sys.executable, "-m", "metrica_cli", *arguments]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def has_a_token(self, name: str, role: str) -> Path:
        """Be given a token on the hub's machine; return the file that it is in."""
        command = [sys.executable, "-m", "metrica_hub", "token", "--name", name, "--role", role]
        done = subprocess.run(command, env=self.hub.environment, capture_output=True, text=True, check=True)
        file = self.home / f"{name}.token"
        file.write_text(done.stdout)
        return file


@pytest.fixture
def operator(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Somebody who has logged in as admin."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("METRICA_HUB_URL", "METRICA_CONTEXT", "METRICA_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    one = Operator(hub, tmp_path)
    file = one.has_a_token("ada", "admin")
    one.runs("login", f"http://127.0.0.1:{hub.port}", "--name", "home", "--token-file", str(file))
    return one


async def test_what_an_operator_does_in_the_first_minute(operator: Operator, broker: Broker) -> None:
    async with Device("pi-01", broker.port) as one, Device("pi-02", broker.port) as other:
        for device, role in ((one, "camera"), (other, "sensor")):
            await device.is_present("online", 1)
            await device.has_status(status(device.name, role=role))
        await one.tell(event(new_stream(), 1, kind="release.staged", message="hello"))
        await until(lambda: len(json.loads(operator.types("events", "-o", "json").stdout)["items"]) == 1)
        await until(lambda: len(operator.types("devices", "-o", "name").stdout.split()) == 2)
        assert operator.types("whoami").stdout.startswith("ada (admin) at http://127.0.0.1:")
        assert [line.split()[0] for line in operator.types("devices", "--no-headers").stdout.splitlines()] == [
            "pi-01",
            "pi-02",
        ]
        assert operator.types("devices", "-l", "role=sensor", "-o", "name").stdout == "pi-02\n"
        assert "release.staged" in operator.types("device", "pi-01").stdout
        assert operator.types("top").stdout.splitlines()[1].split()[:2] == ["pi-01", "50"]
        checked = operator.types("check").stdout.splitlines()
        assert [re.split(r"\s+", line)[1] for line in checked] == [
            "client",
            "hub",
            "clock",
            "token",
            "stream",
            "branch",
            "devices",
        ]
        hub_line = operator.types("version").stdout.splitlines()[1]
        assert re.fullmatch(r"hub +\d+\.\d+\S*  \(http://127.0.0.1:\d+\)", hub_line)

        watching = operator.begins("events", "-f", "-n", "1", "-o", "jsonl")
        waiting = operator.begins("wait", "pi-02", "--for", f"commit={'c' * 8}", "--timeout", "30s")
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["message"] == "hello"
        await one.tell(event(new_stream(), 1, kind="drift.found", message="again"))
        assert json.loads(watching.stdout.readline())["message"] == "again"
        watching.send_signal(2)
        assert watching.wait(20) == 130
        watching.stdout.close()
        await other.has_status(status("pi-02", commit="c" * 40, uptime_s=9.0))
        told, _ = waiting.communicate(timeout=30)
        assert (waiting.returncode, told.split()[0]) == (0, "pi-02")


async def test_the_fleet_is_stopped_and_resumed(operator: Operator, broker: Broker, tmp_path: Path) -> None:
    person = Person.made(tmp_path, "ada")
    key = ("--key", str(person.key), "--yes")
    async with Device("pi-01", broker.port) as device:
        await device.is_present("online", 1)
        await device.has_status(status("pi-01"))
        await until(lambda: operator.types("devices", "-o", "name").stdout == "pi-01\n")
        asked = operator.types("stop", "halt", "role:camera", "--reason", "smoke", code=2)
        assert "halt role camera: no workload runs. 1 device, 1 of them connected" in asked.stderr
        stopping = operator.begins("stop", "halt", "role:camera", "--reason", "smoke", *key)
        number = await given(operator, 0)
        standing = StopStanding(number=number, level=Level.HALT, source="order", done=True)
        await device.has_status(status("pi-01", uptime_s=2.0, stop=standing))
        told, _ = stopping.communicate(timeout=60)
        assert (stopping.returncode, told) == (0, f"order {number} stands\n")
        shown = operator.types("stop").stdout
        assert re.search(r"halt +role:camera +smoke", shown)
        assert "by ada: obeyed 1/1  1/1 at rest" in shown
        resuming = operator.begins("resume", "--reason", "the toaster", *key)
        lifted = await given(operator, number)
        await device.has_status(status("pi-01", uptime_s=3.0, stop=StopStanding(number=lifted, level=None)))
        assert resuming.wait(60) == 0
        assert resuming.stdout is not None
        resuming.stdout.close()
    operator.types("resume", "--reason", "once more", *key, code=1)


async def test_a_log_is_read_and_a_command_given(operator: Operator, broker: Broker) -> None:
    async with Device("pi-01", broker.port) as device, asyncio.TaskGroup() as group:
        await device.client.subscribe(topic("pi-01", COMMANDS), qos=1)
        await device.is_present("online", 1)
        await until(lambda: operator.types("devices", "-o", "name").stdout == "pi-01\n")
        obeying = group.create_task(obeys(device))
        assert await asyncio.to_thread(operator.types, "logs", "pi-01", "web", "-n", "2") == Done("one\ntwo\n", ANY)
        restarted = await asyncio.to_thread(operator.types, "restart", "pi-01", "db", code=1)
        assert restarted.stderr.startswith("error: pi-01: failed: not-running: no db here\n")
        obeying.cancel()
        await device.is_present("offline", 1)
    await until(lambda: json.loads(operator.types("device", "pi-01", "-o", "json").stdout)["connection"] == "offline")
    refused = operator.types("sync", "pi-01", code=1)
    assert "try: --queue 2h" in refused.stderr
    waits = operator.types("sync", "pi-01", "--queue", "2h").stdout
    number = re.search(r"metrica commands (\d+)", waits)
    assert number, waits
    assert "cancelled" in operator.types("commands", number[1], "--cancel").stdout
    operator.types("commands", number[1], "--cancel", code=1)
    listed = operator.types("commands", "--device", "pi-01", "--no-headers").stdout
    assert [line.split()[2] for line in listed.splitlines()] == ["sync", "restart", "logs"]


async def obeys(device: Device) -> None:
    """Take commands, as a device does that has no service but ``web``."""
    async for message in device.client.messages:
        signed = decode(COMMANDS, message.payload)  # pyright: ignore[reportArgumentType]
        assert isinstance(signed, Signed)
        command = understood(signed.text)
        if command.verb == "logs":
            part = Answer(number=command.number, state="running", lines=("one", "two"))
            end = Answer(number=command.number, state="done", part=1, message="2 lines")
            answers = [part, end]
        else:
            answers = [Answer(number=command.number, state="failed", reason="not-running", message="no db here")]
        for answer in answers:
            await device.say(ANSWERS, encode(answer))


async def given(operator: Operator, last: int) -> int:
    """Return the number of the order after ``last``, once the hub has it."""
    numbers: list[int] = []

    def is_there() -> bool:
        order = json.loads(operator.types("stop", "-o", "json").stdout)["order"]
        numbers.append(order["number"] if order is not None else 0)
        return numbers[-1] > last

    await until(is_there)
    return numbers[-1]


def test_a_webhook_is_made_listed_and_removed(operator: Operator) -> None:
    url = "https://localhost/metrica"  # a name may mean anything; where it leads is looked at when something is sent
    made = operator.types("webhook", "add", url, "--kind", "release.*", "--kind", "drift.found")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}\n", made.stdout)
    number = re.search(r"metrica webhook remove (\d+)", made.stderr)
    assert number, made.stderr
    [row] = operator.types("webhook", "list", "--no-headers").stdout.splitlines()
    assert row.split() == [number[1], url, "release.*,drift.found", "well", "-", ANY, "ada"]
    assert made.stdout.strip() not in operator.types("webhook", "list", "-o", "json").stdout
    assert "it has to be https" in operator.types("webhook", "add", "http://hooks.example.org/", code=2).stderr
    assert "it can't be reached" in operator.types("webhook", "test", number[1], code=1).stderr
    assert operator.types("webhook", "remove", number[1], code=2).stderr.startswith("error: this asks first")
    operator.types("webhook", "remove", number[1], "--yes")
    operator.types("webhook", "remove", number[1], "--yes", code=5)
    assert operator.types("webhook", "list").stdout == ""


def test_tokens_are_given_and_taken_and_the_trail_tells_it(operator: Operator) -> None:
    made = operator.types("token", "create", "ben", "--role", "viewer", "--days", "1")
    token = made.stdout.strip()
    assert re.fullmatch(r"mtr_[A-Za-z0-9_-]{43}", token)
    file = operator.home / "ben.token"
    file.write_text(token)
    as_ben = ("--token-file", str(file))
    assert operator.types("whoami", *as_ben).stdout.startswith("ben (viewer)")
    assert "This takes the role admin" in operator.types("token", "list", *as_ben, code=4).stderr
    operator.types("token", "create", "ben", code=1)
    rows = [line.split() for line in operator.types("token", "list").stdout.splitlines()]
    assert [(row[1], row[2]) for row in rows[1:]] == [("ada", "admin"), ("ben", "viewer")]
    assert operator.types("token", "revoke", "ben", code=2).stderr.startswith("error: this asks first")
    operator.types("token", "revoke", "ben", "--yes")
    assert "login" in operator.types("whoami", *as_ben, code=4).stderr
    operator.types("token", "revoke", "ben", "--yes", code=5)
    actions = [line.split()[5] for line in operator.types("audit", "--no-headers").stdout.splitlines()]
    assert {"token.create", "token.revoke"} <= set(actions)
    verified = operator.types("audit", "verify")
    again = re.search(r"--seal \d+:[0-9a-f]{64}", verified.stderr)
    assert again, verified.stderr
    operator.types("audit", "verify", *again[0].split())
    assert "entry 1 is missing" in operator.types("audit", "verify", "--seal", f"1:{'0' * 64}", code=1).stderr
