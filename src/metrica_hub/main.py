"""``metrica-hub``: its commands; ``run`` keeps what ``assembling`` put together going, in one TaskGroup."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import pwd
import secrets
import signal
import ssl
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import orjson
import structlog

from metrica_fleet import __version__, logs
from metrica_fleet.configuration import variable
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import short
from metrica_hub import settings
from metrica_hub.adapters.bus.trust import refusal, unopened
from metrica_hub.adapters.key import Key, order_key
from metrica_hub.adapters.mirror import redacted
from metrica_hub.adapters.store.access import Access
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.adapters.store.restoring import examined, gone_on
from metrica_hub.adapters.store.trail import Trail
from metrica_hub.assembling import Hub, assembled, leading
from metrica_hub.decisions.access import LONGEST_DAYS, ROLES, SECRET_BYTES, Role, digest_of, is_token_name, token_of
from metrica_hub.decisions.trail import Deed, Seal, detail_of
from metrica_hub.enrolling import authority_of
from metrica_hub.errors import BusAway, Conflict, Misconfigured, StoreAway, Unstorable
from metrica_hub.tasks.share import Member
from metrica_hub.web.app import make_app, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_fleet.configuration import Configured
    from metrica_fleet.errors import FleetError
    from metrica_hub.adapters.key import OrderKey
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.settings import Settings

OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

_READERS: Final = 6
_CLOSE_WITHIN_S: Final = 1.0
_LEAVE_WITHIN_S: Final = 2.5
_log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        loaded = settings.load(options.config, os.environ)
        match options.command:
            case "check":
                return _run(check(loaded))
            case "migrate":
                return _run(bring_up_to_date(loaded.settings))
            case "token":
                return _run(give_token(loaded.settings, options.name, options.role, options.days))
            case "key":
                return _run(print_key(loaded.settings, for_orders=options.stop))
            case "authority":
                return _run(set_up_authority(loaded.settings, options.issue, options.into))
            case "verify":
                return _run(examine(loaded.settings))
            case "restored":
                return _run(go_on(loaded.settings))
            case _:
                logs.set_up(loaded.settings.log.level, encode=partial(orjson.dumps, default=repr))
                # A scanner's malformed request is no news: aiohttp tells each with a traceback.
                logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
                return _run(serve(loaded.settings))
    except Misconfigured as error:
        sys.stderr.write(f"metrica-hub: {error.message}\n")
        return MISUSED
    except KeyboardInterrupt:
        return OK


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the call."""
    parser = argparse.ArgumentParser(prog="metrica-hub", description="What devices say, kept and shown.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run|check|migrate|token|key|authority|verify|restored"
    )
    for name, about in (
        ("run", "serve until SIGTERM"),
        ("check", "print what is in force and try the database and the broker"),
        ("migrate", "bring the database's schema up to date, and end"),
        ("token", "make a token, and print it"),
        ("key", "print the line of allowed_signers by which devices believe this hub; make its key if there is none"),
        (
            "authority",
            "make the fleet's authority if there is none, and say which it is; sign for the hub or an operator",
        ),
        ("verify", "read the whole database; say what is in it, and whether it holds together"),
        ("restored", "after a restore, before run: go on above the numbers of the database that was lost"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"instead of {settings.DEFAULT_FILE} and beside METRICA_HUB_*",
        )
        if name == "token":
            _describe_token(command)
        if name == "key":
            command.add_argument("--stop", action="store_true", help="of the key for orders instead ([stop] key_file)")
        if name == "authority":
            _describe_authority(command)
    return parser


def _describe_token(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", required=True, type=_token_name, help="whose it is; the trail tells it")
    command.add_argument("--role", required=True, choices=ROLES, help="each may do what those before it may")
    command.add_argument("--days", type=_days, metavar="N", help="until it expires; without, it does not")


def _describe_authority(command: argparse.ArgumentParser) -> None:
    command.add_argument("--issue", choices=("hub", "operator"), help="sign a certificate of this user of the broker")
    command.add_argument("--into", type=Path, metavar="FOLDER", help="where its NAME.crt and NAME.key go")


def _token_name(text: str) -> str:
    if not is_token_name(text):
        raise argparse.ArgumentTypeError("a name has 1 to 63 of a-z, 0-9, '.', '_', '@' and '-'")
    return text


def _days(text: str) -> int:
    days = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= days <= LONGEST_DAYS:
        raise argparse.ArgumentTypeError(f"say 1 to {LONGEST_DAYS}")
    return days


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
    given = await _order_key(parts)
    await _migrated(parts)
    async with AsyncExitStack() as closing:
        writers = await _pool(parts, closing, name="metrica-hub writer", size=3 if parts.bus.share else 2)
        readers = await _pool(parts, closing, name="metrica-hub reader", size=_READERS)
        hub = assembled(parts, writers, readers, given)
        try:
            await hub.watcher.look()
        except (StoreAway, Unstorable) as error:
            raise _unreachable(parts, error) from error
        port = await closing.enter_async_context(
            serving(make_app(hub.routes, hub.guarded), parts.http.host, parts.http.port)
        )
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


async def print_key(parts: Settings, *, for_orders: bool) -> int:
    """Print the line of the hub's own key, or of the one for orders."""
    if for_orders:
        given = await _order_key(parts)
        if given is None:
            raise Misconfigured("this hub has no key for orders; name one as [stop] key_file")
        sys.stdout.write(f"{given.line}\n")
        return OK
    try:
        sys.stdout.write(f"{await Key(Path(parts.hub.key_file)).line()}\n")
    except NotNow as error:
        sys.stderr.write(f"metrica-hub: {error.message}\n")
        return FAILED
    return OK


async def set_up_authority(parts: Settings, name: str | None, folder: Path | None) -> int:
    """Make the authority and its list where they are not there; print its fingerprint; sign for ``name``."""
    authority = authority_of(parts)
    if authority is None:
        raise Misconfigured("no authority is named; write [authority] certificate_file, key_file and crl_file")
    if (name is None) != (folder is None):
        raise Misconfigured("--issue and --into go together; say both, or neither")
    now = datetime.now(UTC)
    try:
        made = await authority.make(now)
        if (await authority.in_force()).made_at is None:
            await authority.publish({}, now)
        fingerprint = await authority.fingerprint()
        if name is not None and folder is not None:
            pair = await authority.pair(name, timedelta(days=parts.enrolment.certificate_days), now)
            _keep(folder / f"{name}.key", pair.key, 0o600)
            _keep(folder / f"{name}.crt", pair.certificate, 0o644)
            sys.stderr.write(f"{folder}/{name}.crt is good for {parts.enrolment.certificate_days:g} days\n")
    except NotNow as error:
        sys.stderr.write(f"metrica-hub: {error.message}\n")
        return FAILED
    sys.stderr.write(f"the authority is {'made' if made else 'there'}; keep a copy of its key elsewhere\n")
    sys.stdout.write(f"{fingerprint}\n")
    return OK


def _keep(path: Path, content: bytes, mode: int) -> None:
    try:
        path.unlink(missing_ok=True)
        path.touch(mode)
        path.write_bytes(content)
    except OSError as error:
        raise Misconfigured(f"{path}: can't be written ({error.strerror}); name another folder by --into") from error


async def give_token(parts: Settings, name: str, role: Role, days: int | None) -> int:
    """Make a token and print it: whoever may read the hub's settings may do everything."""
    await _migrated(parts)
    text = token_of(secrets.token_bytes(SECRET_BYTES))
    try:
        async with AsyncExitStack() as closing:
            pool = await _pool(parts, closing, name="metrica-hub token", size=1)
            deed = _deed("token.create", f"token/{name}", {"role": role, "days": days})
            await Trail(pool).append(deed)
            lasts = None if days is None else timedelta(days=days)
            await Access(pool).add_token(name, role, digest_of(text), created_by=deed.actor, lasts=lasts)
    except Conflict as error:
        sys.stderr.write(f"metrica-hub: {error.message}\n")
        return FAILED
    except (StoreAway, Unstorable) as error:
        raise _unreachable(parts, error) from error
    sys.stdout.write(f"{text}\n")
    sys.stderr.write(f"this is the only time that the token of {name} ({role}) is shown\n")
    return OK


async def examine(parts: Settings) -> int:
    """Read the database, as ``scripts/backup verify`` does with the copy that it made of a backup."""
    try:
        async with AsyncExitStack() as closing:
            found = await examined(await _pool(parts, closing, name="metrica-hub verify", size=1))
    except (StoreAway, Unstorable) as error:
        sys.stderr.write(f"metrica-hub: {error.message}\n")
        return FAILED
    newest = found.newest_at.astimezone(UTC).isoformat(timespec="seconds") if found.newest_at else "never"
    sys.stdout.write(
        f"{found.devices} devices, {found.heartbeats} heartbeats, {found.events} events,"
        f" {found.dead_letters} dead letters; the newest is of {newest}\n"
    )
    for fault in found.faults:
        sys.stdout.write(f"NOT OK: {fault}\n")
    if isinstance(found.trail, Seal):
        sys.stdout.write(f"the trail holds; its last seal: {found.trail.number}:{found.trail.value.hex()}\n")
    return FAILED if found.faults else OK


async def go_on(parts: Settings) -> int:
    """Make a restored database ready, and say what is paused."""
    await _migrated(parts)
    try:
        async with AsyncExitStack() as closing:
            pool = await _pool(parts, closing, name="metrica-hub restored", size=1)
            held = await gone_on(pool, _deed("database.restored", "database", {}))
    except (StoreAway, Unstorable) as error:
        raise _unreachable(parts, error) from error
    if held is not None:
        sys.stdout.write(
            f"the rollout of commit {short(held.commit)} is paused: see whether it was halted or aborted since,"
            f" then metrica rollout resume, or abort\n"
        )
    sys.stdout.write("the hub may run\n")
    return OK


def _deed(action: str, subject: str, facts: Mapping[str, object]) -> Deed:
    """Return what the person at this machine does."""
    return Deed(
        actor=f"{pwd.getpwuid(os.getuid()).pw_name}@command-line",
        role="admin",
        via="command-line",
        token=None,
        remote="",
        action=action,
        subject=subject,
        detail=detail_of(facts),
        request_id="",
    )


async def check(loaded: Configured[Settings]) -> int:
    """Print what is in force and where it came from; try the database and the broker."""
    parts = loaded.settings
    for where, value in _in_force(parts):
        sys.stdout.write(f"{'.'.join(where):20} {value:40} {loaded.origins.get(where, 'default')}\n")
    tried = (await _database_fault(parts), await _broker_fault(parts), await _order_key_fault(parts))
    faults = [fault for fault in tried if fault]
    for fault in faults:
        sys.stdout.write(f"NOT OK: {fault}\n")
    if not faults:
        how = "TCP; user and password not tried" if leading(parts).tls is None else "TLS, and is trusted"
        sys.stdout.write(f"ok: the database answers; the broker answers on {how}\n")
    return FAILED if faults else OK


async def _order_key(parts: Settings) -> OrderKey | None:
    if parts.stop.key_file is None:
        return None
    return await order_key(Path(parts.stop.key_file), Path(parts.hub.key_file))


async def _until_told(hub: Hub) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop()) for loop in hub.loops]
        try:
            await told.wait()
            if hub.member is not None:
                await _left(hub.member)
        finally:
            hub.board.close()
        for task in tasks:
            task.cancel()


async def _left(member: Member) -> None:
    try:
        async with asyncio.timeout(_LEAVE_WITHIN_S):
            await member.leave()
    except TimeoutError:
        _log.warning("share.left_early", error="what we took is not committed in time; the devices send it again")


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


async def _order_key_fault(parts: Settings) -> str | None:
    try:
        await _order_key(parts)
    except Misconfigured as error:
        return error.message
    return None


async def _broker_fault(parts: Settings) -> str | None:
    host, port = parts.bus.host, parts.bus.port
    where = f"{host}:{port}"
    try:
        tls = leading(parts).tls
        context = None if tls is None else await asyncio.to_thread(tls)
    except (Misconfigured, BusAway) as error:
        return error.message
    try:
        async with asyncio.timeout(5):
            _, stream = await asyncio.open_connection(host, port, ssl=context)
        stream.transport.abort()
    except (ssl.SSLError, ConnectionResetError) as error:
        return unopened(where, error, by_tls=context is not None).message
    except (OSError, TimeoutError) as error:
        return f"no broker answers at {where} ({error or 'in time'}); start it, or set [bus] host and port"
    refused = None if context is None else await refusal(host, port, context)
    return None if refused is None else refused.message


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
