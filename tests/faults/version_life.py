"""One life of an agent as far as its version goes: what the agent's tasks do with ``Versions``, without the tasks.

It judges itself at once, and installs by writing two files and their folder: what takes minutes for real, and of which
nothing counts before the word ``complete``. In it are the real launcher, the real ``Versions``, and every operation by
which the two change a disk.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from tests.fixtures.agent_versions import made, python_program, version

from metrica_agent import launcher
from metrica_agent.adapters.versions import Versions, orders, told_by_the_launcher
from metrica_fleet.identity import CommitId

OLD: Final = version("1.0.0")
GOOD: Final = version("2.0.0")
BAD: Final = version("2.0.0", salt="bad")
COMMIT: Final = CommitId("1" * 40)
PROGRAM: Final = python_program("from tests.faults.version_life import main\nmain()\n")


async def lived(versions: Path, running: str, wanted: str) -> str:
    """Live one life; return what the agent is then: ``works``, ``restarts`` or ``dies``."""
    own = Versions(versions, running, export=_exported, install=_installed)
    await own.read()
    if own.news():
        await own.told()
    seen = own.seen
    if seen.trial is not None:
        if running == BAD.name:
            return "dies"
        await own.confirm()
        await own.told()
        return "works"
    await own.steady()
    target = BAD if wanted == BAD.name else GOOD
    if running == wanted or wanted in seen.refused:
        return "works"
    if wanted not in seen.complete:
        await own.stage(target, COMMIT)
    await own.begin(wanted, within_s=600, needs_git=True)
    return "restarts"


async def _exported(_commit: CommitId, _folder: str, into: Path) -> None:
    await asyncio.to_thread(_write_listing, into)


def _write_listing(into: Path) -> None:
    into.mkdir()
    (into / "SHA256SUMS").write_bytes(b"listed")


async def _installed(order: orders.Install, _within_s: float) -> orders.Answer:
    made(Path(order.folder), PROGRAM)
    return orders.Installed(wheels=1, fetched_bytes=0)


def main() -> None:
    """Live as what the launcher started; 0: it works, 3: it is to be started again, 1: it died."""
    launched = told_by_the_launcher(os.environ)
    assert launched is not None
    came = asyncio.run(lived(*launched, os.environ["WANTED"]))
    print(f"{launched[1] or 'by hand'} {came}")
    sys.exit({"works": 0, "restarts": 3, "dies": 1}[came])


def whole(versions: Path) -> list[str]:
    """Return which of the versions that say they are complete are not."""
    found = launcher.complete(versions)
    program = PROGRAM.encode()
    return [one for one in found if (launcher.folder_of(versions, one) / "bin/metrica-agent").read_bytes() != program]
