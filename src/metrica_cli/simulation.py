"""``metrica simulate``: a crowd of simulated devices, where the simulation is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import App, Parameter

from metrica_cli.options import add
from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.errors import FleetError, Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_BUS: Final = "127.0.0.1:1883"
OPTIONS: Final = {
    "duration_s": "--minutes",
    "ramp_s": "--ramp",
    "heartbeat_s": "--heartbeat",
    "event_every_s": "--event",
    "cuts_an_hour": "--cuts",
    "reboots_an_hour": "--reboots",
    "poison_per_s": "--poison",
    "patience_s": "--patience",
}
"""What the plan calls otherwise than the command line does."""


def register(app: App) -> None:
    """Add the command."""
    add(app, simulate, "metrica simulate --devices 500    load a broker and a hub of your own")


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


def simulated(bus: str, asked: Mapping[str, object]) -> Exit:
    """Run the crowd that was asked for; ``NO`` when something that it told was not stored in time.

    Raises:
        Trouble: the call makes no sense, no broker answers, or the simulation is not installed.
    """
    try:
        from metrica_sim.crowd.plan import Plan  # noqa: PLC0415 - who looks after a fleet need not have it
        from metrica_sim.crowd.simulate import simulate  # noqa: PLC0415
    except ImportError as error:
        raise Trouble(
            f"the simulation is not installed ({error})", code=Exit.USAGE, advice='pip install "metrica-fleet[cli,sim]"'
        ) from error
    host, separator, port = bus.rpartition(":")
    if not separator or not port.isdigit():
        raise Trouble(f"--bus {bus} is no broker", code=Exit.USAGE, advice="--bus 127.0.0.1:1883")
    try:
        plan = msgspec.convert({**asked, "host": host.strip("[]"), "port": int(port)}, Plan)
    except msgspec.ValidationError as error:
        raise Trouble(_in_options(str(error)), code=Exit.USAGE, advice="metrica simulate --help") from error
    try:
        tally = simulate(plan)
    except FleetError as error:
        raise Trouble(error.message, code=Exit.USAGE if isinstance(error, Unusable) else Exit.NO) from error
    sys.stdout.write(
        f"{tally.devices:,} devices told {tally.records:,} records, {tally.events:,} of them events;"
        f" {tally.stored:,} are stored as far as they know\n"
    )
    if tally.unheard:
        sys.stderr.write(f"{tally.unheard:,} devices were not told that their last event is stored; does a hub run?\n")
        return Exit.NO
    return Exit.OK


def _in_options(text: str) -> str:
    """Say "--minutes" where msgspec says "$.duration_s"."""
    what, separator, where = text.partition(" - at `$.")
    name = where.rstrip("`")
    return f"{OPTIONS.get(name, '--' + name.replace('_', '-'))}: {what}" if separator else text
