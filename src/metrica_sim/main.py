"""``metrica-sim``: many simulated devices in one process."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from metrica_agent.tasks.parts import Pace
from metrica_fleet.errors import FleetError, Unusable
from metrica_fleet.identity import DeviceId, FleetId, checked_name
from metrica_sim.control import serve_pipe, serve_socket
from metrica_sim.world import HELP, Plan, World, numbered

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 well, 1 it failed, 2 a mistake in the call."""
    asked = _parser().parse_args(arguments)
    try:
        plan = _plan(asked)
        _log(asked.log_level)
        with _only_one(plan.state):
            _loop_runner()(_until_told_to_stop(plan, asked.control))
    except FleetError as error:
        print(f"metrica-sim: {error.message}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, Unusable) else EXIT_FAILED)
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metrica-sim", description="Simulates devices that run the real agent.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run devices until told to stop", epilog=f"The control understands: {HELP}")
    run.add_argument("--fleet", required=True, metavar="NAME")
    run.add_argument(
        "--git", required=True, action="append", metavar="URL", help="may be given several times, in order"
    )
    run.add_argument("--bus", required=True, metavar="HOST:PORT")
    run.add_argument(
        "--state", required=True, type=Path, metavar="DIR", help="one folder for each device is made in it"
    )
    run.add_argument("--devices", default="12", metavar="N|NAME,NAME…", help="default: %(default)s, called pi-01 …")
    run.add_argument("--poll", type=float, default=60.0, metavar="S", help="seconds between polls (default: 60)")
    run.add_argument("--heartbeat", type=float, default=60.0, metavar="S", help="seconds (default: 60)")
    run.add_argument("--sample", type=float, default=2.0, metavar="S", help="between looks in a trial (default: 2)")
    run.add_argument("--control", metavar="SOCKET|-", help='a Unix socket, or "-": stdin and stdout, ends with stdin')
    run.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    return parser


def _plan(asked: argparse.Namespace) -> Plan:
    host, separator, port = asked.bus.rpartition(":")
    if not separator or not port.isdigit():
        raise Unusable(f'--bus {asked.bus}: say HOST:PORT, such as "127.0.0.1:1883"', reason="bad-argument")
    if asked.poll <= 0 or asked.heartbeat <= 0 or asked.sample <= 0:
        raise Unusable("--poll, --heartbeat and --sample are seconds above 0", reason="bad-argument")
    return Plan(
        fleet=FleetId(checked_name(asked.fleet, "fleet")),
        devices=_names(asked.devices),
        remotes=tuple(asked.git),
        broker=(host.strip("[]"), int(port)),
        state=asked.state,
        pace=Pace(poll_s=asked.poll, heartbeat_s=asked.heartbeat, sample_s=asked.sample),
    )


def _names(text: str) -> tuple[DeviceId, ...]:
    if text.isdigit():
        return numbered(int(text))
    return tuple(DeviceId(checked_name(name, "device")) for name in text.split(","))


def _log(level: str) -> None:
    """One JSON object a line on stderr: stdout belongs to the control."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


@contextmanager
def _only_one(state: Path) -> Generator[None]:
    """Hold the state directory: two worlds on the same machines would undo each other.

    Raises:
        Unusable: ``state-dir`` or ``already-running``.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state / "sim.lock").open("a")
    except OSError as error:
        raise Unusable(f"--state {state}: {error.strerror}; say a folder to write to", reason="state-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unusable(f"--state {state}: another simulation runs there", reason="already-running") from error
        yield


def _loop_runner() -> Callable[[Coroutine[object, object, None]], None]:
    try:
        import uvloop  # noqa: PLC0415 - not on every Python
    except ImportError:
        return asyncio.run
    return uvloop.run


async def _until_told_to_stop(plan: Plan, control: str | None) -> None:
    """Run the world until SIGTERM, SIGINT or the end of the control's pipe."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    world = World(plan)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(world.run(), name="world")]
        if control == "-":
            pipe = group.create_task(serve_pipe(world.obey), name="control")
            pipe.add_done_callback(lambda _: stop.set())
            running.append(pipe)
        elif control:
            running.append(group.create_task(serve_socket(Path(control), world.obey), name="control"))
        await stop.wait()
        for task in running:
            task.cancel()
