"""Commands as children: bounded in time and output, and dead with all they started at their end."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from asyncio import StreamReader
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator, Mapping, Sequence

KEPT_BYTES: Final = 8 * 1024
"""Of what a command says on its standard error: the end."""
READ_BYTES: Final = 16 * 1024 * 1024
"""Of what a command answers: more is no answer."""
_CHUNK_BYTES: Final = 64 * 1024
_SESSION_FIELD: Final = 3
"""Of /proc/<pid>/stat, counted after the command's name: state, parent, group, session."""


class Finished(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    answer: str
    complaint: str
    """The end of its standard error."""


class OverdueError(Exception):
    """A command was killed because its time was over. ``complaint``: the end of what it had said."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.complaint = complaint


async def run(argv: Sequence[str], *, env: Mapping[str, str], deadline_s: float) -> Finished:
    """Run a command to its end.

    Raises:
        OverdueError: it did not end within ``deadline_s``; nothing of it runs any more.
        NotNow: ``answer-too-large``.
    """
    answer, complaint = bytearray(), bytearray()
    try:
        async with asyncio.timeout(deadline_s), child(argv, env=env) as process:
            async with asyncio.TaskGroup() as readers:
                readers.create_task(_beginning(process.stdout, answer))
                readers.create_task(_end(process.stderr, complaint))
            code = await process.wait()
    except TimeoutError:
        raise OverdueError(complaint.decode("utf-8", "replace")) from None
    if len(answer) > READ_BYTES:
        raise NotNow(f"{argv[0]} answered more than {READ_BYTES} bytes", reason="answer-too-large")
    return Finished(code, answer.decode("utf-8", "replace"), complaint.decode("utf-8", "replace"))


@asynccontextmanager
async def child(
    argv: Sequence[str], *, env: Mapping[str, str], stderr: int = PIPE, stdin: int = DEVNULL
) -> AsyncGenerator[Process]:
    """Start a command in a session of its own; at the end, however it comes, nothing of that session is left."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=stdin, stdout=PIPE, stderr=stderr, env=dict(env), cwd="/", start_new_session=True
    )
    try:
        yield process
    except BaseException:
        kill_session(process.pid)
        raise
    finally:
        if process.returncode is None:
            kill_session(process.pid)
        await process.wait()


def kill_session(session: int) -> None:
    """Kill every process of a session: children may have left the process group, but not that."""
    killed: set[int] = set()
    while members := {pid for pid in processes() if _session_of(pid) == session} - killed:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= members


def processes() -> list[int]:
    """Return the ids of all processes of this machine that can be seen."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - names are all we need


def _session_of(pid: int) -> int | None:
    """Return the session of a living process; ``None`` for a zombie, which is as dead as it can be made."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[_SESSION_FIELD])


async def _beginning(stream: StreamReader | None, kept: bytearray) -> None:
    while chunk := await _chunk(stream):
        if len(kept) <= READ_BYTES:
            kept += chunk


async def _end(stream: StreamReader | None, kept: bytearray) -> None:
    while chunk := await _chunk(stream):
        kept += chunk
        del kept[:-KEPT_BYTES]


async def _chunk(stream: StreamReader | None) -> bytes:
    return await stream.read(_CHUNK_BYTES) if stream is not None else b""
