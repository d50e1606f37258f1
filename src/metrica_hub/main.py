"""``metrica-hub``: settings -> adapters -> tasks and web, in one TaskGroup. The only place that knows all of them."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from metrica_fleet import __version__, logs
from metrica_fleet.configuration import variable
from metrica_fleet.identity import FleetId
from metrica_fleet.topics import PRESENCE, RECORDS, STATUS, every_device
from metrica_hub import settings
from metrica_hub.adapters.bus import Account, Broker, Bus
from metrica_hub.adapters.mirror import Mirror, redacted
from metrica_hub.adapters.store.changes import listen
from metrica_hub.adapters.store.keeper import Keeper
from metrica_hub.adapters.store.lease import lease
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.partitions import HOLDING, SUMS
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.decisions.broker_figures import FIGURES
from metrica_hub.decisions.retention import Growing
from metrica_hub.errors import Misconfigured, StoreAway, Unstorable
from metrica_hub.tasks import lag
from metrica_hub.tasks.consume import Consumer
from metrica_hub.tasks.head import Follower
from metrica_hub.tasks.lead import Candidate
from metrica_hub.tasks.retain import Retainer
from metrica_hub.tasks.watch import Watcher
from metrica_hub.web.app import make_app, serving
from metrica_hub.web.assets import Assets
from metrica_hub.web.board import RECENT_EVENTS, Board
from metrica_hub.web.broker import BrokerFigures
from metrica_hub.web.devices import Devices
from metrica_hub.web.events import Events
from metrica_hub.web.health import Health
from metrica_hub.web.live import Live
from metrica_hub.web.metrics import Metrics
from metrica_hub.web.page import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from metrica_fleet.configuration import Configured
    from metrica_fleet.errors import FleetError
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.settings import Settings
    from metrica_hub.web.routing import Route

OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

_READERS: Final = 6
_CLOSE_WITHIN_S: Final = 1.0

_log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        loaded = settings.load(options.config, os.environ)
        match options.command:
            case "check":
                return _run(check(loaded))
            case "migrate":
                return _run(bring_up_to_date(loaded.settings))
            case _:
                logs.set_up(loaded.settings.log.level)
                # A scanner's malformed request is no news: aiohttp tells each with a traceback.
                logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
                return _run(serve(loaded.settings))
    except Misconfigured as error:
        sys.stderr.write(f"metrica-hub: {error.message}\n")
        return MISUSED
    except KeyboardInterrupt:
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metrica-hub", description="What devices say, kept and shown.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|check|migrate")
    for name, about in (
        ("run", "serve until SIGTERM"),
        ("check", "print what is in force and try the database and the broker"),
        ("migrate", "bring the database's schema up to date, and end"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"instead of {settings.DEFAULT_FILE} and beside METRICA_HUB_*",
        )
    return parser


def _run(work: Coroutine[object, object, int]) -> int:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not there on every interpreter
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


# The commands


async def serve(parts: Settings) -> int:
    """Serve until SIGTERM or SIGINT."""
    await _migrated(parts)
    async with AsyncExitStack() as closing:
        writers = await _pool(parts, closing, name="metrica-hub writer", size=2)
        readers = await _pool(parts, closing, name="metrica-hub reader", size=_READERS)
        hub = _assembled(parts, writers, readers)
        try:
            await hub.watcher.look()
        except (StoreAway, Unstorable) as error:
            raise _unreachable(parts, error) from error
        port = await closing.enter_async_context(serving(make_app(hub.routes), parts.http.host, parts.http.port))
        _spare_the_collector()
        _log.info("hub.serving", fleet=parts.fleet, url=f"http://{parts.http.host}:{port}/")
        try:
            await _until_told(hub)
        except ExceptionGroup as group:
            _log.exception("hub.failed", error_kind="ours", error=str(group.exceptions[0]))
            return FAILED
    _log.info("hub.stopped")
    return OK


async def bring_up_to_date(parts: Settings) -> int:
    """Apply the migrations that are outstanding, and say which."""
    applied = await _migrated(parts)
    for name in applied:
        sys.stdout.write(f"applied {name}\n")
    sys.stdout.write(f"the schema is up to date; {len(applied)} applied now\n")
    return OK


async def check(loaded: Configured[Settings]) -> int:
    """Print what is in force and where it came from; try the database and the broker."""
    parts = loaded.settings
    for where, value in _in_force(parts):
        sys.stdout.write(f"{'.'.join(where):20} {value:40} {loaded.origins.get(where, 'default')}\n")
    faults = [fault for fault in (await _database_fault(parts), await _broker_fault(parts)) if fault]
    for fault in faults:
        sys.stdout.write(f"NOT OK: {fault}\n")
    if not faults:
        sys.stdout.write("ok: the database answers; the broker answers on TCP; user and password not tried\n")
    return FAILED if faults else OK


# Assembling


@dataclass(frozen=True, slots=True)
class _Hub:
    watcher: Watcher
    board: Board
    routes: tuple[Route, ...]
    loops: tuple[Callable[[], Coroutine[object, object, None]], ...]


def _assembled(parts: Settings, writers: Pool, readers: Pool) -> _Hub:
    fleet = FleetId(parts.fleet)
    chance = random.SystemRandom().random
    reader, writer, board = Reader(readers), Writer(writers), Board(series=parts.metrics.devices)
    metrics = Metrics(board, now=_now)
    watcher = Watcher(reader, board, recent=RECENT_EVENTS)
    connected: list[Callable[[], object]] = []
    figures = BrokerFigures(connected=lambda: bus.connected)
    bus = Bus(
        _broker(parts),
        chance=chance,
        on_connected=lambda: [tell() for tell in connected],
        on_figure=figures.heard,
    )
    connected.append(figures.forget)
    metrics.watch_bus(connected=lambda: bus.connected, unacknowledged=lambda: bus.unacknowledged, broker=figures)
    live = Live(board, reader)
    consumer = Consumer(fleet, bus=bus, store=writer, meter=metrics, now=_now, chance=chance)
    candidate = Candidate(lambda: lease(parts.database.url), bus, chance=chance)
    metrics.watch_lead(lambda: candidate.leads is True)
    loops: list[Callable[[], Coroutine[object, object, None]]] = [
        candidate.run,
        bus.run,
        consumer.run,
        watcher.run,
        lambda: listen(parts.database.url, watcher.wake, chance),
        lambda: lag.measure(metrics.loop_lag),
        Retainer(Keeper(writers), _growing(parts.retention), meter=metrics, chance=chance).run,
    ]
    if parts.git is not None:
        follower = _follower(parts.git, fleet, writer, bus, chance)
        connected.append(follower.wake)
        loops.append(follower.run)
    resources = (
        Page(parts.fleet, __version__, board, live),
        Devices(reader),
        Events(reader),
        live,
        Health(reader, bus_usable=lambda: bus.connected or candidate.leads is False),
        metrics,
        Assets(),
    )
    routes = tuple(route for resource in resources for route in resource.routes())
    return _Hub(watcher, board, routes, tuple(loops))


async def _until_told(hub: _Hub) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop()) for loop in hub.loops]
        try:
            await told.wait()
        finally:
            hub.board.close()
        for task in tasks:
            task.cancel()


def _follower(git: settings.Git, fleet: FleetId, writer: Writer, bus: Bus, chance: Callable[[], float]) -> Follower:
    mirror = Mirror(git.url, git.branch)
    return Follower(fleet, git.branch, poll_s=git.poll_s, mirror=mirror, store=writer, bus=bus, chance=chance)


def _growing(kept: settings.Retention) -> tuple[Growing, ...]:
    holding = (kept.heartbeats_days, kept.events_days, kept.dead_letters_days)
    days = (*holding, kept.heartbeats_5m_days, kept.heartbeats_1h_days)
    return tuple(Growing(one.name, one.cut, kept_days) for one, kept_days in zip((*HOLDING, *SUMS), days, strict=True))


def _broker(parts: Settings) -> Broker:
    bus, fleet = parts.bus, FleetId(parts.fleet)
    account = Account(bus.username, _password(bus)) if bus.username else None
    filters = tuple(every_device(fleet, channel) for channel in (PRESENCE, STATUS, RECORDS))
    return Broker(bus.host, bus.port, f"metrica-{fleet}-hub", filters, account, figures=tuple(FIGURES))


def _password(bus: settings.Bus) -> bytes | None:
    if bus.password_file is None:
        return None
    try:
        return Path(bus.password_file).read_bytes().strip()
    except OSError as error:
        raise Misconfigured(
            f"[bus] password_file {bus.password_file} can't be read ({error.strerror}); mend its path or permissions"
        ) from error


async def _migrated(parts: Settings) -> tuple[str, ...]:
    try:
        steps = await migrate(parts.database.url)
    except (StoreAway, Unstorable) as error:
        raise _unreachable(parts, error) from error
    return tuple(f"{step.number:04d}_{step.name}" for step in steps)


async def _pool(parts: Settings, closing: AsyncExitStack, *, name: str, size: int) -> Pool:
    try:
        pool = await open_pool(parts.database.url, name=name, size=size)
    except (StoreAway, Unstorable) as error:
        raise _unreachable(parts, error) from error
    closing.push_async_callback(close_pool, pool, within_s=_CLOSE_WITHIN_S)
    return pool


def _unreachable(parts: Settings, error: FleetError) -> Misconfigured:
    where = redacted(parts.database.url)
    return Misconfigured(
        f"the database {where} can't be used ({error.message}); start it, or set [database] url"
        f" ({variable(settings.PREFIX, ('database', 'url'))})"
    )


# Checking


async def _database_fault(parts: Settings) -> str | None:
    try:
        async with AsyncExitStack() as closing:
            await Reader(await _pool(parts, closing, name="metrica-hub check", size=1)).answers()
    except (Misconfigured, StoreAway) as error:
        return error.message
    return None


async def _broker_fault(parts: Settings) -> str | None:
    where = f"{parts.bus.host}:{parts.bus.port}"
    try:
        _broker(parts)
        async with asyncio.timeout(5):
            _, stream = await asyncio.open_connection(parts.bus.host, parts.bus.port)
        stream.close()
    except Misconfigured as error:
        return error.message
    except (OSError, TimeoutError) as error:
        return f"no broker answers at {where} ({error or 'in time'}); start it, or set [bus] host and port"
    return None


def _in_force(parts: Settings) -> list[tuple[tuple[str, ...], str]]:
    shown: list[tuple[tuple[str, ...], str]] = []
    for key, value in msgspec.structs.asdict(parts).items():
        if isinstance(value, msgspec.Struct):
            shown += [((key, name), _shown(inner)) for name, inner in msgspec.structs.asdict(value).items()]
        else:
            shown.append(((key,), _shown(value)))
    return shown


def _shown(value: object) -> str:
    return "-" if value is None else redacted(str(value))


def _spare_the_collector() -> None:
    # A batch makes thousands of objects, none of them in a cycle; looking for cycles among them at Python's own
    # threshold of 700 took half of the time of reading them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _now() -> datetime:
    return datetime.now(UTC)
