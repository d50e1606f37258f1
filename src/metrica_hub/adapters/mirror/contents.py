"""What is in a commit: read by a child process, within a time and a memory of its own.

A repository is an operator's, but what it holds is not trusted with the hub: a pack of a kilobyte may become a
gigabyte, a server may trickle, ten thousand files take seconds to parse. A child can be ended, a thread can't.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.errors import NotNow
from metrica_fleet.identity import short
from metrica_hub.adapters.mirror.address import redacted
from metrica_hub.decisions.reading import Reading

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from metrica_fleet.identity import CommitId

_DEADLINE_S: Final = 120.0
_MEMORY_BYTES: Final = 1024 * 1024 * 1024
_CHILD: Final = "metrica_hub.adapters.mirror.child"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is asked for, on its standard input: an address may hold a password."""

    url: str
    commit: str
    memory_bytes: int


class Read(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The child's answer."""

    reading: Reading


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The child's answer when it could not."""

    message: str


Answer = Read | Failed
_ANSWER: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


class Contents:
    """The commits of one repository."""

    def __init__(self, url: str, *, deadline_s: float = _DEADLINE_S, memory_bytes: int = _MEMORY_BYTES) -> None:
        self._url = url
        self._memory_bytes = memory_bytes
        self._deadline_s = deadline_s

    async def read(self, commit: CommitId) -> Reading:
        """Return what of ``commit`` concerns the hub.

        Raises:
            NotNow: ``git-unreadable``: it can't be fetched, or what it holds is too much.
        """
        order = msgspec.msgpack.encode(Order(url=self._url, commit=commit, memory_bytes=self._memory_bytes))
        try:
            async with asyncio.timeout(self._deadline_s):
                said = await _answered(order)
        except TimeoutError as error:
            raise self._unreadable(commit, f"not within {self._deadline_s:.0f} s") from error
        except (OSError, RuntimeError) as error:  # uvloop's, of a child that has gone before it was told all
            raise self._unreadable(commit, f"who is to read it can't ({error})") from error
        try:
            answer = _ANSWER.decode(said)
        except msgspec.DecodeError as error:
            raise self._unreadable(commit, "what it holds is more than may be read") from error
        if isinstance(answer, Failed):
            raise self._unreadable(commit, answer.message)
        return answer.reading

    def _unreadable(self, commit: CommitId, why: str) -> NotNow:
        what = f"commit {short(commit)} of {redacted(self._url)} can't be read: {why}"
        return NotNow(what, reason="git-unreadable")


async def _answered(order: bytes) -> bytes:
    """Return what a child answers to ``order``."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", _CHILD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, _ = await child.communicate(order)
    finally:
        await _ended(child)
    return said


async def _ended(child: Process) -> None:
    """End the child, and an ssh that it may have begun."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
