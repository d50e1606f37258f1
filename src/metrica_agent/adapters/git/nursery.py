"""The life of Git children: born with an order, bounded in time, and then dead with all they started, or at rest.

A Python with dulwich costs 0.2 s of a processor to begin, and an update is a fetch, a reading and an export. So a child
that did well stays for a while (``child.PATIENCE_S``) and takes the next order. It ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import msgspec

from metrica_agent.adapters.git import orders
from metrica_fleet.errors import NotNow, Ours

# -I keeps the environment and the working directory out of the child's imports; so it must be told where we are.
BIRTH: Final = "import sys; sys.path.insert(0, sys.argv[1]); from metrica_agent.adapters.git.child import main; main()"
_SOURCES: Final = str(Path(__file__).resolve().parents[3])
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[orders.Answer]] = msgspec.json.Decoder(orders.Answer)
_TOLD_CHARACTERS: Final = 500
_COMPLAINT_BYTES: Final = 16 * 1024
"""Of what a child says on stderr, the last."""
_STDIN, _STDERR = 0, 2
_KEPT_VARIABLES: Final = (
    "PATH",
    "HOME",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "SSL_CERT_FILE",  # whom the poll trusts, the fetch trusts
    "SSL_CERT_DIR",
)


class Nursery:
    """Git children, of whom at most one waits for an order."""

    def __init__(self) -> None:
        self._at_rest: _Child | None = None
        self._open = True

    async def answer(self, order: orders.Order, what: str) -> orders.Answer:
        """Have a child carry out ``order`` within its ``fetch_s``; kill it and all it started otherwise.

        Raises:
            NotNow: ``git-timeout`` past the deadline, ``fetch-too-large`` when the child ran into a bound of the
                kernel, ``git-child-unborn`` when there is none to be had.
            Ours: ``git-child-failed``, when it ended without an answer.
        """
        seconds = order.bounds.fetch_s
        try:
            async with asyncio.timeout(seconds):
                return await self._answered(orders.framed(_ENCODER.encode(order)))
        except TimeoutError:
            raise NotNow(f"{what} took longer than {seconds:g} s and was ended", reason="git-timeout") from None
        except _EndedError as end:
            raise _failure(end, what) from None
        except msgspec.DecodeError as error:
            raise Ours(f"the Git child answered with no answer: {error}", reason="git-child-answer") from error

    async def aclose(self) -> None:
        """End the child that waits, at once. From now on none waits any more."""
        self._open = False
        child, self._at_rest = self._at_rest, None
        if child is not None:
            await child.end()

    async def _answered(self, order: bytes) -> orders.Answer:
        child, self._at_rest = self._at_rest, None
        if child is not None and not child.well:
            await child.end()
        elif child is not None:
            try:
                return await self._answered_by(child, order)
            except _EndedError as end:
                if end.begun:
                    raise
                # Its patience was at an end just now: nothing was done.
        return await self._answered_by(await _born(), order)

    async def _answered_by(self, child: _Child, order: bytes) -> orders.Answer:
        stays = False
        try:
            answer = _DECODER.decode(await child.told(order))
            did_well = not isinstance(answer, orders.NotNowAnswer | orders.UnusableAnswer)
            stays = did_well and child.well and self._open and self._at_rest is None
            if stays:
                self._at_rest = child
        finally:
            if not stays:
                await child.end()
        return answer


class _EndedError(Exception):
    """A child has ended without an answer."""

    def __init__(self, *, begun: bool, code: int, complaint: bytes) -> None:
        super().__init__(code)
        self.begun, self.code, self.complaint = begun, code, complaint


class _Child(asyncio.SubprocessProtocol):
    """One process. Takes one order at a time."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self._deaf = False
        self._told, self._complaint = bytearray(), b""
        self._answer: asyncio.Future[bytes] | None = None

    @property
    def well(self) -> bool:
        """Whether, as far as is known, it lives, listens, and has said nothing that it was not asked."""
        return not (self._deaf or self._told or self._complaint)

    async def told(self, order: bytes) -> bytes:
        """Give it ``order``, framed; return its answer.

        Raises:
            _EndedError: it has ended.
        """
        self._answer = asyncio.get_running_loop().create_future()
        asked = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(_STDIN))
        if self._gone.is_set():
            self._say_end(self._answer)
        elif not asked.is_closing():  # else its end is on its way to us
            asked.write(order)
        return await self._answer

    async def end(self) -> None:
        """Kill it with all that it started, and reap it."""
        if not self._gone.is_set():
            self._kill()
        await self._gone.wait()

    # --- what asyncio tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._complaint = (self._complaint + data)[-_COMPLAINT_BYTES:]
            return
        self._told += data
        start = len(orders.BEGUN) + orders.HEAD_BYTES
        if self._answer is None or self._answer.done() or len(self._told) < start:
            return
        end = start + orders.size_in(bytes(self._told[len(orders.BEGUN) : start]))
        if len(self._told) >= end:
            self._answer.set_result(bytes(self._told[start:end]))
            del self._told[:end]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        del fd, exc
        self._deaf = True

    def process_exited(self) -> None:
        self._deaf = True
        if self._answer is not None and not self._answer.done():
            self._kill()  # what it started may hold its pipes

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport.close()
        self._gone.set()
        if self._answer is not None and not self._answer.done():
            self._say_end(self._answer)

    def _say_end(self, answer: asyncio.Future[bytes]) -> None:
        code = self._transport.get_returncode()
        begun = self._told.startswith(orders.BEGUN)
        answer.set_exception(_EndedError(begun=begun, code=code or 0, complaint=self._complaint))

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)


async def _born() -> _Child:
    pipe = asyncio.subprocess.PIPE
    try:
        _, child = await asyncio.get_running_loop().subprocess_exec(
            _Child,
            sys.executable,
            "-I",
            "-c",
            BIRTH,
            _SOURCES,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            start_new_session=True,
        )
    except OSError as error:
        raise NotNow(f"no Git child can be started: {error.strerror}", reason="git-child-unborn") from error
    return child


def _failure(end: _EndedError, what: str) -> NotNow | Ours:
    """Return what the end of a child without an answer means."""
    if end.code == 0:
        return Ours("the Git child answered with no answer: it ended", reason="git-child-answer")
    if end.code in (-signal.SIGXCPU, -signal.SIGKILL):
        return NotNow(
            f"{what} ran into a bound of this device ({signal.Signals(-end.code).name}); make the repository smaller",
            reason="fetch-too-large",
            retry_after_s=3600.0,
        )
    last = end.complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return Ours(f"{what} failed with code {end.code}: {last[:_TOLD_CHARACTERS]}", reason="git-child-failed")
