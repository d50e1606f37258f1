"""The command's side: a process for each share of the crowd, a line of progress, a report."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TextIO

import msgspec

from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_sim.crowd.main import FILES_A_DEVICE, allow_files
from metrica_sim.crowd.plan import A_PROCESS, Plan
from metrica_sim.crowd.tally import Tally, in_words, summed

LINE_S: Final = 15.0
"""Between lines of progress where nobody watches a terminal."""
END_S: Final = 30.0
LINE_BYTES: Final = 64 * 1024


def simulate(plan: Plan, *, processes: int | None = None, progress: TextIO = sys.stderr) -> Tally:
    """Run a crowd to its end; return what came of it. ``plan.state`` empty: in a folder that is removed afterwards.

    Raises:
        Unusable: ``open-files``, ``state-dir``, ``no-broker``.
        NotNow: ``process-ended``: a part of the crowd ended before it was over.
    """
    with _folder(plan) as state:
        count = processes or max(min(os.cpu_count() or 1, plan.devices), -(-plan.devices // A_PROCESS))
        shares = msgspec.structs.replace(plan, state=str(state)).shares(count)
        allow_files(FILES_A_DEVICE * max(share.devices for share in shares) + 100)
        return asyncio.run(_simulated(shares, _Progress(progress)))


@contextmanager
def _folder(plan: Plan) -> Generator[Path]:
    if plan.state:
        state = Path(plan.state)
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(state.iterdir()):
                raise Unusable(f"--state {state}: it is not empty; say a new folder", reason="state-dir")
        except OSError as error:
            raise Unusable(
                f"--state {state}: {error.strerror}; say a folder to write to", reason="state-dir"
            ) from error
        yield state
        return
    memory = Path("/dev/shm")  # noqa: S108 - ledgers wait for their disk, and ten thousand share one here
    made = Path(tempfile.mkdtemp(prefix="metrica-crowd-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


async def _simulated(shares: tuple[Plan, ...], progress: _Progress) -> Tally:
    await _require_broker(shares[0])
    newest = {share.first: Tally(devices=share.devices) for share in shares}

    async def follow(share: Plan) -> None:
        async with _process(share) as process:
            while process.stdout is not None and (line := await process.stdout.readline()):
                newest[share.first] = msgspec.json.decode(line, type=Tally)
                progress.show(summed(newest.values()))
            if await process.wait() != 0:
                raise NotNow(
                    f"a process of {share.devices} devices ended with {process.returncode}; its words are above",
                    reason="process-ended",
                )

    try:
        async with asyncio.TaskGroup() as group:
            for share in shares:
                group.create_task(follow(share))
    except* FleetError as errors:
        raise errors.exceptions[0] from None
    finally:
        progress.end(summed(newest.values()))
    return summed(newest.values())


async def _require_broker(plan: Plan) -> None:
    try:
        async with asyncio.timeout(10):
            _, stream = await asyncio.open_connection(plan.host, plan.port)
    except (OSError, TimeoutError) as error:
        raise Unusable(
            f"no broker answers at {plan.host}:{plan.port} ({error or 'in time'}); start it, or say --bus HOST:PORT",
            reason="no-broker",
        ) from error
    stream.transport.abort()


@asynccontextmanager
async def _process(share: Plan) -> AsyncGenerator[asyncio.subprocess.Process]:
    words = msgspec.json.encode(share).decode()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "metrica_sim.crowd.main", words, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(END_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


class _Progress:
    """On a terminal one line that is written over, elsewhere a line now and then."""

    def __init__(self, stream: TextIO, now_s: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now_s = now_s
        self._live = stream.isatty()
        self._shown: Tally | None = None
        self._shown_s = 0.0

    def show(self, tally: Tally) -> None:
        now_s = self._now_s()
        if self._shown is None or now_s >= self._shown_s + (1.0 if self._live else LINE_S):
            line = in_words(tally, self._shown)
            self._stream.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
            self._stream.flush()
            self._shown, self._shown_s = tally, now_s

    def end(self, tally: Tally) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
        self._stream.write(f"{in_words(tally)}\n")
        self._stream.flush()
