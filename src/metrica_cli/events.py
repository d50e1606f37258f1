"""``metrica events``: what happened, and what happens."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from metrica_cli.fleet import EVENT_HEADS, event_line, event_rows
from metrica_cli.options import HERE, At, NoHeaders, OfDevice, Output, add, device_path, seconds
from metrica_cli.output import Format, line, listed, say, say_items, tell
from metrica_cli.table import instant
from metrica_cli.trouble import Exit, Trouble
from metrica_cli.watch import Breaks, each

if TYPE_CHECKING:
    from metrica_cli.hub import Answer, Hub
    from metrica_cli.values import Json

_STREAM: Final = "/events/stream"
_FURTHEST: Final = 20_000
"""Events that are looked through for those of one kind."""


def register(app: App) -> None:
    """Add the command."""
    add(
        app,
        events,
        "metrica events --device pi-01 --since 2h   what happened there",
        "metrica events -f --kind 'release.*'       what happens, in the whole fleet",
        "metrica events -f -o jsonl | jq .message   for a program",
    )


def events(
    *,
    follow: Annotated[
        bool,
        Parameter(
            name=["--follow", "-f", "--watch", "-w"], negative=(), show_default=False, help="Go on with what happens."
        ),
    ] = False,
    device: OfDevice = None,
    kind: Annotated[str | None, Parameter(name="--kind", help="Of this kind: release.refused, or release.*.")] = None,
    since: Annotated[str | None, Parameter(name="--since", help="Not older than 10m, 2h, 3d.")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many, newest first.")] = 20,
    output: Output = "table",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """List what happened, newest first; with -f the oldest first, and on."""
    if limit < 1:
        raise Trouble(f"-n {limit} asks for nothing", code=Exit.USAGE, advice="metrica events -n 20")
    hub = at.there()
    path = f"{device_path(device)}/events" if device is not None else "/events"
    wanted = _Wanted(device, kind, None if since is None else seconds(since, "--since"))
    answer = asyncio.run(_some(hub, path, wanted, limit))
    found = [one for one in answer.items if wanted.takes(one, answer.now)][:limit]
    if follow:
        asyncio.run(_follow(hub, answer, found, wanted, output))
    if output in {"table", "wide"} and not found:
        tell("nothing of that has happened" if wanted.narrows else "nothing has happened yet")
    rows = event_rows(found, answer.now) if output in {"table", "wide"} else []
    body = {**answer.body, "items": found}
    say_items(output, body, found, listed(EVENT_HEADS, rows, no_headers=no_headers), "kind")
    return Exit.OK


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which events were asked for."""

    device: str | None
    kind: str | None
    since_s: float | None

    @property
    def narrows(self) -> bool:
        """Whether the hub's list holds more than was asked for."""
        return self.kind is not None or self.since_s is not None

    def takes(self, event: Json, now: datetime) -> bool:
        """Whether ``event`` is one of them."""
        of_device = self.device is None or event.get("device") == self.device
        of_kind = self.kind is None or fnmatchcase(str(event.get("kind")), self.kind)
        return of_device and of_kind and not self.is_older(event, now)

    def is_older(self, event: Json, now: datetime) -> bool:
        """Whether ``event``, and so whatever was stored before it, is too old."""
        stored = instant(str(event.get("received_at") or ""))
        if self.since_s is None or stored is None:
            return False
        return stored < now - timedelta(seconds=self.since_s)


async def _some(hub: Hub, path: str, wanted: _Wanted, limit: int) -> Answer:
    """Return so much of the list that ``limit`` of what is wanted is in it, as far back as is looked."""
    if not wanted.narrows:
        return await hub.ask_list(path, limit)

    def enough(so_far: Answer) -> bool:
        taken = sum(wanted.takes(one, so_far.now) for one in so_far.items)
        return taken >= limit or wanted.is_older(so_far.items[-1], so_far.now)

    answer = await hub.ask_list(path, _FURTHEST, enough=enough)
    if len(answer.items) >= _FURTHEST and not enough(answer):
        tell(f"looked through the last {_FURTHEST:,} events; older ones were not looked at")
    return answer


async def _follow(hub: Hub, answer: Answer, found: list[Json], wanted: _Wanted, output: Format) -> None:
    """Tell what was ``found`` in ``answer``, the oldest first, then what comes."""
    breaks = Breaks()

    def take(event: Json) -> None:
        breaks.mended()
        if wanted.takes(event, datetime.now(UTC)):
            say(line(event) if output in {"json", "jsonl"} else event_line(event))
            sys.stdout.flush()

    for event in reversed(found):
        take(event)
    cursors = [one["cursor"] for one in answer.items if isinstance(one.get("cursor"), int)]
    since = str(max(cursors)) if cursors else None
    stream = hub.follow(_STREAM, since=since, on_break=breaks.broken)
    await each(stream, lambda message: take(message.json or {}))
