"""The commands of ``metrica``. Data goes to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from cyclopts import App, CycloptsError, Parameter

from metrica_cli.checkout import read_checkout
from metrica_cli.crowd import simulated
from metrica_cli.fleet import DEVICE_HEADS, EVENT_HEADS, device_page, device_rows, event_rows
from metrica_cli.hub import Hub
from metrica_cli.table import table, terminal_width
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet import __version__
from metrica_fleet.definition import DefinitionError, whole_fleet
from metrica_fleet.identity import is_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_cli.hub import Json

DEFAULT_HUB: Final = "http://127.0.0.1:8080"
DEFAULT_BUS: Final = "127.0.0.1:1883"

_LAST_EVENTS: Final = 10
_EXAMPLES: Final = """\
For example:

  metrica lint                    check the repository here before a push
  metrica devices                 every device, problems first
  metrica device pi-01            one device: facts, why, last events
  metrica events --device pi-01   what happened there
  metrica simulate --devices 500  load a broker and a hub of your own
"""

HubAddress = Annotated[
    str, Parameter(name="--hub", env_var="METRICA_HUB_URL", help="Where the hub is, as http://127.0.0.1:8080.")
]
Timeout = Annotated[float, Parameter(name="--timeout", help="Seconds to wait for the hub.")]
Output = Annotated[
    Literal["table", "json", "jsonl", "name"],
    Parameter(name=["--output", "-o"], help="json is the hub's own JSON, jsonl one item a line, name names only."),
]
NoHeaders = Annotated[bool, Parameter(name="--no-headers", negative=(), help="No line of headings.")]
Limit = Annotated[int, Parameter(name=["--limit", "-n"], help="How many, newest first.")]
Directory = Annotated[Path, Parameter(name="DIR", help="The repository's working tree, as it is on disk.")]
DeviceId = Annotated[str, Parameter(name="ID", help="As in devices/<id>.toml.")]
Device = Annotated[str | None, Parameter(name="--device", help="Of this device only.")]


app = App(
    name="metrica",
    help="Look after a fleet.",
    help_epilogue=_EXAMPLES,
    version=f"metrica {__version__}",
    help_format="plaintext",
    help_formatter="plain",
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
)


@app.command
def lint(directory: Directory = Path(), /) -> Exit:
    """Check a fleet repository, by the code that devices check it with."""
    files, problems = read_checkout(directory)
    try:
        fleet = whole_fleet(files)
    except DefinitionError as error:
        unreadable = {problem.file for problem in problems}
        problems += [problem for problem in error.problems if problem.file not in unreadable]
    else:
        if not problems:
            _say(f"{_count(len(fleet.devices), 'device')}, {_count(len(fleet.roles), 'role')}: no problem")
            return Exit.OK
    for problem in problems:
        _tell(str(problem))
    _tell(f"{_count(len(problems), 'problem')}; a device would refuse a commit of this")
    return Exit.NO


@app.command
def devices(
    *,
    output: Output = "table",
    no_headers: NoHeaders = False,
    hub: HubAddress = DEFAULT_HUB,
    timeout_s: Timeout = 10.0,
) -> Exit:
    """List all devices, problems first."""
    answer = Hub(hub, timeout_s).get_list("/devices")
    if output == "table" and not answer.items:
        _tell("no device was heard of yet")
    rows = device_rows(answer.items, answer.now) if output == "table" else []
    _print(output, answer.body, answer.items, _table(DEVICE_HEADS, rows, no_headers=no_headers), "device")
    return Exit.OK


@app.command
def device(
    device: DeviceId, /, *, output: Output = "table", hub: HubAddress = DEFAULT_HUB, timeout_s: Timeout = 10.0
) -> Exit:
    """Show one device: facts, why it is not where it should be, its last events."""
    source = Hub(hub, timeout_s)
    answer = source.get(_path(device))
    text = ""
    if output == "table":
        last = source.get_list(f"{_path(device)}/events", _LAST_EVENTS)
        text = device_page(answer.body, last.items, answer.now, width=terminal_width())
    _print(output, answer.body, [answer.body], text, "device")
    return Exit.OK


@app.command
def events(
    *,
    device: Device = None,
    limit: Limit = 20,
    output: Output = "table",
    no_headers: NoHeaders = False,
    hub: HubAddress = DEFAULT_HUB,
    timeout_s: Timeout = 10.0,
) -> Exit:
    """List what happened, newest first."""
    if limit < 1:
        raise Trouble(f"-n {limit} asks for nothing", code=Exit.USAGE, advice="metrica events -n 20")
    path = f"{_path(device)}/events" if device is not None else "/events"
    answer = Hub(hub, timeout_s).get_list(path, limit)
    if output == "table" and not answer.items:
        _tell("nothing has happened yet")
    rows = event_rows(answer.items, answer.now) if output == "table" else []
    _print(output, answer.body, answer.items, _table(EVENT_HEADS, rows, no_headers=no_headers), "kind")
    return Exit.OK


@app.command
def simulate(
    *,
    devices: Annotated[int, Parameter(help="How many, called crowd-00001 and so on.")] = 100,
    bus: Annotated[
        str, Parameter(help="The broker, as HOST:PORT. Not one that a real fleet depends on.")
    ] = DEFAULT_BUS,
    fleet: Annotated[str, Parameter(help="The fleet's name, as the hub has it.")] = "demo",
    username: Annotated[str | None, Parameter(help="Of an account that may write for all of them.")] = None,
    password_file: Annotated[Path | None, Parameter(help="Where its password is.")] = None,
    minutes: Annotated[float, Parameter(help="How long they tell.")] = 5.0,
    ramp_s: Annotated[float, Parameter(name="--ramp", help="Seconds over which they are switched on.")] = 10.0,
    heartbeat_s: Annotated[float, Parameter(name="--heartbeat", help="Seconds between heartbeats.")] = 60.0,
    event_s: Annotated[float, Parameter(name="--event", help="Seconds between events of one, in the mean.")] = 600.0,
    backlog: Annotated[int, Parameter(help="Heartbeats that each has waiting at first.")] = 0,
    cuts: Annotated[float, Parameter(help="How often an hour the network of each is cut, for 30 s.")] = 0.0,
    reboots: Annotated[float, Parameter(help="How often an hour each is rebooted.")] = 0.0,
    poison: Annotated[float, Parameter(help="Bad messages a second, of all together.")] = 0.0,
    patience_s: Annotated[float, Parameter(name="--patience", help="Seconds for what was told to be stored.")] = 300.0,
    state: Annotated[Path | None, Parameter(help="A new folder for their ledgers and diaries, to be kept.")] = None,
    seed: Annotated[int, Parameter(help="Of chance.")] = 0,
) -> Exit:
    """Let devices that do not exist connect to a broker and tell, with a device's own telemetry code."""
    return simulated(
        bus,
        {
            "fleet": fleet,
            "devices": devices,
            "username": username,
            "password_file": None if password_file is None else str(password_file),
            "duration_s": 60 * minutes,
            "ramp_s": ramp_s,
            "heartbeat_s": heartbeat_s,
            "event_every_s": event_s,
            "backlog": backlog,
            "cuts_an_hour": cuts,
            "reboots_an_hour": reboots,
            "poison_per_s": poison,
            "patience_s": patience_s,
            "state": "" if state is None else str(state),
            "seed": seed,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that can't show a letter shows "?"
    try:
        result: object = app(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except Trouble as trouble:
        _tell(str(trouble))
        return trouble.code
    except CycloptsError as error:
        _tell(f"error: {_flat(str(error))}\n  try: metrica --help")
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough (`| head`). Nothing more may be flushed into the pipe at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    return result if isinstance(result, int) else Exit.OK


# --- output -------------------------------------------------------------------------------------------------


def _print(output: str, body: Json, items: Sequence[Json], text: str, name: str) -> None:
    match output:
        case "json":
            _say(msgspec.json.format(msgspec.json.encode(body), indent=2).decode())
        case "jsonl":
            _say("\n".join(msgspec.json.encode(item).decode() for item in items))
        case "name":
            _say("\n".join(str(item.get(name, "-")) for item in items))
        case _:
            _say(text)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, no_headers: bool) -> str:
    return table(() if no_headers else heads, rows, width=terminal_width()) if rows else ""


def _say(text: str) -> None:
    if text:
        sys.stdout.write(f"{text}\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _path(device: str) -> str:
    """Return the path of a device that an operator named."""
    if not is_name(device):
        raise Trouble(f'"{device}" is no name of a device', code=Exit.USAGE, advice="metrica devices")
    return f"/devices/{device}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _flat(text: str) -> str:
    return " ".join(text.split())
