from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from tests.unit.cli.hubs import hub_that_says, metrica

COMMIT, BEFORE = "3f2c1a9d" * 5, "1f" * 20


def stage(name: str, *, is_open: bool, **counts: int) -> dict[str, Any]:
    names = ("waiting", "started", "confirmed", "unchanged", "refused", "silent", "forgiven")
    return {"name": name, "is_open": is_open} | {one: counts.get(one, 0) for one in names}


def rollout(state: str = "open", **changes: Any) -> dict[str, Any]:
    stages = [
        stage("canary", is_open=True, confirmed=1, refused=1),
        stage("all", is_open=False, waiting=8),
    ]
    known: dict[str, Any] = {
        "id": 12,
        "commit": COMMIT,
        "previous": BEFORE,
        "state": state,
        "reason": None,
        "message": "",
        "stage": 0,
        "stages": stages,
        "begun_at": "2026-11-29T09:00:00Z",
        "ended_at": None,
        "waits": [{"stage": "all", "why": "gate-closed", "devices": 8}],
        "failures": [
            {"stage": "canary", "reason": "unhealthy-in-soak", "devices": 1, "example": "pi-02", "message": "web ended"}
        ],
        "abort": {"revert": True, "devices": 1},
    }
    return known | changes


class Steered:
    """A hub with one rollout, and what it was told."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)
        self.told: list[tuple[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as the API does; each look is at the next state."""
        path = request.path.removeprefix("/api/v1")
        if request.method == "POST":
            self.told.append((path, await request.json()))
            return web.json_response(self.states[0])
        if path == "/rollouts":
            return web.json_response({"items": [self.states[0]], "next": None})
        if path == "/rollouts/12/devices":
            self.told.append((path, dict(request.query)))
            item = {
                "device": "pi-02",
                "stage": "canary",
                "state": "refused",
                "why": "unhealthy-in-soak",
                "message": "m",
            }
            return web.json_response({"items": [item], "next": None})
        if path == "/rollouts/12":
            return web.json_response(self.states.pop(0) if len(self.states) > 1 else self.states[0])
        return web.json_response({"detail": "There is no such rollout."}, status=404)


async def said(hub: Steered, *arguments: str) -> int:
    async with hub_that_says(hub.answer) as address:
        return await metrica("rollout", *arguments, "--hub", address)


async def test_a_rollout_is_shown_with_its_stages_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert await said(Steered(rollout()), "status") == 0
    told = capsys.readouterr()
    head, stages, waits, failures = told.out.split("\n\n")
    assert head.startswith("rollout 12 of 3f2c1a9d  open  begun ")
    assert [line.split() for line in stages.splitlines()] == [
        ["STAGE", "GATE", "WAITING", "STARTED", "CONFIRMED", "UNCHANGED", "REFUSED", "SILENT", "FORGIVEN"],
        ["canary", "open", "0", "0", "1", "0", "1", "0", "0"],
        ["all", "closed", "8", "0", "0", "0", "0", "0", "0"],
    ]
    assert waits.splitlines()[1].split() == ["8", "all", "gate-closed"]
    assert failures.splitlines()[1].split(maxsplit=4) == ["1", "canary", "unhealthy-in-soak", "pi-02", "web ended"]
    assert told.err == "next: metrica rollout status -w\n"


async def test_a_rollout_that_halted_is_exit_1_and_json_is_the_hubs_own(capsys: pytest.CaptureFixture[str]) -> None:
    halted = rollout("halted", reason="too-many-failures", message="1 of 2 failed")
    assert await said(Steered(halted), "status", "12", "-o", "json") == 1
    assert json.loads(capsys.readouterr().out) == halted
    assert await said(Steered(halted), "status") == 1
    assert "✖" not in capsys.readouterr().err


async def test_a_rollout_is_watched_until_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    begun = rollout(stages=[stage("canary", is_open=True, started=2)], message="")
    done = rollout("done", stages=[stage("canary", is_open=True, confirmed=2)], waits=[], failures=[])
    assert await said(Steered(begun, begun, done), "status", "-w") == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == ["[+] Rolling out 3f2c1a9d  0/2 confirmed  2 started  stage canary"]
    assert told.out.startswith("rollout 12 of 3f2c1a9d  ✔ done")
    assert await said(Steered(rollout()), "status", "-w", "--within", "10ms") == 6
    assert "rollout 12 of 3f2c1a9d goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (("pause", "r"), "/rollouts/12/pause", {"reason": "r"}),
        (("resume", "--rollout", "12", "--reason", "r", "--yes"), "/rollouts/12/resume", {"reason": "r"}),
        (("abort", "r", "--yes"), "/rollouts/12/abort", {"reason": "r"}),
        (("abort", "--reason", "r", "--yes", "--keep"), "/rollouts/12/abort", {"reason": "r", "revert": False}),
        (("abort", "--reason", "r", "--yes", "--revert"), "/rollouts/12/abort", {"reason": "r", "revert": True}),
    ],
)
async def test_a_rollout_is_steered_with_a_reason(arguments: tuple[str, ...], path: str, body: dict[str, Any]) -> None:
    hub = Steered(rollout())
    assert await said(hub, *arguments) == 0
    assert hub.told == [(path, body)]


async def test_what_an_abort_does_is_said_and_nobody_to_agree_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Steered(rollout())
    assert await said(hub, "abort", "--reason", "r") == 2
    assert "1 device on the commit go back to what they had before" in capsys.readouterr().err
    assert await said(hub, "abort", "--reason", "r", "--keep") == 2
    assert "1 device on the commit keep it; no other begins" in capsys.readouterr().err
    assert await said(hub, "pause") == 2
    assert hub.told == []


async def test_devices_and_history_of_rollouts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    hub = Steered(rollout("aborted", ended_at="2026-11-29T09:05:00Z", message="ada: crashes"))
    assert await said(hub, "devices", "--state", "refused") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["pi-02", "canary", "✖", "refused"]
    assert hub.told == [("/rollouts/12/devices", {"state": "refused", "limit": "1000"})]
    assert await said(hub, "history", "--no-headers") == 0
    assert capsys.readouterr().out.split()[:7] == ["12", "3f2c1a9d", "1f1f1f1f", "■", "aborted", "1", "1"]


async def test_no_rollout_is_exit_5_and_a_wrong_number_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    async def none(_: web.Request) -> web.StreamResponse:
        return web.json_response({"items": [], "next": None})

    async with hub_that_says(none) as address:
        assert await metrica("rollout", "status", "--hub", address) == 5
        assert await metrica("rollout", "status", "twelve", "--hub", address) == 2
    assert "there is no rollout yet" in capsys.readouterr().err
