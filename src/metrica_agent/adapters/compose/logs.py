"""What containers wrote, and what the engine says of itself: for people who ask from afar. Seldom needed."""

from __future__ import annotations

from asyncio.subprocess import STDOUT
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.compose import answers
from metrica_agent.adapters.compose.running import OverdueError, child
from metrica_agent.decisions.log_lines import Cutter
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from metrica_agent.adapters.compose.docker import Docker
    from metrica_agent.decisions.log_lines import LogsAsked

_CHUNK_BYTES: Final = 32 * 1024
_CLEAR_LINE: Final = "\x1b[2K"
"""What Compose puts before each line, whatever it was told about colours."""
_SAID_LINES: Final = 3
_DESCRIBED_S: Final = 20.0


async def lines(docker: Docker, service: str, asked: LogsAsked) -> AsyncGenerator[tuple[str, ...]]:
    """Yield the lines of ``service``; whoever takes none holds up who writes them, and nothing piles up here.

    Raises:
        NotNow: ``logs-failed``, ``docker-missing``.
    """
    how = ["--no-color", "--no-log-prefix", "--tail", str(asked.tail)]
    how += ["--since", f"{max(1, round(asked.since_s))}s"] if asked.since_s is not None else []
    how += ["--follow"] if asked.follow else []
    how += ["--timestamps"] if asked.timestamps else []
    cutter, last = Cutter(), ""
    call = docker.compose_call("logs", *how, service)
    async with child(call, env=docker.environment, stderr=STDOUT) as process:
        if process.stdout is None:
            raise NotNow("docker compose logs has no output", reason="logs-failed")
        while data := await process.stdout.read(_CHUNK_BYTES):
            if found := _plain(cutter.fed(data)):
                last = " ".join(found[-_SAID_LINES:])
                yield found
        if found := _plain(cutter.rest()):
            last = found[-1]
            yield found
        if await process.wait() != 0:
            raise NotNow(f"docker compose logs: {answers.said(last)}", reason="logs-failed")


async def described(docker: Docker, ours: str) -> dict[str, str]:
    """Return by file name what the engine says; where it does not answer, why not. ``ours``: the project's label."""
    found: dict[str, str] = {}
    for name, call in (
        ("docker-ps.txt", ("ps", "--all", "--no-trunc", "--filter", ours)),
        ("docker-info.txt", ("info",)),
        ("docker-version.txt", ("version",)),
        ("docker-compose-version.txt", ("compose", "version")),
    ):
        try:
            done = await docker.ask(*call, deadline_s=_DESCRIBED_S)
            found[name] = done.answer or done.complaint
        except (NotNow, OverdueError) as error:
            found[name] = str(error)
    return found


def _plain(found: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(line.removeprefix(_CLEAR_LINE) for line in found)
