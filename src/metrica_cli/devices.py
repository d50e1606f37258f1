"""``metrica devices``, ``device``, ``top``, ``wait``, ``open``: what there is, and how it is."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from metrica_cli import enrolling
from metrica_cli.fleet import (
    DEVICE_HEADS,
    LOAD_HEADS,
    WIDE_HEADS,
    Sort,
    change_of,
    device_page,
    device_rows,
    load_rows,
    sorted_devices,
)
from metrica_cli.options import HERE, At, DeviceId, NoHeaders, Output, Watch, add, device_path, selected
from metrica_cli.output import Format, line, listed, say, say_items, tell
from metrica_cli.table import terminal_width
from metrica_cli.trouble import Exit, Trouble
from metrica_cli.watch import Breaks, Screen, each, redrawn
from metrica_fleet.records import Mode, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metrica_cli.hub import Answer, Hub
    from metrica_cli.values import Json

_LAST_EVENTS: Final = 10
_STREAM: Final = "/devices/stream"
Selector = Annotated[
    list[str] | None,
    Parameter(
        name=["--selector", "-l"],
        negative=(),
        consume_multiple=False,
        help="role=camera,tag=north: also mode=, release=, offline=true, q=.",
    ),
]
Sorting = Annotated[Sort, Parameter(name="--sort", help="age: who was not heard for longest comes first.")]


def register(app: App) -> None:
    """Add the commands."""
    add(
        app,
        devices,
        "metrica devices                              all, problems first",
        "metrica devices -w -l role=camera            those of a role, as they change",
        "metrica devices -l offline=true -o name      for a script",
    )
    one = App(name="device", help="Show one device; let one in to the bus, or lock it out.", help_epilogue="")
    one.default(device)
    enrolling.register(one)
    app.command(one)
    add(app, top, "metrica top -w")
    add(
        app,
        wait,
        "metrica wait pi-01 --for commit=$(git rev-parse HEAD) --timeout 5m",
        "metrica wait pi-01 --for phase=confirmed",
    )
    add(app, open_, "metrica open pi-01", name="open")


def devices(
    *,
    output: Output = "table",
    watch: Watch = False,
    selector: Selector = None,
    sort: Sorting = "problems",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """List all devices, problems first."""
    hub, query = at.there(), selected(selector)
    answer = hub.get_list("/devices", query=query)
    wide = output == "wide"

    def shown(found: list[Json], now: datetime) -> str:
        rows = device_rows(sorted_devices(found, sort), now, at.look, wide=wide)
        return listed(WIDE_HEADS if wide else DEVICE_HEADS, rows, no_headers=no_headers)

    if watch:
        _watch(hub, answer, query, output, shown)
    if output in {"table", "wide"} and not answer.items:
        tell("no device is so" if query else "no device was heard of yet")
    text = shown(answer.items, answer.now) if output in {"table", "wide"} else ""
    say_items(output, answer.body, answer.items, text, "device")
    return Exit.OK


def device(device: DeviceId, /, *, output: Output = "table", at: At = HERE) -> Exit:
    """Show one device: facts, why it is not where it should be, its services, its last events."""
    source = at.there()
    answer = source.get(device_path(device))
    text = ""
    if output in {"table", "wide"}:
        last = source.get_list(f"{device_path(device)}/events", _LAST_EVENTS)
        text = device_page(answer.body, last.items, answer.now, at.look, width=terminal_width())
    say_items(output, answer.body, [answer.body], text, "device")
    return Exit.OK


def top(*, watch: Watch = False, selector: Selector = None, no_headers: NoHeaders = False, at: At = HERE) -> Exit:
    """Show what each device's machine has left, the hottest first."""
    hub, query = at.there(), selected(selector)
    answer = hub.get_list("/devices", query=query)

    def shown(found: list[Json], now: datetime) -> str:
        return listed(LOAD_HEADS, load_rows(found, now), no_headers=no_headers)

    if watch:
        if not sys.stdout.isatty():
            raise Trouble("top -w is for a terminal", code=Exit.USAGE, advice="metrica devices -w -o jsonl")
        _watch(hub, answer, query, "table", shown)
    say(shown(answer.items, answer.now))
    return Exit.OK


def wait(
    device: DeviceId,
    /,
    *,
    until: Annotated[
        str,
        Parameter(name="--for", help="release=, commit=, phase=, mode=, connection= or role=; commits may be short."),
    ],
    at: At = HERE,
) -> Exit:
    """Wait until a device is so; exit code 6 when it is not in time."""
    key, separator, value = until.partition("=")
    if not separator or not value or key not in _AWAITED:
        known = ", ".join(f"{one}=…" for one in _AWAITED)
        raise Trouble(f"--for {until} says nothing to wait for", code=Exit.USAGE, why=f"known: {known}")
    possible = _POSSIBLE.get(key, (value,))
    if value not in possible:
        raise Trouble(f'no device is ever {key}="{value}"', code=Exit.USAGE, why=f"known: {', '.join(possible)}")
    patience_s, hub = at.timeout_s, at.there()
    try:
        found = asyncio.run(_awaited(hub, device, key, value, patience_s))
    except TimeoutError:
        last = hub.get(device_path(device)).body
        what = f"{device} was not {until} within {patience_s:g} s"
        raise Trouble(what, code=Exit.TIMED_OUT, why=change_of(last), advice=f"metrica device {device}") from None
    say(change_of(found))
    return Exit.OK


def open_(
    device: Annotated[str | None, Parameter(name="ID", help="The page of this device; else of the fleet.")] = None,
    /,
    *,
    at: At = HERE,
) -> Exit:
    """Open the dashboard in a browser."""
    import webbrowser  # noqa: PLC0415 - rarely needed

    url = at.target().url.rstrip("/") + (device_path(device) if device is not None else "/")
    say(url)
    if not webbrowser.open(url):
        tell("there is no browser here; open the address in one")
        return Exit.NO
    return Exit.OK


# --- one after another --------------------------------------------------------------------------------------

_AWAITED: Final = ("release", "commit", "phase", "mode", "connection", "role")
_POSSIBLE: Final = {"phase": tuple(Phase), "mode": tuple(Mode)}
"""What else would be waited for in vain."""
_SHORTENED: Final = frozenset({"release", "commit"})


async def _awaited(hub: Hub, device: str, key: str, value: str, patience_s: float) -> Json:
    """Return the device when it is so. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        answer = await hub.ask("GET", device_path(device))
        if _is_so(answer.body, key, value):
            return answer.body
        stream = hub.follow(_STREAM, since=_cursor([answer.body]))
        async for message in stream:
            told = message.json or {}
            if told.get("device") == device and _is_so(told, key, value):
                return told
    raise TimeoutError


def _is_so(device: Json, key: str, value: str) -> bool:
    found = str(device.get(key) or "")
    return found.startswith(value) if key in _SHORTENED else found == value


def _watch(
    hub: Hub, answer: Answer, query: Mapping[str, str], output: Format, shown: Callable[[list[Json], datetime], str]
) -> None:
    if output in {"table", "wide"} and sys.stdout.isatty():
        asyncio.run(_on_screen(hub, answer, query, shown))
    else:
        asyncio.run(_line_by_line(hub, answer, query, output))


async def _on_screen(
    hub: Hub, answer: Answer, query: Mapping[str, str], shown: Callable[[list[Json], datetime], str]
) -> None:
    found = {str(one.get("device")): one for one in answer.items}
    changed, breaks = asyncio.Event(), Breaks(quiet=True)
    ahead = answer.now - datetime.now(UTC)  # the hub's clock tells ages, here as elsewhere

    def render() -> str:
        text = shown(list(found.values()), datetime.now(UTC) + ahead)
        return f"{text}\n\nreconnecting: {breaks.why}" if breaks.why else text

    def take(one: Json) -> None:
        name = str(one.get("device"))
        breaks.mended()
        if _selects(query, one):
            found[name] = one
        else:
            found.pop(name, None)
        changed.set()

    stream = hub.follow(_STREAM, since=_cursor(answer.items), on_break=breaks.broken)
    with Screen() as screen:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(redrawn(screen, render, changed))
                await each(stream, lambda message: take(message.json or {}))
        except* Trouble as troubles:
            raise troubles.exceptions[0] from None


async def _line_by_line(hub: Hub, answer: Answer, query: Mapping[str, str], output: Format) -> None:
    shown: dict[str, str] = {}
    breaks = Breaks()

    def take(one: Json) -> None:
        breaks.mended()
        text = line(one) if output in {"json", "jsonl"} else change_of(one)
        name = str(one.get("device"))
        if _selects(query, one) and shown.get(name) != text:
            shown[name] = text
            say(name if output == "name" else text)
            sys.stdout.flush()

    for one in answer.items:
        take(one)
    stream = hub.follow(_STREAM, since=_cursor(answer.items), on_break=breaks.broken)
    await each(stream, lambda message: take(message.json or {}))


def _cursor(devices: list[Json]) -> str | None:
    """Return where the stream goes on behind what is known."""
    changes = [one["change"] for one in devices if isinstance(one.get("change"), int)]
    return str(max(changes)) if changes else None


def _selects(query: Mapping[str, str], device: Json) -> bool:
    """Whether a device that changed is among those that were asked for: the stream tells all."""
    for key, value in query.items():
        match key:
            case "tag":
                so = value in (device.get("tags") or ())
            case "offline":
                so = (device.get("connection") in {"offline", "never-seen"}) == (value == "true")
            case "release":
                so = any(str(device.get(one) or "").startswith(value) for one in ("release", "commit"))
            case "q":
                words = (device.get("device"), device.get("role"), *(device.get("tags") or ()))
                so = any(value in str(word) for word in words if word)
            case _:
                so = device.get(key) == value
        if not so:
            return False
    return True
