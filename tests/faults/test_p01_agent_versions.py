"""P1 for the agent itself: wherever the power goes in a change of its version, an agent that works is started.

- what was not synced is lost: at every operation of such a change, every state is taken that a disk may then have
- killed for real at operations, with the launcher starting what is there

What systemd does between two starts is done here by a loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults import powercut
from tests.faults.board import Board, Mode
from tests.faults.powercut import states
from tests.faults.version_life import BAD, GOOD, OLD, PROGRAM, lived, whole
from tests.fixtures.agent_versions import Installed

from metrica_agent import launcher

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = int(os.environ.get("METRICA_SEED") or secrets.randbelow(1 << 32))
LIVES = 12
"""More than any way to rest takes."""
KILLS = 5


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """Two versions, the newer one at work: as after an update that went well."""
    made = Installed(tmp_path / "opt")
    made.put(launcher.BASE, PROGRAM)
    made.put(OLD.name, PROGRAM)
    launcher.write_choice(made.versions, {"steady": OLD.name, "before": ""})
    return made


def to_rest(versions: Path, wanted: str, *, boots: itertools.count[int]) -> list[str]:
    """Start what the launcher chooses until it works; return what was started. Each start is a boot of its own."""
    started: list[str] = []
    for _ in range(LIVES):
        choice, names = launcher.chosen(
            launcher.read_choice(versions), launcher.complete(versions), f"b{next(boots)}", 9
        )
        launcher.write_choice(versions, choice)
        assert whole(versions) == []
        started.append(names[0])
        if asyncio.run(lived(versions, names[0], wanted)) == "works":
            return started
    pytest.fail(f"no rest within {LIVES} starts: {started}")


def journaled(installed: Installed, board: Board, wanted: str) -> None:
    """Change the version with nothing in the way, in real processes, and have all that is done written down."""
    for _ in range(LIVES):
        board.born(Mode.JOURNAL)
        done = installed.launch("run", environment={**board.environment, "WANTED": wanted})
        if done.returncode == 0:
            return
    pytest.fail("it did not come to rest")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wanted", [GOOD.name, BAD.name], ids=["good", "bad"])
def test_every_state_that_a_power_cut_may_leave_starts_an_agent_and_comes_to_rest(
    installed: Installed, tmp_path: Path, wanted: str, say: Callable[[str], None]
) -> None:
    board, chance = Board(tmp_path / "shim", installed.root), random.Random(SEED)
    disk = powercut.Disk.read(installed.root)
    journaled(installed, board, wanted)
    seen: set[int] = set()
    boots, ends = itertools.count(), set[str]()
    for operation in board.operations():
        disk.apply(operation)
        for state in states(disk, chance, 1):
            if state.key() in seen:
                continue
            seen.add(state.key())
            again = tmp_path / "again" / str(len(seen))
            again.mkdir(parents=True)
            state.write(again)
            ends.add(to_rest(again / "versions", wanted, boots=boots)[-1])
    say(f"agent versions: {len(seen)} states after a power cut, METRICA_SEED={SEED}")
    assert ends == ({GOOD.name} if wanted == GOOD.name else {OLD.name}), f"METRICA_SEED={SEED}"
    assert len(seen) > 30


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wanted", [GOOD.name, BAD.name], ids=["good", "bad"])
def test_agents_that_are_killed_in_a_change_of_their_version_come_to_rest(
    tmp_path: Path, wanted: str, say: Callable[[str], None]
) -> None:
    chance, killed = random.Random(SEED), list[str]()
    for number in range(KILLS):
        installed = Installed(tmp_path / str(number) / "opt")
        installed.put(launcher.BASE, PROGRAM)
        installed.put(OLD.name, PROGRAM)
        launcher.write_choice(installed.versions, {"steady": OLD.name, "before": ""})
        board = Board(tmp_path / str(number) / "shim", installed.root)
        board.born(Mode.COUNT)
        board.arm(1 + 7 * number + chance.randrange(7))
        said = started_until_it_works(installed, board, wanted, killed)
        expected = GOOD.name if wanted == GOOD.name else OLD.name
        assert said == f"{expected} works\n", f"METRICA_SEED={SEED}"
        assert len(installed.there()) <= 3
    say(f"agent versions: killed at {', '.join(killed)}; METRICA_SEED={SEED}")
    assert killed


def started_until_it_works(installed: Installed, board: Board, wanted: str, killed: list[str]) -> str:
    """Start the launcher again and again, as systemd does; return what the agent says that works."""
    for _ in range(LIVES):
        done = installed.launch("run", environment={**board.environment, "WANTED": wanted})
        assert done.returncode in {0, 1, 3, -9}, done.stderr
        if board.killed:
            killed.append(board.killed_at)
            board.born(Mode.COUNT)
        if done.returncode == 0:
            return done.stdout
    pytest.fail(f"it did not come to rest, METRICA_SEED={SEED}")
