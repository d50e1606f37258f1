from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.unit.cli.hubs import Store, event, hub_that_says, hub_with, metrica
from tests.unit.cli.terminals import COLUMNS, Terminal

from metrica_cli.sse import Message, messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

GOOD = "1f" * 20


async def lines(*given: str) -> AsyncGenerator[bytes]:
    for line in given:
        yield f"{line}\n".encode()


async def test_a_stream_is_read_as_the_standard_says() -> None:
    told = [
        message
        async for message in messages(
            lines(
                *("retry: 3000", "", ": ping", "", "id: 7", "event: device", "data: {", "data:  }", ""),
                *("data", "", "id: 8\r", "data: x\r", "\r", "later: what", "data: cut off"),
            )
        )
    ]
    assert told == [Message("7", "device", "{\n }"), Message("7", "message", ""), Message("8", "message", "x")]
    assert [message.json for message in told] == [{}, None, None]


async def streaming(request: web.Request, *told: tuple[int, object]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number, item in told:
        await response.write(f"id: {number}\ndata: {json.dumps(item)}\n\n".encode())
    return response


def happened(number: int, kind: str = "release.confirmed") -> dict[str, object]:
    at = "2026-11-23T12:00:00.5Z"
    return {
        "cursor": number,
        "device": "pi-01",
        "kind": kind,
        "message": f"number {number}",
        "at": at,
        "received_at": at,
    }


async def test_a_stream_that_breaks_off_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/stream"):
            return web.json_response({"items": [happened(2), happened(1)], "next": None})
        asked.append(request.headers.get("Last-Event-ID"))
        match len(asked):
            case 1:
                return await streaming(request, (3, happened(3)), (4, happened(4, "other.kind")))
            case 2:
                return web.json_response({"detail": "The database can't be asked now."}, status=503)
            case 3:
                return await streaming(request, (5, happened(5)))
            case _:
                return web.json_response({"detail": "This token was revoked."}, status=401)

    async with hub_that_says(answer) as address:
        assert await metrica("events", "-f", "--kind", "release.*", "--hub", address) == 4
    told = capsys.readouterr()
    assert [line.rpartition(" ")[2] for line in told.out.splitlines()] == ["1", "2", "3", "5"]
    assert told.out.splitlines()[0] == "2026-11-23T12:00:00  pi-01  release.confirmed  number 1"
    assert asked == ["2", "4", "4", "5"]
    broke, again, error, *_ = told.err.splitlines()
    assert broke == again == "the stream broke off (the hub ended the stream); it is asked to go on"
    assert error == "error: This token was revoked."


async def test_a_hub_without_streams_is_an_error_not_a_wait(capsys: pytest.CaptureFixture[str]) -> None:
    async with hub_with(Store(rows=[event(1, "pi-01")])) as address:
        assert await metrica("events", "-f", "--hub", address) == 5
    assert "number 1" in capsys.readouterr().out


async def test_events_of_one_kind_are_looked_for_further_back(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        event(number, "pi-01", "agent.started" if number in {3, 1700} else "drift.found") for number in range(1, 3000)
    ]
    async with hub_with(Store(rows=rows)) as address:
        command = ("events", "--hub", address, "-o", "jsonl", "--kind")
        assert await metrica(*command, "agent.*") == 0
        assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1700, 3]
        assert await metrica(*command, "agent.*", "-n", "1") == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
        assert await metrica(*command, "agent.*", "--since", "1h", "-n", "1") == 0
        assert await metrica("events", "--hub", address, "--kind", "no.such", "-o", "table") == 0
    assert capsys.readouterr().err == "nothing of that has happened\n"
    assert await metrica("events", "--since", "yesterday") == 2


def told_of(**changes: object) -> dict[str, object]:
    state: dict[str, object] = {"device": "pi-01", "connection": "online", "mode": "steady", "commit": "2e" * 20}
    return {**state, "phase": "confirmed", "change": 7, **changes}


async def test_a_device_is_waited_for_until_it_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/stream"):
            return web.json_response(told_of())
        asked.append(request.headers.get("Last-Event-ID"))
        other = told_of(device="pi-02", commit=GOOD)
        response = await streaming(request, (8, other), (9, told_of(mode="trial")), (10, told_of(commit=GOOD)))
        await asyncio.Event().wait()
        return response

    async with hub_that_says(answer) as address:
        where = ("--hub", address)
        assert await metrica("wait", "pi-01", "--for", "commit=2e2e", *where) == 0
        assert await metrica("wait", "pi-01", "--for", "commit=1f1f1f1f", *where) == 0
        assert capsys.readouterr().out.splitlines()[1] == "pi-01  online  steady  1f1f1f1f"
        assert await metrica("wait", "pi-01", "--for", "mode=safe", "--timeout", "300ms", *where) == 6
        assert "pi-01  online  steady  2e2e2e2e" in capsys.readouterr().err
        assert await metrica("wait", "pi-01", "--for", "colour=red", *where) == 2
        assert await metrica("wait", "pi-01", "--for", "mode=normal", *where) == 2
    assert asked == ["7", "7"]


async def test_off_a_terminal_a_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/stream"):
            return web.json_response({"items": [told_of()], "next": None})
        if request.headers.get("Last-Event-ID") == "9":
            return web.json_response({"detail": "No."}, status=403)
        same, away = told_of(change=8, uptime_s=9), told_of(connection="offline", reason="lost", message="silent")
        return await streaming(request, (8, same), (9, away))

    async with hub_that_says(answer) as address:
        assert await metrica("devices", "-w", "-l", "mode=steady", "--hub", address) == 4
        assert capsys.readouterr().out.splitlines() == [
            "pi-01  online  steady  2e2e2e2e",
            "pi-01  offline  steady  2e2e2e2e  lost: silent",
        ]
        assert await metrica("devices", "-w", "-o", "jsonl", "--hub", address) == 4
        assert [json.loads(line)["change"] for line in capsys.readouterr().out.splitlines()] == [7, 8, 7]
        assert await metrica("top", "-w", "--hub", address) == 2


@pytest.mark.parametrize("selector", ["camera", "colour=red", "role="])
async def test_what_selects_nothing_is_exit_2(selector: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await metrica("devices", "-l", selector) == 2
    assert f'-l "{selector}" selects nothing' in capsys.readouterr().err


async def test_what_is_asked_for_twice_is_exit_2() -> None:
    assert await metrica("devices", "-l", "tag=north", "-l", "tag=south") == 2


async def test_on_a_terminal_the_table_is_drawn_in_place_and_left_in_sight() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/stream"):
            return web.json_response({"items": [told_of()], "next": None})
        response = await streaming(
            request, (8, told_of(mode="degraded")), (9, told_of(device="pi-02", message="9" * 90))
        )
        await asyncio.Event().wait()
        return response

    async with hub_that_says(answer) as address:
        shown = await asyncio.to_thread(watched, "devices", "-w", "--hub", address)
    assert shown.startswith("\x1b[?1049h")
    before, _, after = shown.rpartition("\x1b[?1049l")
    assert "\x1b[33mdegraded\x1b[0m" in before
    rows = [re.sub(r"\x1b\[\d+m", "", row) for row in after.rstrip().split("\r\n")]
    assert [row[:6].rstrip() for row in rows] == ["DEVICE", "pi-01", "pi-02"]
    assert rows[2].endswith("99…")
    assert max(map(len, rows)) == COLUMNS


async def test_on_a_terminal_a_token_that_was_revoked_ends_the_watch_in_words() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/stream"):
            return web.json_response({"items": [told_of()], "next": None})
        return web.json_response({"detail": "This token was revoked."}, status=401)

    def ended(address: str) -> tuple[int, str]:
        with Terminal("devices", "-w", "--hub", address) as terminal:
            return terminal.ends(), terminal.seen

    async with hub_that_says(answer) as address:
        code, shown = await asyncio.to_thread(ended, address)
    assert code == 4
    assert "error: This token was revoked." in shown
    assert "Traceback" not in shown


def watched(*arguments: str) -> str:
    """Return what was shown until the second device came, and Ctrl-C."""
    with Terminal(*arguments) as terminal:
        terminal.shows("pi-02")
        terminal.interrupts()
        assert terminal.ends() == 130
        return terminal.seen
