"""A role's checks against real sockets and a real container."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.engine import compose_yaml

from metrica_agent.adapters.probes import probe
from metrica_fleet.definition import CommandCheck, HttpCheck, TcpCheck

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncGenerator, Sequence

    from tests.fixtures.engine import Deployer


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncGenerator[int]:
    """Serve ``answer`` to everybody (``None``: accept and say nothing); give the port."""
    over = asyncio.Event()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        if answer is None:
            await over.wait()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            over.set()


async def nobody(service: str, argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
    raise AssertionError(f"{service}, {argv}, {timeout_s}: no command is asked for")


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nbody", 200, ""),
        (b"HTTP/1.0 204 \r\n\r\n", 204, ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 200, ""),
        (b"HTTP/1.1 301 Moved\r\nLocation: /there\r\n\r\n", 301, ""),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", 200, "answered 503 instead of 200"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /there\r\n\r\n", 200, "answered 301 instead of 200"),
        (b"SSH-2.0-OpenSSH\r\n", 200, "the answer is not HTTP"),
        (b"", 200, "the answer is not HTTP"),
        (b"x" * 100_000, 200, "the answer is not HTTP: a line without an end"),
    ],
)
async def test_an_http_check_compares_the_status_and_follows_nothing(answer: bytes, status: int, message: str) -> None:
    async with serving(answer) as port:
        check = HttpCheck(name="web", url=f"http://127.0.0.1:{port}/a?b=c", status=status)
        (result,) = await probe((check,), nobody)
    assert (result.name, result.passed) == ("web", message == "")
    assert message in result.message


async def test_a_server_that_says_nothing_has_until_the_timeout_and_others_do_not_wait_for_it() -> None:
    async with serving(None) as mute, serving(b"HTTP/1.1 200 OK\r\n\r\n") as well, asyncio.timeout(3.0):
        slow = tuple(HttpCheck(name=f"s{n}", url=f"http://127.0.0.1:{mute}", timeout_s=0.2) for n in range(20))
        results = await probe((*slow, HttpCheck(name="w", url=f"http://127.0.0.1:{well}")), nobody)
    assert [result.passed for result in results] == [False] * 20 + [True]
    assert results[0].message == "no answer within 0.2 s"


async def test_a_tcp_check_is_well_when_somebody_accepts() -> None:
    async with serving(None) as port:
        (open_port,) = await probe((TcpCheck(name="t", port=port),), nobody)
    (closed,) = await probe((TcpCheck(name="t", port=port),), nobody)
    (lost,) = await probe((TcpCheck(name="t", host="no-such-host.invalid", port=port),), nobody)
    assert (open_port.passed, closed.passed, lost.passed) == (True, False, False)
    assert closed.message
    assert lost.message


async def test_an_https_check_does_not_trust_just_anybody() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        check = HttpCheck(name="w", url=f"https://127.0.0.1:{port}/", timeout_s=2.0)
        (result,) = await probe((check,), nobody)
    assert not result.passed


async def test_a_url_that_makes_no_sense_is_a_failed_check() -> None:
    (result,) = await probe((HttpCheck(name="w", url="http://127.0.0.1:99999/"),), nobody)
    assert not result.passed
    assert "ort" in result.message


async def test_command_checks_are_run_in_their_services(deployer: Deployer) -> None:
    await deployer.deploy({"compose.yaml": compose_yaml({"a": {}})})

    def command(name: str, script: str, service: str = "a", timeout_s: float = 10.0) -> CommandCheck:
        return CommandCheck(name=name, service=service, command=("sh", "-c", script), timeout_s=timeout_s)

    checks = (
        command("well", "exit 0"),
        command("ill", "echo because; exit 1"),
        command("slow", "sleep 86422 & wait", timeout_s=0.7),
        command("nobody", "exit 0", service="b"),
    )
    well, ill, slow, nobody_there = await probe(checks, deployer.engine.execute)
    assert well.passed
    assert (ill.passed, ill.message) == (False, "sh ended with 1: because")
    assert (slow.passed, slow.message) == (False, "no answer within 0.7 s")
    assert not sleeping(86422)
    assert (nobody_there.passed, nobody_there.message) == (False, 'service "b" has no running container')


def sleeping(seconds: int) -> list[str]:
    """Return the processes of this machine, containers included, that sleep for ``seconds``."""
    found = subprocess.run(["ps", "-ewwo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if f"sleep {seconds}" in line and line[0] != "Z"]
