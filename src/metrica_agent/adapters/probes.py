"""The role's own checks, run: each ends within its ``timeout_s``, whatever it meets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, assert_never
from urllib.parse import urlsplit

from metrica_agent.certificates import trust
from metrica_agent.decisions.world import CheckResult
from metrica_fleet.definition import Check, CommandCheck, HttpCheck, TcpCheck
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    import ssl
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncGenerator

Execute = Callable[[str, Sequence[str], float], Awaitable[tuple[int, str]]]
"""Service, command, seconds → exit code, output: ``Engine.execute``."""

_AT_ONCE: Final = 8
_HEADER_LINES: Final = 200
_STATUS_LINE: Final = re.compile(rb"HTTP/\d\.\d (\d{3})\b")
_FINAL: Final = 200
"""Statuses below it announce another."""
_MESSAGE_CHARACTERS: Final = 200


class _FailedError(Exception):
    """The check got an answer, and it is not the one that it is well with."""


async def probe(checks: Sequence[Check], execute: Execute) -> tuple[CheckResult, ...]:
    """Return one answer for each of ``checks``, in their order; up to eight run at a time."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(check: Check) -> CheckResult:
        async with turns:
            return await _result(check, execute)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(in_turn(check)) for check in checks]
    return tuple(task.result() for task in running)


async def _result(check: Check, execute: Execute) -> CheckResult:
    try:
        async with asyncio.timeout(check.timeout_s):
            await _ask(check, execute)
    except TimeoutError:
        return _failed(check, f"no answer within {check.timeout_s:g} s")
    except NotNow as error:
        return _failed(check, error.message)
    except _FailedError as error:
        return _failed(check, str(error))
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return _failed(check, str(error) or type(error).__name__)
    return CheckResult(name=check.name, passed=True)


async def _ask(check: Check, execute: Execute) -> None:
    match check:
        case HttpCheck():
            await _ask_http(check)
        case TcpCheck():
            async with _connected(check.host, check.port, None):
                pass
        case CommandCheck():
            code, output = await execute(check.service, check.command, check.timeout_s)
            if code != 0:
                raise _FailedError(f"{check.command[0]} ended with {code}: {output}")
        case _:
            assert_never(check)


async def _ask_http(check: HttpCheck) -> None:
    """Ask with GET and read the status; redirects are answers like any other, and the body is nobody's business."""
    url = urlsplit(check.url)
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
    headers = f"Host: {url.netloc}\r\nUser-Agent: metrica-agent\r\nConnection: close\r\n"
    request = f"GET {path} HTTP/1.1\r\n{headers}\r\n"
    async with _connected(url.hostname or "", port, trust(None) if secure else None) as (reader, writer):
        writer.write(request.encode("ascii"))
        await writer.drain()
        status = await _status(reader)
    if status != check.status:
        raise _FailedError(f"answered {status} instead of {check.status}")


async def _status(reader: StreamReader) -> int:
    """Return the status of the answer; the preliminary ones (1xx) are passed over."""
    status = 0
    for _ in range(_HEADER_LINES):
        line = await _line(reader)
        match = _STATUS_LINE.match(line)
        if match is not None:
            status = int(match[1])
        if status >= _FINAL:
            return status
        if not line or not status:
            break
    raise _FailedError("the answer is not HTTP")


async def _line(reader: StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:
        raise _FailedError("the answer is not HTTP: a line without an end") from error


@asynccontextmanager
async def _connected(
    host: str, port: int, tls: ssl.SSLContext | None
) -> AsyncGenerator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _failed(check: Check, message: str) -> CheckResult:
    return CheckResult(name=check.name, passed=False, message=message[:_MESSAGE_CHARACTERS])
