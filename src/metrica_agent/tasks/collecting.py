"""The support bundle: what the device remembers, decided and told, and what its engine and services say; a tar.gz.

Secrets are taken out by the rules of our own log lines. It is made in memory, bounded: on a full disk it is needed.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import platform
import tarfile
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metrica_agent.decisions.log_lines import LogsAsked, Newest
from metrica_fleet.commands import ANSWER_BYTES
from metrica_fleet.errors import NotNow
from metrica_fleet.logs import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metrica_agent.tasks.commands import CommandTask

DECISIONS: Final = 200
EVENTS: Final = 200
LINES: Final = 300
"""Of each service's log."""
MEMBER_BYTES: Final = 128 * 1024
"""Of each file in it, before it is packed: the end."""
_LOGS: Final = "logs/"
_SERVICE_S: Final = 15.0
_MODE: Final = 0o644


async def collected(means: CommandTask) -> bytes:
    """Return the bundle."""
    files = await _facts(means)
    files |= dict(await means.engine.described())
    for service in sorted(await _services(means)):
        files[f"{_LOGS}{service}.txt"] = await _log(means, service)
    return await asyncio.to_thread(packed, files, means.device)


def packed(files: Mapping[str, str], folder: str) -> bytes:
    """Return the bundle of ``files``, redacted; with less of the logs, as long as it is too large."""
    texts = {name: redacted(text).encode("utf-8", "replace")[-MEMBER_BYTES:] for name, text in files.items()}
    share = MEMBER_BYTES
    while True:
        bundle = _tar({name: text[-share:] if name.startswith(_LOGS) else text for name, text in texts.items()}, folder)
        if len(bundle) <= ANSWER_BYTES:
            return bundle
        if share < 1:
            texts = {name: text[-len(text) // 2 :] for name, text in texts.items()}
        share //= 2


def _tar(texts: Mapping[str, bytes], folder: str) -> bytes:
    into = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=into, mode="wb", mtime=0) as packing,
        tarfile.open(fileobj=packing, mode="w") as tar,  # pyright: ignore[reportArgumentType] typeshed wants more than it uses
    ):
        for name, text in texts.items():
            about = tarfile.TarInfo(f"{folder}/{name}")
            about.size, about.mode = len(text), _MODE
            tar.addfile(about, io.BytesIO(text))
    return into.getvalue()


async def _facts(means: CommandTask) -> dict[str, str]:
    stamp = means.clock.stamp()
    decisions = await means.ledger.decisions(DECISIONS)
    book = await means.ledger.commands()
    about = {
        "fleet": means.fleet,
        "device": means.device,
        "agent_version": means.agent_version,
        "python": platform.python_version(),
        "machine": " ".join(platform.uname()),
        "stamp": stamp,
    }
    return {
        "about.json": _pretty(about),
        "memory.json": _pretty(means.memory()),
        "vitals.json": _pretty(await means.vitals()),
        "decisions.jsonl": _lines({"stamp": at, "decision": one} for at, one in reversed(decisions)),
        "events.jsonl": _lines(reversed(await means.ledger.recent_events(EVENTS))),
        "commands.jsonl": _lines(book.taken.values()),
    }


async def _services(means: CommandTask) -> set[str]:
    release = await means.running()
    return {service.name for service in release.services} if release is not None else set()


async def _log(means: CommandTask, service: str) -> str:
    newest = Newest(MEMBER_BYTES)
    try:
        async with asyncio.timeout(_SERVICE_S):
            async for some in means.engine.logs(service, LogsAsked(tail=LINES, timestamps=True)):
                newest.add(some)
    except (NotNow, TimeoutError) as error:
        newest.add((f"[{error or 'not read in time'}]",))
    return "\n".join(newest.lines) + "\n"


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _lines(values: Iterable[Any]) -> str:
    return "".join(f"{msgspec.json.encode(value).decode()}\n" for value in values)
