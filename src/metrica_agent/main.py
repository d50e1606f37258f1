"""``metrica-agent``: who is wired to whom."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from metrica_agent.adapters.bus import Broker, Bus
from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.compose import Engine
from metrica_agent.adapters.git import GitMirror
from metrica_agent.adapters.hardware import this_machine
from metrica_agent.adapters.host import Host, Sources
from metrica_agent.adapters.ledger import Ledger
from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.adapters.probes import probe
from metrica_agent.adapters.spool import Spool
from metrica_agent.adapters.systemd import Supervisor
from metrica_agent.adapters.versions import Versions, told_by_the_launcher
from metrica_agent.adapters.watchman import Watchman
from metrica_agent.console_orders import BELL, LOCK, SPOOL
from metrica_agent.decisions.guarding import LOOK_S, START_S
from metrica_agent.durable import Disk
from metrica_agent.reserve import Reserve
from metrica_agent.settings import DEFAULT_FILE, Settings, read_settings
from metrica_agent.tasks.cleaning import first_aid
from metrica_agent.tasks.device import run_device
from metrica_agent.tasks.guard import Patience
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.orders import Orders
from metrica_agent.tasks.parts import Identity, Pace, Parts
from metrica_agent.tasks.staging import Staging
from metrica_agent.wake import Wake
from metrica_agent.wiring import (
    LEDGER,
    STICK,
    bus_tls,
    engine_environment,
    mirror,
    own_identity,
    own_signers,
    releases_of,
    require_remotes,
    safe_mode_folder,
    spare_signers,
    vault_of,
    verified,
)
from metrica_fleet import __version__, logs
from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_fleet.identity import FleetId
from metrica_fleet.retry import full_jitter

if TYPE_CHECKING:
    from metrica_agent.adapters.papers import Identity as Papers
    from metrica_agent.tasks.renewing import Means

log = structlog.stdlib.get_logger(__name__)

THREADS = 4
"""For file work and name look-ups: each thread costs memory for ever."""
START_BASE_S = 1.0
START_CAP_S = 30.0
_T = TypeVar("_T")
ALONE = ("enrol", "renew")
"""Commands that come before there are settings."""
EXIT_FAILED = 1
EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 well, 1 the answer is no, 2 a mistake in the call or the settings, 3 stuck."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in ALONE:
        sys.exit(_alone(given))
    file, command = command_of(given)
    try:
        settings = read_settings(file, os.environ)
        require_remotes(settings, file)
        sys.exit(command(settings))
    except FleetError as error:
        print(f"metrica-agent: {error.message}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, Unusable) else EXIT_FAILED)


def _alone(arguments: Sequence[str]) -> int:
    """Do what needs no settings; return the exit code."""
    from metrica_agent.command_line import understood_alone  # noqa: PLC0415 - as in command_of

    try:
        return understood_alone(arguments)
    except FleetError as error:
        print(f"metrica-agent: {error.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, Unusable) else EXIT_FAILED


def command_of(arguments: Sequence[str]) -> tuple[Path, Callable[[Settings], int]]:
    """Return where the settings are, and what to do with them.

    The call of a service is read without the parser for people: a process keeps what it imports, that one 0.4 MiB.
    """
    match arguments:
        case ["run"]:
            return DEFAULT_FILE, _run
        case ["run", "--config", file]:
            return Path(file), _run
        case _:
            from metrica_agent.command_line import understood  # noqa: PLC0415 - see above

            return understood(arguments, run=_run)


def _run(settings: Settings) -> int:
    logs.set_up("info", encode=msgspec.json.Encoder(enc_hook=repr).encode)
    structlog.contextvars.bind_contextvars(device=settings.device)
    supervisor = Supervisor.of(os.environ)
    launched = told_by_the_launcher(os.environ)
    signal.signal(BELL, signal.SIG_IGN)  # until somebody listens
    with _only_one(Path(settings.state_dir)):
        runner = _uvloop_or_asyncio()
        look_s = min(LOOK_S, settings.guard.blocked_s / 6)
        watchman = Watchman(Path(settings.state_dir), supervisor, look_s=look_s)
        watchman.begin()
        supervisor.ready()
        # What was imported stays: looked through no more, the rest is looked through oftener, and garbage goes sooner.
        gc.collect()
        gc.freeze()
        return runner(_until_told_to_stop(partial(_device, settings, watchman, launched), supervisor.stopping))


def _uvloop_or_asyncio() -> Callable[[Coroutine[object, object, int]], int]:
    try:
        import uvloop  # noqa: PLC0415 - not on every Python
    except ImportError:
        return asyncio.run
    return uvloop.run


@contextmanager
def _only_one(state_dir: Path) -> Generator[None]:
    """Hold the state directory: two agents on one ledger would each undo the other.

    Raises:
        Unusable: ``already-running`` or ``state-dir``.
    """
    try:
        Disk().directory(state_dir, 0o700)  # durable: all that the device remembers is in it
        lock = (state_dir / LOCK).open("ab", buffering=0)
    except OSError as error:
        message = f"{state_dir}: {error.strerror}; the agent needs a directory of its own to write to (state_dir)"
        raise Unusable(message, reason="state-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unusable(f"{state_dir}: another agent runs on it already", reason="already-running") from error
        try:
            lock.truncate(0)
            lock.write(b"%d\n" % os.getpid())  # whom an order at the console rings
        except OSError as error:  # a full disk: nobody can ring, and orders are found all the same, a little later
            log.warning("no_bell", error=f"{state_dir / LOCK}: {error.strerror}")
        yield


async def _until_told_to_stop(run: Callable[[], Coroutine[object, object, None]], on_stop: Callable[[], object]) -> int:
    """Run until SIGTERM or SIGINT, which cancel it: everything then ends in order, with 0.

    What no task expected ends the process with 1: its supervisor starts it again, on what the ledger remembers.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="blocking"))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_watched(run), name="device")

        def stop() -> None:
            on_stop()
            running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
    return 0 if running.cancelled() else running.result()


async def _watched(run: Callable[[], Coroutine[object, object, None]]) -> int:
    try:
        await run()
    except FleetError as error:
        log.critical("agent_ended", reason=error.reason, error=error.message)
    except ExceptionGroup:
        log.critical("agent_failed", exc_info=True)
    return EXIT_FAILED


async def _device(settings: Settings, watchman: Watchman, launched: tuple[Path, str] | None) -> None:
    """Make the adapters, and run the device on them. ``launched``: what the launcher said, if one started us."""
    fleet, state_dir = FleetId(settings.fleet), Path(settings.state_dir)
    signers = own_signers(settings)
    clock = Clock.of_this_machine()
    engine = Engine(settings.compose.project, environment=engine_environment(settings))
    releases, chance = releases_of(settings), random.SystemRandom().random
    reserve = Reserve(state_dir, settings.host.reserve_bytes)
    leftovers = Leftovers(
        log_folders=settings.cleaning.log_folders,
        journal=settings.cleaning.journal_folder,
        journal_kept_bytes=settings.cleaning.journal_kept_bytes,
    )
    identity = own_identity(settings)
    git, host = mirror(settings), _host(settings, clock, engine)
    runtime = Staging(
        git=git,
        store=releases,
        engine=engine,
        project=settings.compose.project,
        safe_mode=safe_mode_folder(settings),
        leftovers=leftovers,
        vault=vault_of(settings),
        stand_ins=engine.stand_ins,
    )

    async def make_room() -> None:
        reserve.give_up()
        await first_aid(runtime, await host.vitals(), settings.strain, await releases.complete())

    async with AsyncExitStack() as stack:
        stack.push_async_callback(git.aclose)
        patiently = partial(_with_room, make_room=make_room, watchman=watchman, chance=chance)
        await patiently(releases.clear_leftovers)
        ledger = await _with_room(
            partial(Ledger.open, state_dir / LEDGER, make_room=reserve.give_up),
            make_room=make_room,
            watchman=watchman,
            chance=chance,
        )
        stack.push_async_callback(ledger.close)
        await patiently(git.clear_leftovers)
        versions = None if launched is None else _versions(settings, launched, git)
        if versions is not None:
            await patiently(versions.read)
        orders_given = Wake(clock.now_s)
        asyncio.get_running_loop().add_signal_handler(BELL, orders_given.nudge)
        parts = Parts(
            identity=Identity(fleet=fleet, device=settings.device, agent_version=__version__),
            pace=Pace(
                poll_s=settings.git.poll_s,
                fetch_s=settings.git.fetch_s,
                heartbeat_s=settings.heartbeat_s,
                sample_s=settings.sample_s,
                steady_s=settings.guard.steady_s,
                look_s=settings.host.look_s,
                check_s=settings.drift.check_s,
                network_lost_s=settings.guard.network_lost_s,
                agent_trial_s=max(settings.agent_update.trial_s, 2 * settings.guard.steady_s),
            ),
            remotes=settings.git.remotes,
            stick=str(state_dir / STICK),
            git=git,
            releases=releases,
            runtime=runtime,
            engine=engine,
            probe=partial(probe, execute=engine.execute),
            ledger=ledger,
            bus=Bus(_broker(settings, identity), fleet=fleet, device=settings.device),
            clock=clock,
            vitals=host.vitals,
            orders=Orders(spool=Spool(state_dir / SPOOL), wake=orders_given, now_s=clock.now_s, chance=chance),
            notary=Notary(verify=verified, own=spare_signers(settings)),
            chance=chance,
            limits=settings.strain,
            reserve=reserve,
            renewing=_renewing(identity, clock),
            own_signers=signers,
            machine=this_machine(),
            watchman=watchman,
            patience=Patience(
                look_s=min(LOOK_S, settings.guard.blocked_s / 6),
                blocked_s=settings.guard.blocked_s,
                slack_s=settings.guard.slack_s,
            ),
            last_words=watchman.last_words,
            reboot=_reboot,
            on_told=watchman.told,
            versions=versions,
            try_fetch=git.try_fetch,
            restart=partial(os.kill, os.getpid(), signal.SIGTERM),
        )
        await run_device(parts)


def _versions(settings: Settings, launched: tuple[Path, str], git: GitMirror) -> Versions:
    folder, running = launched
    update = settings.agent_update
    return Versions(folder, running, export=git.export, ca_file=update.ca_file, install_s=update.install_s)


async def _reboot() -> None:
    from metrica_agent.adapters.power import reboot  # noqa: PLC0415 - hardly ever needed

    await reboot()


async def _with_room(
    step: Callable[[], Awaitable[_T]],
    *,
    make_room: Callable[[], Awaitable[None]],
    watchman: Watchman,
    chance: Callable[[], float],
) -> _T:
    """Return what ``step`` returns, however long it takes: a full disk must not keep the agent from what frees it."""
    attempt = 0
    while True:
        watchman.beat(START_S)
        try:
            return await step()
        except NotNow as error:
            log.warning("start_held_up", reason=error.reason, error=error.message)
            try:
                await make_room()
            except NotNow as trouble:
                log.warning("no_room_made", reason=trouble.reason, error=trouble.message)
        attempt += 1
        await asyncio.sleep(full_jitter(attempt, chance(), START_BASE_S, START_CAP_S))


def _host(settings: Settings, clock: Clock, engine: Engine) -> Host:
    host = settings.host
    return Host(
        Path(settings.state_dir),
        synchronised=lambda: clock.wall() is not None,
        sources=Sources(
            thermal_zones=Path(host.thermal_zones),
            throttled=Path(host.throttled_file),
            memory_pressure=Path(host.memory_pressure_file),
        ),
        limits=settings.strain,
        data_root=engine.data_root,
    )


def _renewing(identity: Papers | None, clock: Clock) -> Means | None:
    if identity is None:
        return None
    from metrica_agent.tasks.renewing import Means  # noqa: PLC0415 - whoever has no certificate renews none

    return Means(identity=identity, ask=identity.ask, wall=clock.time)


def _broker(settings: Settings, identity: Papers | None) -> Broker:
    bus = settings.bus
    tls = bus_tls(bus) if identity is None else identity.context
    password_file = Path(bus.password_file) if bus.password_file else None
    return Broker(host=bus.host, port=bus.port, username=bus.username, password_file=password_file, tls=tls)
