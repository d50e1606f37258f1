"""Commands in a container, ended there as well: killing ``docker exec`` leaves its command running."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.compose import answers
from metrica_agent.adapters.compose.running import OverdueError, processes, run
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_agent.adapters.compose.docker import Docker

_MARK: Final = "METRICA_CHECK"


async def execute(docker: Docker, container: str, argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run ``argv`` in a running container; return exit code and the end of its output.

    Raises:
        NotNow: ``command-timeout``, ``not-running``, ``engine-unresponsive``.
    """
    mark = f"{_MARK}={os.urandom(16).hex()}"
    command = [docker.program(), "exec", "--env", mark, container, *argv]
    try:
        done = await run(command, env=docker.environment, deadline_s=timeout_s)
    except asyncio.CancelledError:
        _kill_marked(mark)
        raise
    except OverdueError as error:
        _kill_marked(mark)
        msg = f"{argv[0]} did not end within {timeout_s:g} s"
        raise NotNow(msg, reason="command-timeout") from error
    if done.code != 0 and answers.is_not_running(done.complaint):
        raise NotNow(answers.said(done.complaint), reason="not-running")
    return done.code, (done.answer + done.complaint)[-answers.MESSAGE_CHARACTERS :].strip()


def _kill_marked(mark: str) -> None:
    """Kill what still has ``mark`` in its environment: the command in the container, and what it started.

    Only the superuser sees the environment of a container's processes; anybody else has nothing to kill.
    """
    wanted = mark.encode()
    for pid in processes():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
