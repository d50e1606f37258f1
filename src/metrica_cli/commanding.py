"""Commands to one device: sync, restart, redeploy, logs, reboot, safe-mode, hold, collect, explain, accept-history.

The hub keeps a command, sends it when the device is connected, and streams what comes of it. Ctrl-C ends only the
looking, but for a log that is followed: that is cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, cast

import msgspec
from cyclopts import App, Parameter

from metrica_cli.options import HERE, At, DeviceId, NoHeaders, OfDevice, Output, Yes, add, device_path, seconds
from metrica_cli.output import agreed, listed, say, say_items, tell
from metrica_cli.progress import Progress
from metrica_cli.table import Cell, age, clean, painted
from metrica_cli.trouble import Exit, Trouble
from metrica_cli.watch import Breaks
from metrica_fleet.commands import task_of, timeout_of
from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metrica_cli.hub import Hub
    from metrica_cli.values import Json

_ENDS: Final = {
    "done": Exit.OK,
    "failed": Exit.NO,
    "refused": Exit.NO,
    "expired": Exit.TIMED_OUT,
    "cancelled": Exit.NO,
}
_STYLES: Final = ("busy", "good", "warn", "strong")
_HEADS: Final = ("COMMAND", "DEVICE", "VERB", "STATE", "AGE", "BY", "MESSAGE")

Services = Annotated[
    tuple[str, ...],
    Parameter(name="SERVICE", help="As compose.yaml names them; without: the only one."),
]
Within = Annotated[
    str | None, Parameter(name="--within", help="How long the device may take, from when it has it; else as usual.")
]
Queue = Annotated[
    str, Parameter(name="--queue", help="How long it waits for a device that is not connected: 2h, 3d; 0: not at all.")
]
Because = Annotated[str, Parameter(name="--reason", help="Why; all who look read it.")]
OnOff = Annotated[Literal["on", "off"], Parameter(name="on|off", help="Into it, or out of it.")]


def register(app: App) -> None:
    """Add the commands."""
    add(app, commands, "metrica commands --device pi-01", "metrica commands 7 --cancel")
    add(app, sync, "metrica sync pi-01")
    add(app, restart, "metrica restart pi-01 web")
    add(app, redeploy, "metrica redeploy pi-01")
    add(
        app,
        logs,
        "metrica logs pi-01                      where there is but one service",
        "metrica logs pi-01 web -n 100",
        "metrica logs pi-01 web db -f --since 10m -t",
    )
    add(app, reboot, "metrica reboot pi-01", "metrica reboot pi-01 --yes --queue 3d")
    add(app, safe_mode, 'metrica safe-mode pi-01 on --reason "a loose cable"', name="safe-mode")
    add(app, hold, 'metrica hold pi-01 --reason "I look at it by hand"')
    add(app, unhold, 'metrica unhold pi-01 --reason "seen"')
    add(app, collect, "metrica collect pi-01", "metrica collect pi-01 --file - | tar tzf -")
    add(app, explain, "metrica explain pi-01 -n 5")
    add(
        app,
        accept_history,
        'metrica accept-history pi-01 COMMIT --reason "main was rewritten, by ada"',
        name="accept-history",
    )


def commands(
    number: Annotated[int | None, Parameter(name="COMMAND", help="This one only.")] = None,
    /,
    *,
    device: OfDevice = None,
    state: Annotated[str | None, Parameter(name="--state", help="queued, running, done, failed …")] = None,
    cancel: Annotated[
        bool, Parameter(name="--cancel", negative=(), show_default=False, help="Take it back, or have it ended.")
    ] = False,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many, newest first.")] = 20,
    output: Output = "table",
    no_headers: NoHeaders = False,
    at: At = HERE,
) -> Exit:
    """List the commands that were given, newest first, and what came of each."""
    hub, look = at.there(), at.look
    if number is None:
        if cancel:
            raise Trouble("which command?", code=Exit.USAGE, advice="metrica commands 7 --cancel")
        query = {name: value for name, value in (("device", device), ("state", state)) if value is not None}
        answer = hub.get_list("/commands", limit, query)
        items = answer.items
    else:
        answer = hub.post(f"/commands/{number}/cancel") if cancel else hub.get(f"/commands/{number}")
        items = [answer.body]
    rows = [
        (
            str(one.get("id", "-")),
            str(one.get("device", "-")),
            str(one.get("verb", "-")),
            look.marked(str(one.get("state", "-"))),
            age(one.get("created_at"), answer.now),
            str(one.get("created_by", "-")),
            ": ".join(str(part) for part in (one.get("reason"), one.get("message")) if part),
        )
        for one in items
    ]
    say_items(output, answer.body, items, listed(_HEADS, rows, no_headers=no_headers), "id")
    return Exit.OK


def sync(device: DeviceId, /, *, within: Within = None, queue: Queue = "0", at: At = HERE) -> Exit:
    """Let a device ask its Git remotes now."""
    return _told(at, _Asked(device, "sync", {}, within, queue))


def restart(
    device: DeviceId,
    service: Annotated[str, Parameter(name="SERVICE", help="As compose.yaml names it.")],
    /,
    *,
    within: Within = None,
    queue: Queue = "0",
    at: At = HERE,
) -> Exit:
    """Restart the containers of one service."""
    return _told(at, _Asked(device, "restart", {"service": service}, within, queue))


def redeploy(
    device: DeviceId, /, *, yes: Yes = False, within: Within = None, queue: Queue = "0", at: At = HERE
) -> Exit:
    """Make the containers of the confirmed release anew."""
    agreed(f"Make all containers of {device} anew? Its services stop for a moment.", yes=yes)
    return _told(at, _Asked(device, "redeploy", {}, within, queue))


def logs(
    device: DeviceId,
    services: Services = (),
    /,
    *,
    follow: Annotated[
        bool,
        Parameter(name=["--follow", "-f"], negative=(), show_default=False, help="And what is written from now on."),
    ] = False,
    tail: Annotated[int, Parameter(name=["--tail", "-n"], help="So many of the last lines.")] = 100,
    since: Annotated[str | None, Parameter(name="--since", help="Nothing older than 10m, 2h.")] = None,
    timestamps: Annotated[
        bool, Parameter(name=["--timestamps", "-t"], negative=(), show_default=False, help="Each line with its time.")
    ] = False,
    within: Within = None,
    at: At = HERE,
) -> Exit:
    """Show what services wrote; with -f what they write, for ten minutes unless --within says otherwise."""
    asked: dict[str, Any] = {"tail": tail, "follow": follow, "timestamps": timestamps}
    if since is not None:
        asked["since_s"] = seconds(since, "--since")
    return asyncio.run(_logs(at, device, services or (None,), asked, within))


def reboot(device: DeviceId, /, *, yes: Yes = False, within: Within = None, queue: Queue = "0", at: At = HERE) -> Exit:
    """Start a device's machine anew."""
    agreed(f"Reboot {device}? Nothing of it runs until it is up again.", yes=yes)
    return _told(at, _Asked(device, "reboot", {}, within, queue))


def safe_mode(
    device: DeviceId,
    to: OnOff,
    /,
    *,
    reason: Because,
    yes: Yes = False,
    within: Within = None,
    queue: Queue = "0",
    at: At = HERE,
) -> Exit:
    """Run the stack that always works and nothing else, or go back to the confirmed release."""
    if to == "on":
        agreed(f"Safe mode for {device}? Its services stop. Undo: metrica safe-mode {device} off", yes=yes)
    return _told(at, _Asked(device, "safe-mode", {"on": to == "on", "reason": reason}, within, queue))


def hold(device: DeviceId, /, *, reason: Because, within: Within = None, queue: Queue = "0", at: At = HERE) -> Exit:
    """Let nothing change on a device: it ignores new releases."""
    code = _told(at, _Asked(device, "hold", {"on": True, "reason": reason}, within, queue))
    tell(f'undo: metrica unhold {device} --reason "…"')
    return code


def unhold(device: DeviceId, /, *, reason: Because, within: Within = None, queue: Queue = "0", at: At = HERE) -> Exit:
    """Let changes go on."""
    return _told(at, _Asked(device, "hold", {"on": False, "reason": reason}, within, queue))


def collect(
    device: DeviceId,
    /,
    *,
    file: Annotated[str | None, Parameter(name="--file", help="Where to; - for standard output.")] = None,
    within: Within = None,
    at: At = HERE,
) -> Exit:
    """Fetch all that may help to find a fault, secrets left out: ledger, vitals, containers, last logs; a tar.gz."""
    path = Path(f"{device}.tar.gz" if file is None else file)
    if file != "-" and path.exists():
        raise Trouble(f"{path} is there already", code=Exit.USAGE, advice="--file FILE")
    parts: dict[int, bytes] = {}
    code, message = asyncio.run(
        _carried_out(at.there(), _Asked(device, "collect", {}, within), lambda part: _data(part, parts))
    )
    if code is not Exit.OK:
        return _ended(code, message)
    whole = _whole(parts)
    if file == "-":
        sys.stdout.buffer.write(whole)
        return code
    path.touch(mode=0o600)
    path.write_bytes(whole)
    say(f"{path}: {message}")
    return code


def explain(
    device: DeviceId,
    /,
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="So many of the last decisions.")] = 5,
    output: Annotated[Literal["text", "jsonl"], Parameter(name=["--output", "-o"], help="As what.")] = "text",
    within: Within = None,
    at: At = HERE,
) -> Exit:
    """Show a device's last decisions, each with its rule and the facts that it saw."""

    def take(part: Json) -> None:
        for line in _lines(part):
            say(line if output == "jsonl" else _decision(line))

    code, message = asyncio.run(_carried_out(at.there(), _Asked(device, "explain", {"limit": limit}, within), take))
    return code if code is Exit.OK else _ended(code, message)


def accept_history(
    device: DeviceId,
    commit: Annotated[str, Parameter(name="COMMIT", help="All 40 digits.")],
    /,
    *,
    reason: Because,
    yes: Yes = False,
    within: Within = None,
    queue: Queue = "0",
    at: At = HERE,
) -> Exit:
    """Let a commit follow although the branch was rewritten, on one device, once."""
    agreed(f"Let {device} follow {commit[:8]}, whatever its history? It is written down with your name.", yes=yes)
    return _told(at, _Asked(device, "accept-history", {"commit": commit, "reason": reason}, within, queue))


# --- one command ------------------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """A command that is to be given."""

    device: str
    verb: str
    arguments: Mapping[str, Any]
    within: str | None = None
    queue: str = "0"


def _told(at: At, asked: _Asked) -> Exit:
    """Give a command, and wait for what comes of it."""
    code, message = asyncio.run(_carried_out(at.there(), asked, lambda _: None))
    code = _ended(code, f"{asked.device}: {message}")
    tell(f"next: metrica device {asked.device}")
    return code


def _ended(code: Exit, message: str) -> Exit:
    if code is Exit.OK:
        say(clean(message))
        return code
    raise Trouble(clean(message), code=code)


async def _carried_out(hub: Hub, asked: _Asked, take: Callable[[Json], None]) -> tuple[Exit, str]:
    """Give a command, hand on the parts of its answer, and return how it ended, in words."""
    progress, breaks = Progress(only_alive=True), Breaks()
    number, path = await _given(hub, asked)
    came = 0
    try:
        async with aclosing(hub.follow(f"{path}/stream", on_break=breaks.broken)) as stream:
            async for message in stream:
                breaks.mended()
                told = message.json or {}
                if message.event == "part":
                    came += 1
                    progress.clear()
                    take(told)
                    continue
                state = str(told.get("state"))
                if state in _ENDS:
                    lost = int(told.get("parts") or 0) - came
                    return _ENDS[state], f"{_words(state, told)}{f'; {lost} parts of it were lost' if lost > 0 else ''}"
                if state == "queued" and asked.queue != "0" and await _is_away(hub, asked.device):
                    return Exit.OK, f"command {number} waits for it; to look: metrica commands {number}"
                progress.show(f"{asked.verb} of {asked.device}: {state}")
    except asyncio.CancelledError:
        progress.clear()
        if asked.verb == "logs":
            await _cancelled(hub, path)
        else:
            tell(f"it goes on; to look: metrica commands {number}")
        raise
    finally:
        progress.clear()
    return Exit.NO, f"the hub told no end of it; to look: metrica commands {number}"


async def _given(hub: Hub, asked: _Asked) -> tuple[int, str]:
    """Give a command; return its number, and its path in the API. What makes no sense is not given to the hub."""
    try:
        task = task_of(asked.verb, dict(asked.arguments))
    except Unusable as error:
        raise Trouble(
            error.message, code=Exit.USAGE, why=error.reason, advice=f"metrica {asked.verb} --help"
        ) from error
    body: Json = {
        "verb": asked.verb,
        "arguments": dict(asked.arguments),
        "timeout_s": timeout_of(task) if asked.within is None else seconds(asked.within, "--within"),
        "queue_s": seconds(asked.queue, "--queue"),
    }
    try:
        answer = await hub.ask("POST", f"{device_path(asked.device)}/commands", body=body)
    except Trouble as trouble:
        if trouble.slug != "device-offline":
            raise
        advice = "--queue 2h, to let it wait"
        raise Trouble(trouble.what, code=trouble.code, why=trouble.why, advice=advice) from trouble
    number = int(answer.body.get("id") or 0)
    return number, f"/commands/{number}"


async def _is_away(hub: Hub, device: str) -> bool:
    return (await hub.ask("GET", device_path(device))).body.get("connection") != "online"


async def _cancelled(hub: Hub, path: str) -> None:
    """Let the hub end a log that nobody reads any more."""
    try:
        await hub.ask("POST", f"{path}/cancel")
    except Trouble as trouble:
        tell(f"it was not cancelled ({trouble.what}); it ends by itself")


def _words(state: str, part: Json) -> str:
    said = ": ".join(str(one) for one in (part.get("reason"), part.get("message")) if one)
    return said if state == "done" and said else f"{state}{f': {said}' if said else ''}"


# --- what comes of it -------------------------------------------------------------------------------------------


async def _logs(
    at: At, device: str, services: Sequence[str | None], asked: Mapping[str, Any], within: str | None
) -> Exit:
    """Show the logs of several services beside each other, each line with its service before it; ``None``: the only."""
    hub, look = at.there(), at.look
    widest = max(len(service or "") for service in services)

    def taking(service: str | None, number: int) -> Callable[[Json], None]:
        style = _STYLES[number % len(_STYLES)] if look.colour else ""
        prefix = painted(Cell(f"{(service or '').ljust(widest)}  | ", style)) if len(services) > 1 else ""

        def take(part: Json) -> None:
            for line in _lines(part):
                say(f"{prefix}{clean(line)}")
            sys.stdout.flush()

        return take

    found = await asyncio.gather(
        *(
            _carried_out(
                hub,
                _Asked(device, "logs", asked if service is None else {**asked, "service": service}, within),
                taking(service, number),
            )
            for number, service in enumerate(services)
        )
    )
    bad = [(code, f"{name or device}: {words}") for name, (code, words) in zip(services, found, strict=True) if code]
    if bad:
        advice = f"metrica logs {device} SERVICE" if "unknown-service" in bad[0][1] else f"metrica device {device}"
        raise Trouble(clean(bad[0][1]), code=bad[0][0], advice=advice)
    return Exit.OK


def _lines(part: Json) -> list[str]:
    lines: Any = part.get("lines")
    return [str(line) for line in cast("list[Any]", lines)] if isinstance(lines, list) else []


def _data(part: Json, parts: dict[int, bytes]) -> None:
    try:
        parts[int(part.get("part") or 0)] = base64.b64decode(str(part.get("data") or ""), validate=True)
    except (ValueError, binascii.Error) as error:
        raise Trouble("a part of the file is damaged", code=Exit.NO, why=str(error)) from error


def _whole(parts: Mapping[int, bytes]) -> bytes:
    """Return the file; none where a part of it was lost."""
    if sorted(parts) != list(range(len(parts))):
        raise Trouble("a part of the file was lost on the way", code=Exit.NO, advice="metrica collect once more")
    return b"".join(parts[at] for at in sorted(parts))


def _decision(line: str) -> str:
    """Return a decision as people read it."""
    try:
        told: Any = msgspec.json.decode(line)
        decision: Json = told["decision"]
        when = told["at"] or f"{told['uptime_s']:.0f} s after boot"
        facts = [f"  {name:<12} {value}" for name, value in decision["facts"].items() if value not in {None, "-"}]
        head = f"{when}  {decision['step']}, by rule {decision['rule']}"
        return "\n".join(clean(one) for one in (head, f"  because {decision['why']}", *facts))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return clean(line)
