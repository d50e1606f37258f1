"""One process of a crowd: its plan on the command line, a tally as JSON on standard output every second."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
import structlog

from metrica_fleet.errors import Unusable
from metrica_sim.crowd.crowd import Crowd
from metrica_sim.crowd.diary import Diary
from metrica_sim.crowd.plan import Plan

TELL_S: Final = 1.0
FILES_A_DEVICE: Final = 10
"""Ledger with WAL and index, socket and paho's own pair, a relay's two; and room."""
_ENCODER: Final = msgspec.json.Encoder()


def main() -> None:
    """Run a part of a crowd until it is over, or until SIGTERM."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    allow_files(FILES_A_DEVICE * plan.devices + 100)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    runner = asyncio.Runner(loop_factory=_new_loop)
    with runner:
        runner.run(_until_over(plan))


def allow_files(count: int) -> None:
    """Raise the limit of open files to ``count``.

    Raises:
        Unusable: ``open-files``: who runs this may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
        except (ValueError, OSError) as error:
            raise Unusable(
                f"so many devices need {count} open files, and {hard} are allowed; raise it (ulimit -Hn), or say fewer",
                reason="open-files",
            ) from error


async def _until_over(plan: Plan) -> None:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledgers") as thread, Diary(plan.diary) as diary:
        crowd = Crowd(plan, diary, thread)
        async with asyncio.TaskGroup() as group:
            living = group.create_task(crowd.run())
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, living.cancel)
            telling = group.create_task(_tell(crowd))
            living.add_done_callback(lambda _: telling.cancel())
        _say(crowd)


async def _tell(crowd: Crowd) -> None:
    while True:
        _say(crowd)
        await asyncio.sleep(TELL_S)


def _say(crowd: Crowd) -> None:
    sys.stdout.write(_ENCODER.encode(crowd.tally()).decode() + "\n")
    sys.stdout.flush()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - not on every Python
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    main()
