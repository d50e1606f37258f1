"""What a person at the device may ask, while the agent runs or not: what it runs, why, and what is wrong here.

Nothing here writes, and nothing needs a network to say what is known. ``main`` imports it when asked: an agent that
runs has no room for it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from metrica_agent.adapters.bus import UNTIMELY
from metrica_agent.adapters.cgroups import limits_memory
from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.compose import Engine
from metrica_agent.adapters.git.remote import Remote
from metrica_agent.adapters.ledger import recent_decisions, recent_events, remembered
from metrica_agent.adapters.papers import papers_of
from metrica_agent.adapters.versions import in_words as in_words_of_versions
from metrica_agent.adapters.versions import told_by_the_launcher
from metrica_agent.decisions.preflight import needs
from metrica_agent.decisions.render import render
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.stopping import in_words
from metrica_agent.decisions.world import Memory, Trial
from metrica_agent.settings import BusSettings, Settings
from metrica_agent.tasks.report import TAKEN_OVER_AGAIN_S
from metrica_agent.tasks.staging import SAFE_MODE
from metrica_agent.tasks.unsealing import Secrets
from metrica_agent.wiring import (
    LEDGER,
    bus_tls,
    engine_environment,
    mirror,
    own_signers,
    releases_of,
    safe_mode_folder,
    vault_of,
)
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId, short

_WAITS = "the bus waits for the right time, and all else goes on"
ENOUGH_FREE_BYTES = 512 * 1024 * 1024


def status(settings: Settings, _: argparse.Namespace) -> int:
    """Print what this device runs and wants, and the last events; 1 when it is not where it should be."""
    path = Path(settings.state_dir) / LEDGER
    memory = remembered(path)
    where = standing(memory, None, None)
    rows = [
        ("device", f"{settings.device} of fleet {settings.fleet}"),
        ("role", memory.role or "-"),
        *_agent(path),
        ("mode", str(where.mode)),
        *([("stopped", in_words(memory.stop.obeyed))] if memory.stop and memory.stop.obeyed else []),
        ("wanted", f"{short(where.wanted)} {where.phase or ''}".rstrip() + _waits(memory)),
        ("confirmed", _deployed(memory)),
        ("trial", _trial(memory.trial)),
        ("last refused", _refused(memory)),
        *_papers(settings.bus),
        *claimed(path),
    ]
    for name, value in rows:
        print(f"{name:<13} {value}")
    for _stamp, decision in recent_decisions(path, 1):
        print(f"{'why':<13} {decision.why}")
    print("\nlast events")
    for event in recent_events(path, 10):
        when = event.at.strftime("%Y-%m-%d %H:%M:%SZ") if event.at else f"{event.uptime_s:.0f} s after boot"
        print(f"  {when}  {event.kind:<22} {event.message}")
    return 0 if memory.trial is None and memory.confirmed is not None and where.reason is None else 1


def _agent(ledger: Path) -> list[tuple[str, str]]:
    """Return which agent is started, and what the last decision saw of another that is wanted."""
    launched = told_by_the_launcher(dict(os.environ))
    rows = [] if launched is None else [("agent", in_words_of_versions(launched[0]))]
    found = (decision.facts.get("agent") for _, decision in recent_decisions(ledger, 1))
    return rows + [("its version", str(seen)) for seen in found if seen is not None]


def _papers(bus: BusSettings) -> list[tuple[str, str]]:
    if bus.certificate_file is None:
        return []
    return [("certificate", asyncio.run(_certificate(Path(bus.certificate_file))).says)]


def _waits(memory: Memory) -> str:
    waiting, resolved = memory.waiting, memory.resolved
    if waiting is None or waiting.aside or resolved is None or waiting.release != resolved.release:
        return ""
    return f", waits: {waiting.reason}"


def _deployed(memory: Memory) -> str:
    if memory.confirmed is None:
        return "nothing yet"
    return f"commit {short(memory.confirmed.commit)}, release {short(memory.confirmed.release)}"


def _trial(trial: Trial | None) -> str:
    return "none" if trial is None else f"{trial.kind} to release {short(trial.release)}"


def _refused(memory: Memory) -> str:
    if not memory.refused:
        return "none"
    last = memory.refused[0]
    return f"{short(last.commit)} ({last.reason}): {last.message}"


def claimed(path: Path) -> list[tuple[str, str]]:
    """Return a row when another machine has connected under this device's name lately."""
    clock = Clock.of_this_machine()
    for event in recent_events(path, 200):
        ago_s = clock.now_s() - event.uptime_s
        if event.kind == "bus.taken_over" and event.boot_id == clock.boot_id and ago_s < 2 * TAKEN_OVER_AGAIN_S:
            return [("claimed", f"{event.message} (told {ago_s / 60:.0f} minutes ago)")]
    return []


def secrets(settings: Settings, asked: argparse.Namespace) -> int:
    """Open the secrets of every release on disk, before the engine starts what reads them. Raises FleetError."""
    if asked.key:
        print(asyncio.run(vault_of(settings).recipient()))
        return 0
    count = asyncio.run(Secrets(releases_of(settings), vault_of(settings)).recall())
    print(f"secrets of the releases on this disk that are open: {count}")
    return 0


def stop_status(settings: Settings, _: argparse.Namespace) -> int:
    """Print what is stopped here, and all that is known to be stopped; 1 when something is stopped here."""
    stop = remembered(Path(settings.state_dir) / LEDGER).stop
    if stop is None:
        print("nothing was ever stopped here")
        return 0
    obeyed = stop.obeyed
    done = "" if obeyed is None or stop.done else " (in progress)"
    print(
        f"{'here':<13} {'nothing is stopped' if obeyed is None else f'{obeyed.stop.level}: {in_words(obeyed)}'}{done}"
    )
    print(f"{'order':<13} {f'{stop.number}, signed by {stop.by}' if stop.number else 'none yet'}")
    rows = [
        *(("", one) for one in stop.ordered),
        *((f", by STOP in commit {short(stop.commit)}", one) for one in stop.in_git),
    ]
    for by, one in rows:
        print(f"{'stopped':<13} {one.scope}: {one.level}{by}{f' ({one.reason})' if one.reason else ''}")
    return 0 if obeyed is None else 1


def explain(settings: Settings, asked: argparse.Namespace) -> int:
    """Print the last decisions, newest last, each with its rule and the facts it saw."""
    for stamp, decision in reversed(recent_decisions(Path(settings.state_dir) / LEDGER, asked.limit)):
        print(f"{stamp.at or f'{stamp.uptime_s:.0f} s after boot'}  {decision.step}, by rule {decision.rule}")
        print(f"  because {decision.why}")
        for name, value in decision.facts.items():
            if value not in {None, "-"}:
                print(f"  {name:<12} {value}")
    return 0


# --- check ----------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """One thing that was looked at. ``way_out`` is empty where all is well."""

    what: str
    says: str
    way_out: str = ""


def check(settings: Settings, _: argparse.Namespace) -> int:
    """Print what was looked at, and what to do about each problem; 1 when there is one."""
    return asyncio.run(_check(settings))


async def _check(settings: Settings) -> int:
    problems = 0
    async for found in _findings(settings):
        problems += bool(found.way_out)
        mark = "problem" if found.way_out else "ok"
        print(f"{mark:<8} {found.what}: {found.says}{f'; {found.way_out}' if found.way_out else ''}", flush=True)
    summary = "nothing is wrong here" if problems == 0 else f"{problems} to be mended"
    print(summary, file=sys.stderr)
    return 0 if problems == 0 else 1


async def _findings(settings: Settings) -> AsyncIterator[Found]:
    yield _state_dir(Path(settings.state_dir))
    yield _room(Path(settings.state_dir))
    yield _clock()
    if settings.bus.certificate_file is not None:
        yield await _certificate(Path(settings.bus.certificate_file))
    yield _memory_limits()
    yield _agent_versions()
    async for found in _engine(settings):
        yield found
    if settings.git.require_signatures:
        yield _signers(settings)
    yield await _safe_mode(settings)
    for url in settings.git.remotes:
        yield await _remote(settings, url)
    yield await _broker(settings.bus)
    if (found := await _confirmed_files(settings)) is not None:
        yield found


def _state_dir(path: Path) -> Found:
    if path.is_dir() and os.access(path, os.W_OK):
        return Found("state directory", f"{path} is there and can be written")
    if not path.exists() and os.access(_nearest(path), os.W_OK):
        return Found("state directory", f"{path} will be made at the first start")
    return Found("state directory", f"{path} can't be written by user {os.getuid()}", "run the agent as its owner")


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _room(path: Path) -> Found:
    free = shutil.disk_usage(_nearest(path)).free
    says = f"{free // (1024 * 1024)} MiB are free where {path} is"
    return Found("disk", says, "" if free >= ENOUGH_FREE_BYTES else "free some: updates need room for images")


def _clock() -> Found:
    if Clock.of_this_machine().wall() is not None:
        return Found("clock", "the wall clock is synchronised")
    return Found("clock", "not synchronised yet: events carry the time since boot; nothing else depends on it")


async def _certificate(file: Path) -> Found:
    papers, now, what = await papers_of(file), datetime.now(UTC), "certificate"
    if papers is None:
        return Found(what, f"{file} is not there, or is none", "metrica-agent enrol, by metrica device add")
    if now < papers.not_before:
        return Found(what, f"good from {_day(papers.not_before)} on, and this clock says {_day(now)}: {_WAITS}")
    if now > papers.not_after:
        says = f"it ended on {_day(papers.not_after)} by this clock, and the agent asks for another"
        return Found(what, says, "metrica-agent renew says why none comes")
    return Found(what, f"good until {_day(papers.not_after)}; the agent renews it by itself")


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"


def _memory_limits() -> Found:
    if limits_memory():
        return Found("memory limits", "the kernel can limit memory")
    way_out = "append cgroup_enable=memory to the line in /boot/firmware/cmdline.txt, and reboot"
    return Found(
        "memory limits", "the memory cgroup is off: every limit in a Compose file is silently ignored", way_out
    )


def _agent_versions() -> Found:
    launched = told_by_the_launcher(dict(os.environ))
    if launched is None:
        says = "asked without the launcher (/opt/metrica/launcher.py check): which version it starts is not known here"
        return Found("agent version", says)
    folder, what = launched[0], "agent version"
    if not os.access(folder, os.W_OK):
        return Found(what, f"{folder} can't be written", "make it: versions that the fleet names are installed there")
    return Found(what, in_words_of_versions(folder))


async def _engine(settings: Settings) -> AsyncIterator[Found]:
    engine = Engine(settings.compose.project, environment=engine_environment(settings))
    try:
        yield Found("docker compose", await engine.version())
    except (NotNow, Unusable) as error:
        yield Found("docker compose", error.message, "install Docker and its Compose plug-in, version 2")
    try:
        containers = await engine.containers()
    except NotNow as error:
        yield Found("container engine", error.message, "start it, and let this user use its socket")
        return
    running = sum(container.state == "running" for container in containers)
    says = f"answers; {running} of {len(containers)} containers of project {settings.compose.project} run"
    yield Found("container engine", says)


def _signers(settings: Settings) -> Found:
    if shutil.which("ssh-keygen") is None:
        return Found("signatures", "ssh-keygen is missing, so that no commit is accepted", "install openssh-client")
    try:
        own_signers(settings)
    except Unusable as error:
        return Found("signatures", error.message, "the agent does not start without it")
    return Found("signatures", f"commits must be signed; trust begins with {settings.git.allowed_signers_file}")


async def _safe_mode(settings: Settings) -> Found:
    """Look at the stack that always works: once it is needed, nobody can mend it."""
    folder, what = safe_mode_folder(settings), "safe-mode stack"
    engine = Engine(settings.compose.project, environment=engine_environment(settings))
    releases = releases_of(settings)
    places = releases.places(folder, SAFE_MODE)
    variables = {"METRICA_DATA": places.data}
    try:
        entries = await releases.manifest(folder)
        model = await engine.resolve(folder, variables)
        rendered = render(
            model,
            project=settings.compose.project,
            places=places,
            entries=entries,
            variables=variables,
            may_be_empty=True,
        )
        needed = needs(
            rendered.compose,
            content_root=places.content,
            data_root=places.data,
            secrets_root=places.secrets,
        )
        missing = await engine.missing_images(needed.images)
        absent = await releases.absent(needed.host_sources)
    except Unusable as error:
        return Found(what, f"{folder}: {error.message}", "mend it, or the device has nothing to fall back on")
    except NotNow as error:
        return Found(what, f"{folder} could not be looked at: {error.message}")
    if missing:
        return Found(
            what, f"{folder}: image {missing[0].name} is not on this device", "pull it: safe mode pulls nothing"
        )
    if absent:
        return Found(what, f"{folder}: {absent[0]} does not exist", "make it, or mount something else")
    services = ", ".join(service.name for service in rendered.services) or "nothing, and so nothing in it can fail"
    return Found(what, f"{folder} can run: {services}")


async def _remote(settings: Settings, url: str) -> Found:
    git = mirror(settings)
    try:
        commit = await git.head(url)
    except (NotNow, Unusable) as error:
        return Found("git remote", error.message, "mend it, or the device stays where it is")
    finally:
        await git.aclose()
    return Found("git remote", f"{Remote(url)} offers {short(CommitId(commit))} on {settings.git.branch}")


async def _broker(bus: BusSettings) -> Found:
    where, tls = f"{bus.host}:{bus.port}", bus_tls(bus)
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(bus.host, bus.port, ssl=None if tls is None else tls())
            if bus.certificate_file is not None:
                await _first_word(reader)
    except NotNow as error:
        return Found("broker", error.message, "put the authority there (bus.ca_file)")
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):
            way_out = "revoked: metrica device add; expired: the agent asks for another by itself"
            return Found("broker", f"{where} refuses this device's certificate ({error.reason})", way_out)
        if getattr(error, "verify_code", None) in UNTIMELY:
            says = f"the certificate of {where} is not valid by this clock, which says {_day(datetime.now(UTC))}"
            return Found("broker", f"{says}: {_WAITS}", "wait until the clock is synchronised, or look why it is not")
        says = f"{where} answers, but not with TLS that we trust ({error.reason or error})"
        return Found("broker", says, "bus.ca_file has to be the authority of its certificate, bus.host the name in it")
    except OSError as error:
        says = f"{where} does not answer ({error.strerror or 'no answer in time'})"
        return Found("broker", says, "the device works on and keeps what it has to say until it is back")
    writer.close()
    return Found("broker", f"{where} answers{'' if tls is None else ', by TLS that we trust'}")


async def _first_word(reader: asyncio.StreamReader) -> None:
    """Hear whether our certificate is refused: TLS 1.3 says so after the handshake. A broker says nothing else."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await reader.read(1)


async def _confirmed_files(settings: Settings) -> Found | None:
    try:
        memory = remembered(Path(settings.state_dir) / LEDGER)
    except NotNow:
        return None
    if memory.confirmed is None:
        return None
    changed = await releases_of(settings).verify(memory.confirmed.release)
    name = f"release {short(memory.confirmed.release)}"
    if not changed:
        return Found("confirmed release", f"{name} is on disk as it was published")
    return Found("confirmed release", f"{name}: {changed[0]}", "the agent stages it again when it is missing")
