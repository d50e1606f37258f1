from __future__ import annotations

import base64
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from tests.unit.cli.hubs import hub_that_says, metrica

if TYPE_CHECKING:
    from pathlib import Path


def command(state: str, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"id": 7, "device": "pi-01", "verb": "sync", "arguments": {}, "state": state, "parts": 0}
    return {
        **known,
        "reason": None,
        "message": "",
        "created_by": "ada",
        "created_at": "2026-11-29T09:00:00Z",
        **changes,
    }


def lines(number: int, *found: str) -> dict[str, Any]:
    return {"part": number, "lines": list(found), "data": ""}


class Obeyed:
    """A hub whose device answers each command the same."""

    def __init__(self, *told: dict[str, Any]) -> None:
        self.told = told
        self.connection = "offline"
        self.asked: list[tuple[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the API does."""
        path = request.path.removeprefix("/api/v1")
        if path == "/commands/7/cancel":
            self.asked.append((path, None))
            return web.json_response(command("cancelled"))
        if request.method == "POST":
            self.asked.append((path, await request.json()))
            headers = {"Location": "/api/v1/commands/7"}
            return web.json_response(command("queued"), status=202, headers=headers)
        if path == "/commands/7/stream":
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for one in self.told:
                event = "state" if "state" in one else "part"
                await response.write(f"event: {event}\ndata: {json.dumps(one)}\n\n".encode())
            return response
        if path == "/devices/pi-01":
            return web.json_response({"device": "pi-01", "connection": self.connection})
        items = [command("done", message="b is here")]
        return web.json_response({"items": items, "next": None} if path == "/commands" else items[0])


async def said(hub: Obeyed, *arguments: str) -> int:
    async with hub_that_says(hub.answer) as address:
        return await metrica(*arguments, "--hub", address)


WHY = ("--reason", "by hand")


@pytest.mark.parametrize(
    ("arguments", "verb", "expected"),
    [
        (["sync", "pi-01"], "sync", {}),
        (["restart", "pi-01", "web"], "restart", {"service": "web"}),
        (["redeploy", "pi-01", "--yes"], "redeploy", {}),
        (["reboot", "pi-01", "--yes"], "reboot", {}),
        (["safe-mode", "pi-01", "on", "--yes", *WHY], "safe-mode", {"on": True, "reason": "by hand"}),
        (["safe-mode", "pi-01", "off", *WHY], "safe-mode", {"on": False, "reason": "by hand"}),
        (["hold", "pi-01", *WHY], "hold", {"on": True, "reason": "by hand"}),
        (["unhold", "pi-01", *WHY], "hold", {"on": False, "reason": "by hand"}),
        (
            ["accept-history", "pi-01", "a" * 40, "--yes", *WHY],
            "accept-history",
            {"commit": "a" * 40, "reason": "by hand"},
        ),
    ],
)
async def test_a_command_is_given_and_what_comes_of_it_is_told(
    arguments: list[str], verb: str, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Obeyed(command("sent"), command("running"), command("done", message="it is so"))
    assert await said(hub, *arguments) == 0
    assert capsys.readouterr().out == "pi-01: it is so\n"
    [(path, body)] = hub.asked
    assert path == "/devices/pi-01/commands"
    assert (body["verb"], body["arguments"], body["queue_s"]) == (verb, expected, 0)


@pytest.mark.parametrize(
    ("state", "code", "told"),
    [
        ("failed", 1, "error: pi-01: failed: not-running: no container"),
        ("refused", 1, "error: pi-01: refused: not-running: no container"),
        ("cancelled", 1, "error: pi-01: cancelled: not-running: no container"),
        ("expired", 6, "error: pi-01: expired: not-running: no container"),
    ],
)
async def test_how_a_command_ends_is_the_exit_code(
    state: str, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Obeyed(command(state, reason="not-running", message="no container"))
    assert await said(hub, "restart", "pi-01", "web") == code
    assert capsys.readouterr().err.splitlines()[0] == told


async def test_a_command_for_a_device_that_is_away_waits_where_that_is_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = Obeyed(command("queued"))
    assert await said(hub, "sync", "pi-01", "--queue", "2h", "--within", "5m") == 0
    assert capsys.readouterr().out == "pi-01: command 7 waits for it; to look: metrica commands 7\n"
    assert (hub.asked[0][1]["queue_s"], hub.asked[0][1]["timeout_s"]) == (7200, 300)
    there = Obeyed(command("queued"), command("done", message="it is so"))
    there.connection = "online"
    assert await said(there, "sync", "pi-01", "--queue", "2h") == 0
    assert capsys.readouterr().out == "pi-01: it is so\n"


async def test_a_log_is_data_and_the_rest_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Obeyed(command("running"), lines(0, "one", "t\x1b[2Jwo"), lines(1, "three"), command("done", parts=2))
    assert await said(hub, "logs", "pi-01", "web", "-n", "5", "--since", "10m", "-t") == 0
    assert capsys.readouterr().out == "one\nt [2Jwo\nthree\n"
    expected = {"service": "web", "tail": 5, "since_s": 600, "follow": False, "timestamps": True}
    assert hub.asked[0][1]["arguments"] == expected


async def test_a_log_of_no_service_is_of_the_only_one_or_the_device_says_which_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = Obeyed(lines(0, "hello"), command("done", parts=1))
    assert await said(hub, "logs", "pi-01") == 0
    assert capsys.readouterr().out == "hello\n"
    assert "service" not in hub.asked[0][1]["arguments"]
    words = "say of which service; the release has talker, web"
    several = Obeyed(command("failed", reason="unknown-service", message=words))
    assert await said(several, "logs", "pi-01") == 1
    told = capsys.readouterr().err
    assert f"pi-01: failed: unknown-service: {words}" in told
    assert "try: metrica logs pi-01 SERVICE" in told


async def test_logs_of_several_services_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Obeyed(lines(0, "hello"), command("done", parts=1))
    assert await said(hub, "logs", "pi-01", "web", "cache", "-f") == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["cache  | hello", "web    | hello"]
    assert [body["timeout_s"] for _, body in hub.asked] == [600, 600]


async def test_a_bundle_is_kept_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parts: list[dict[str, Any]] = [
        {"part": at, "lines": [], "data": base64.b64encode(data).decode()} for at, data in enumerate((b"a\0", b"b"))
    ]
    hub = Obeyed(*parts, command("done", parts=2, message="a bundle"))
    assert await said(hub, "collect", "pi-01") == 0
    file = tmp_path / "pi-01.tar.gz"
    assert file.read_bytes() == b"a\0b"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await said(hub, "collect", "pi-01") == 2
    assert "pi-01.tar.gz is there already" in capsys.readouterr().err
    lost = Obeyed(parts[1], command("done", parts=2))
    assert await said(lost, "collect", "pi-01", "--file", str(tmp_path / "x")) == 1
    assert not (tmp_path / "x").exists()


async def test_decisions_are_told_for_people_or_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    decision = {"step": "wait", "rule": "gate.closed", "why": "the gate is closed", "facts": {"stage": 1, "x": None}}
    line = json.dumps({"at": None, "boot_id": "b", "uptime_s": 5.2, "decision": decision})
    hub = Obeyed(lines(0, line, "what"), command("done", parts=1))
    assert await said(hub, "explain", "pi-01") == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 s after boot  wait, by rule gate.closed",
        "  because the gate is closed",
        "  stage        1",
        "what",
    ]
    assert await said(hub, "explain", "pi-01", "-o", "jsonl") == 0
    assert capsys.readouterr().out.splitlines() == [line, "what"]


async def test_what_can_be_no_command_is_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Obeyed()
    for arguments in (
        ["restart", "pi-01", "../etc"],
        ["restart", "pi_01", "web"],
        ["logs", "pi-01", "web", "-n", "-1"],
        ["accept-history", "pi-01", "abc", "--yes", *WHY],
        ["hold", "pi-01"],
        ["reboot", "pi-01"],
        ["sync", "pi-01", "--queue", "soon"],
    ):
        assert await said(hub, *arguments) == 2, arguments
    assert hub.asked == []
    assert "Reboot pi-01?" in capsys.readouterr().err


async def test_commands_are_listed_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Obeyed()
    assert await said(hub, "commands", "--device", "pi-01", "--no-headers") == 0
    assert capsys.readouterr().out.split()[:5] == ["7", "pi-01", "sync", "✔", "done"]
    assert await said(hub, "commands", "7", "--cancel", "--no-headers") == 0
    assert "cancelled" in capsys.readouterr().out
    assert hub.asked == [("/commands/7/cancel", None)]
    assert await said(hub, "commands", "--cancel") == 2
