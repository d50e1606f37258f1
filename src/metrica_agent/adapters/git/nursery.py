"""The life of a Git child: born with an order, bounded in time, dead with all it started when the call ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from metrica_agent.adapters.git import orders
from metrica_fleet.errors import NotNow, Ours

# -I keeps the environment and the working directory out of the child's imports; so it must be told where we are.
_BIRTH: Final = "import sys; sys.path.insert(0, sys.argv[1]); from metrica_agent.adapters.git.child import main; main()"
_SOURCES: Final = str(Path(__file__).resolve().parents[3])
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[orders.Answer]] = msgspec.json.Decoder(orders.Answer)
_TOLD_CHARACTERS: Final = 500
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


async def run_in_child(order: orders.Order, what: str) -> orders.Answer:
    """Have a child carry out ``order`` within its ``fetch_s``; kill it and all it started otherwise.

    Raises:
        NotNow: ``git-timeout`` past the deadline, ``fetch-too-large`` when the child ran into a bound of the kernel.
        Ours: ``git-child-failed``, when it ended without an answer.
    """
    seconds = order.bounds.fetch_s
    try:
        async with asyncio.timeout(seconds):
            code, told, complaint = await _lived(_ENCODER.encode(order))
    except TimeoutError:
        raise NotNow(f"{what} took longer than {seconds:g} s and was ended", reason="git-timeout") from None
    if code == 0:
        try:
            return _DECODER.decode(told)
        except msgspec.DecodeError as error:
            raise Ours(f"the Git child answered with no answer: {error}", reason="git-child-answer") from error
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise NotNow(
            f"{what} ran into a bound of this device ({signal.Signals(-code).name}); make the repository smaller",
            reason="fetch-too-large",
            retry_after_s=3600.0,
        )
    last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise Ours(f"{what} failed with code {code}: {last[:_TOLD_CHARACTERS]}", reason="git-child-failed")


async def _born() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            _BIRTH,
            _SOURCES,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            start_new_session=True,
        )
    except OSError as error:
        raise NotNow(f"no Git child can be started: {error.strerror}", reason="git-child-unborn") from error


async def _lived(order: bytes) -> tuple[int, bytes, bytes]:
    child = await _born()
    try:
        told, complaint = await child.communicate(order)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
        raise
    return await child.wait(), told, complaint
