"""``metrica simulate``: a crowd of simulated devices, where the simulation is installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from metrica_cli.trouble import Exit, Trouble
from metrica_fleet.errors import FleetError, Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping

OPTIONS = {
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
