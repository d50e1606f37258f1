from __future__ import annotations

import asyncio
import json
import re
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.unit.cli.hubs import BAD, Store, device, event, hub_that_says, hub_with, metrica, refusing

from metrica_cli.fleet import device_rows
from metrica_cli.look import Look
from metrica_fleet.messages import Service
from metrica_hub.decisions.fleet_state import Claimant, Running
from metrica_hub.decisions.lamp import Lamp

if TYPE_CHECKING:
    from metrica_hub.decisions.lamp import LampState

WORDS = "no workload is to run, by ada, stop order 7: smoke"


def store() -> Store:
    """Made anew by each test: how long ago something was seen is counted from now."""
    return Store(
        states=[
            device("pi-01"),
            device("pi-02", connection="offline", mode="degraded", reason="too-hot", message="81 degrees"),
            refusing("pi-03"),
            device("pi-04", connection="never-seen", role=None, mode=None, commit=None, phase=None, last_seen_at=None),
        ],
        rows=[event(number, f"pi-0{number % 2 + 1}") for number in range(1, 40)],
    )


async def test_devices_are_listed_with_problems_first(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(store()) as address:
        assert await metrica("devices", "--hub", address) == 0
    told = capsys.readouterr()
    heads, *rows = told.out.splitlines()
    assert heads.split() == ["DEVICE", "ROLE", "CONNECTION", "MODE", "COMMIT", "WANTED", "PHASE", "SEEN", "WHY"]
    assert [row.split()[0] for row in rows] == ["pi-03", "pi-02", "pi-04", "pi-01"]
    assert rows[0].split(maxsplit=9) == [
        *("pi-03", "camera", "●", "online", "steady", "1f1f1f1f", BAD[:8], "✖", "refused"),
        '1m    refused bad0bad0: service "web" turned unhealthy',
    ]
    assert rows[1].endswith("1m    too-hot: 81 degrees")
    assert told.err == ""


async def test_json_is_the_hubs_own_json(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(store()) as address:
        assert await metrica("devices", "--hub", address, "-o", "json") == 0
        listed = json.loads(capsys.readouterr().out)
        assert await metrica("device", "pi-01", "--hub", address, "-o", "json") == 0
        one = json.loads(capsys.readouterr().out)
    assert [item["device"] for item in listed["items"]] == ["pi-01", "pi-02", "pi-03", "pi-04"]
    assert listed["next"] is None
    aged = "last_heard_ago_s"  # of the answer, not of the device
    runs = {"services": None, "services_at": None, "services_untold": 0, "engine_answers": None, "prometheus": None}
    assert {**listed["items"][0], **runs, aged: None} == {**one, aged: None}
    assert one["vitals"]["disk_free_bytes"] == 3 * 1024**3


async def test_names_and_json_lines_are_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(store()) as address:
        assert await metrica("devices", "--hub", address, "-o", "name") == 0
        assert capsys.readouterr().out == "pi-01\npi-02\npi-03\npi-04\n"
        assert await metrica("events", "--hub", address, "-o", "jsonl", "-n", "3") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["seq"] for line in lines] == [39, 38, 37]
        assert await metrica("devices", "--hub", address, "--no-headers") == 0
        assert len(capsys.readouterr().out.splitlines()) == 4


async def test_a_fleet_of_more_than_a_page_is_listed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    many = Store(states=[device(f"pi-{number:05}") for number in range(2_345)])
    async with hub_with(many) as address:
        assert await metrica("devices", "--hub", address, "-o", "name") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2_345


async def test_one_device_is_shown_with_why_and_its_last_events(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(store()) as address:
        assert await metrica("device", "pi-02", "--hub", address) == 0
    facts, events = capsys.readouterr().out.split("\n\n")
    assert [re.split(r":\s+", line, maxsplit=1) for line in facts.splitlines()] == [
        ["device", "pi-02"],
        ["role", "camera"],
        ["tags", "north, canary"],
        ["connection", "○ offline (connected)"],
        ["last heard", "1m"],
        ["prometheus", "not-asked"],
        ["mode", "degraded"],
        ["confirmed", "1f1f1f1f"],
        ["release", "2e2e2e2e"],
        ["wanted", "1f1f1f1f ✔ confirmed"],
        ["why", "too-hot: 81 degrees"],
        ["agent", "0.1.0"],
        ["disk free", "3.0 GiB"],
        ["temperature", "52 °C"],
    ]
    heads, *rows = events.splitlines()
    assert heads.split() == ["AGE", "KIND", "REASON", "COMMIT", "MESSAGE"]
    assert len(rows) == 10
    assert rows[0].split(maxsplit=4) == ["1d6h", "release.confirmed", "-", "1f1f1f1f", "number 39 and  [31mred"]


async def test_one_device_is_shown_with_what_runs_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    since = datetime.now(UTC) - timedelta(hours=5, minutes=30)
    services = (
        Service(name="init", state="done", exit_code=0, image="example.org/init:1"),
        Service(name="recorder", state="restarting", exit_code=3, restarts=41, containers=2, image="example.org/rec:2"),
        Service(name="web", state="running", health="healthy", image="example.org/web:1", image_id="abab", since=since),
    )
    running = Running(services=services, services_at=since, services_untold=1, engine_answers=False)
    async with hub_with(Store(states=[device("pi-02")], runs={"pi-02": running})) as address:
        assert await metrica("device", "pi-02", "--hub", address, "--color", "never") == 0
        facts, table = capsys.readouterr().out.rstrip().split("\n\n")
        assert await metrica("device", "pi-02", "--hub", address, "-o", "json") == 0
        assert [one["restarts"] for one in json.loads(capsys.readouterr().out)["services"]] == [0, 41, 0]
    assert "the container engine does not answer; as they were 5h ago; 1 more than are listed" in facts
    assert [re.split(r"\s{2,}", line) for line in table.splitlines()] == [
        ["SERVICE", "STATE", "HEALTH", "RESTARTS", "SINCE", "IMAGE"],
        ["init", "✔ done", "-", "0", "-", "example.org/init:1"],
        ["recorder (2)", "↺ restarting (3)", "-", "41", "-", "example.org/rec:2"],
        ["web", "running", "healthy", "0", "5h", "example.org/web:1", "abab"],
    ]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("reached", "● reached (last: 5h ago)"),
        ("not-reached", "○ not-reached (last: 5h ago)"),
        ("no-target", "no-target"),
        ("unknown", "unknown (it last answered: never since the hub began)"),
    ],
)
async def test_one_device_is_shown_with_whether_prometheus_reaches_it(
    state: LampState, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lamp = Lamp(state=state, reached_at=datetime.now(UTC) - timedelta(hours=5, minutes=30))
    async with hub_with(Store(states=[device("pi-02")], lamps={"pi-02": lamp})) as address:
        assert await metrica("device", "pi-02", "--hub", address) == 0
        assert f"prometheus:   {said}\n" in capsys.readouterr().out
        assert await metrica("device", "pi-02", "--hub", address, "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["prometheus"]["state"] == state


async def test_events_may_be_those_of_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(store()) as address:
        assert await metrica("events", "--hub", address) == 0
        assert len(capsys.readouterr().out.splitlines()) == 21
        assert await metrica("events", "--hub", address, "--device", "pi-01", "-n", "5") == 0
        rows = capsys.readouterr().out.splitlines()[1:]
    assert {row.split()[1] for row in rows} == {"pi-01"}
    assert len(rows) == 5


async def test_the_hubs_address_may_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub_with(store()) as address:
        monkeypatch.setenv("METRICA_HUB_URL", f"{address}/")
        assert await metrica("device", "pi-01", "-o", "name") == 0
    assert capsys.readouterr().out == "pi-01\n"


async def test_an_empty_fleet_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(Store()) as address:
        assert await metrica("devices", "--hub", address) == 0
        assert await metrica("events", "--hub", address) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "no device was heard of yet\nnothing has happened yet\n")


# --- no ---------------------------------------------------------------------------------------------------------


async def test_a_device_that_nobody_heard_of_is_exit_5(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(store()) as address:
        for command in (["device", "pi-99"], ["events", "--device", "pi-99"]):
            assert await metrica(*command, "--hub", address) == 5
            what, why, advice = capsys.readouterr().err.splitlines()
            assert what == 'error: No device "pi-99" was ever heard of.'
            assert why.startswith(f"  404 from {address}/api/v1/devices/pi-99")
            assert advice == "  try: metrica devices"


async def test_a_hub_that_is_not_there_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert await metrica("devices", "--hub", address) == 3
    what, _, advice = capsys.readouterr().err.splitlines()
    assert what == f"error: the hub at {address} can't be reached"
    assert advice == "  try: --hub URL, or set METRICA_HUB_URL"


@pytest.mark.parametrize("address", ["hub", "ftp://hub/", "http://", "http://127.0.0.1:99999"])
async def test_what_is_no_address_is_exit_2(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await metrica("devices", "--hub", address) == 2
    assert capsys.readouterr().err.startswith(f'error: "{address}" is no address of a hub\n')


async def test_a_hub_that_does_not_answer_in_time_is_exit_6(capsys: pytest.CaptureFixture[str]) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with hub_that_says(never) as address:
        assert await metrica("devices", "--hub", address, "--timeout", "0.2") == 6
    assert capsys.readouterr().err.startswith(f"error: {address} did not answer within 0.2 s\n")


@pytest.mark.parametrize(
    ("status", "body", "code", "told"),
    [
        (401, '{"detail": "No token."}', 4, "error: No token."),
        (403, "{}", 4, "error: the hub answered 403"),
        (503, '{"title": "Service Unavailable", "detail": "Later."}', 1, "error: Later."),
        (500, "<html>", 1, "error: the hub answered 500"),
        (200, "<html>", 3, "is no Metrica hub"),
        (200, "[" * 5000, 3, "is no Metrica hub"),
        (200, "[1]", 3, "is no Metrica hub"),
    ],
)
async def test_another_answer_is_told_in_its_own_words(
    status: int, body: str, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body)

    async with hub_that_says(answer) as address:
        assert await metrica("device", "pi-01", "--hub", address) == code
    assert told in capsys.readouterr().err.splitlines()[0]


async def test_a_hub_of_another_version_is_shown_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"items": [{"device": "pi-01", "vitals": 5, "new": {}}, "what"], "extra": 1})

    async with hub_that_says(answer) as address:
        assert await metrica("devices", "--hub", address) == 0
        assert await metrica("events", "--hub", address) == 0
        assert await metrica("device", "pi-01", "--hub", address) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["devic"], 'error: Unknown command "devic". Did you mean "device"?'),
        (["device"], 'error: Command "device" parameter ID requires an argument.'),
        (["device", "pi_01"], 'error: "pi_01" is no name of a device'),
        (["events", "-n", "0"], "error: -n 0 asks for nothing"),
        (["events", "-n", "many"], 'error: Invalid value for -n: unable to convert "many" into int.'),
        (["devices", "-o", "yaml"], 'error: Invalid value "yaml" for -o.'),
        (["devices", "--huub", "x"], "error: Unknown option: "),
    ],
)
async def test_a_wrong_command_line_is_exit_2_and_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await metrica(*arguments) == 2
    what, advice = capsys.readouterr().err.splitlines()
    assert what.startswith(told)
    assert advice.startswith("  try: ")


async def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert await metrica("--version") == 0
    assert capsys.readouterr().out.startswith("metrica ")
    assert await metrica("--help") == 0
    assert "metrica lint " in capsys.readouterr().out


async def test_help_is_broken_once_where_the_terminal_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert await metrica("rollout", "--help") == 0
    told = capsys.readouterr().out.splitlines()
    assert "  abort: End a rollout: no further device begins, those on" in told
    assert "      the commit keep it or go back to the release before." in told


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "stopped: halt, by order 7"),
        ({"reason": "on-trial"}, "stopped: halt, by order 7; on-trial"),
        ({"reason": "stopped"}, "stopped: halt, by order 7"),
        ({"reason": "stopped", "message": WORDS}, f"stopped: {WORDS}"),
        ({"reason": "stopped", "message": WORDS, "stop_done": False}, f"stopped: {WORDS}; not yet at rest"),
    ],
)
def test_who_is_stopped_is_said_to_be_once(said: dict[str, object], why: str) -> None:
    device = {"device": "pi-01", "stop_level": "halt", "stop_number": 7, "stop_source": "order", "stop_done": True}
    [row] = device_rows([device | said], datetime.now(UTC), Look())
    assert row[-1] == why


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf"])
async def test_a_time_in_which_nothing_can_be_answered_is_exit_2(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await metrica("devices", f"--timeout={given}") == 2
    assert f"--timeout {given} is no time to wait" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("devices",), ("events",), ("device", "pi-01")])
async def test_a_404_where_every_hub_has_something_is_no_hub(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=404, text="<html>nothing here</html>", content_type="text/html")

    async with hub_that_says(nothing) as address:
        assert await metrica(*command, "--hub", address) == 3
        assert capsys.readouterr().err.startswith(f"error: {address} is no Metrica hub\n  404 from {address}/api/v1/")


async def test_two_machines_of_one_name_are_shown_with_their_boot_ids(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    two = tuple(Claimant(boot_id=boot, connection=1, agent_version="1", last_heard_at=now) for boot in ("b-1", "b-2"))
    states = [device("pi-01", claimants=two), device("pi-02", connection="flapping", flapping_since=now)]
    async with hub_with(Store(states=states)) as address:
        assert await metrica("devices", "--hub", address) == 0
        listed = capsys.readouterr().out
        assert await metrica("device", "pi-01", "--hub", address) == 0
        shown = capsys.readouterr().out
    assert "⧉ claimed" in listed
    assert "↯ flapping" in listed
    assert re.search(r"claimed by: +b-1, heard \ds; b-2, heard \ds", shown)
