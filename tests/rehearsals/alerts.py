"""Every alert, rehearsed: a fault in a real part, real rules at their real pace, the seconds until somebody is told.

``./scripts/rehearse alerts``. Beside this file stage.py has what runs, acts.py the faults; toll.py says what the parts
take meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tests.integration.stack.rules import ALERTS
from tests.rehearsals.acts import ACTS, quiet
from tests.rehearsals.stage import SEVERITY, Stage, say
from tests.rehearsals.toll import Toll, scrape

MOST_S: Final = 180.0
"""The founding document: an alert is out within three minutes of its fault."""


async def rehearse(folder: Path, count: int, only: list[str]) -> int:
    """Play all acts, or the first and those named; return the exit code."""
    async with AsyncExitStack() as closing:
        stage = Stage(folder, count, closing)
        await stage.build()
        say(f"all parts run; {count} devices are switched on")
        await quiet(stage)
        netdata, meter, toll = scrape(stage.prometheus), Toll(stage.parts), ""
        for act in ACTS:
            if not only or act.__name__ in only:
                await act(stage)
                toll = toll or f"{meter}\n\n{netdata}"
        if any(one.told_s is None and not one.is_given_up for one in stage.faults):
            await stage.wait("what is still open")
        faults, wrong = stage.faults, stage.wrong
    missing = set[str]() if only else {alert.name for alert in ALERTS} - {fault.alert for fault in faults}
    wrong += [f"{name} was not rehearsed" for name in sorted(missing)]
    wrong += [
        f"{one.alert}: {one.took_s:.0f} s"
        for one in faults
        if one.took_s is not None and one.took_s > MOST_S and one.alert != "MetricaWatchdog"
    ]
    sys.stdout.write(f"\n{toll}\n")
    sys.stdout.write("\n| alert | severity | fault | told after |\n| --- | --- | --- | --- |\n")
    for one in sorted(faults, key=lambda one: one.alert):
        took = "never" if one.took_s is None else f"{one.took_s:.0f} s"
        sys.stdout.write(f"| `{one.alert}` | {SEVERITY[one.alert]} | {one.what} | {took} |\n")
    took_s = [one.took_s for one in faults if one.took_s is not None]
    told = f"{len(took_s)} of {len(ALERTS)} alerts told; the longest took {max(took_s):.0f} s, {count} devices"
    sys.stdout.write(f"\n{told}\n{''.join(f'WRONG: {one}' + chr(10) for one in wrong)}")
    return 1 if wrong else 0


def main() -> int:
    """Read the command line; rehearse."""
    parser = argparse.ArgumentParser(
        prog="./scripts/rehearse alerts", description="Every alert, from its fault to its message."
    )
    parser.add_argument("--devices", type=int, default=500, help="simulated ones, beside those that have faults")
    names = [act.__name__ for act in ACTS]
    parser.add_argument("--only", action="append", default=[], choices=names, help="this act; may be given again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metrica-rehearsal-") as folder:
        Path(folder).chmod(0o755)
        return asyncio.run(rehearse(Path(folder), options.devices, options.only))


if __name__ == "__main__":
    sys.exit(main())
