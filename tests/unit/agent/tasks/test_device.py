"""A whole device in virtual time: each of its loops says by when it is back, and is back by then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tests.faults import machine
from tests.faults.commits import Commits
from tests.faults.replay import files

from metrica_agent.decisions.guarding import SLACK_S, START_S

if TYPE_CHECKING:
    from pathlib import Path

LIVED_S: Final = 2 * (START_S + SLACK_S)
"""Long enough for a pulse that no loop ever beats to be found."""


class Beside:
    """Stands where the watchman does, and notes whom he would end the agent for."""

    def __init__(self) -> None:
        self.beats = 0
        self.late = set[str]()

    def beat(self, within_s: float, late: tuple[str, ...] = ()) -> None:
        """Note it."""
        del within_s
        self.beats += 1
        self.late |= set(late)

    def tell(self, status: str) -> None:
        """Nobody reads it."""


def test_every_loop_of_a_device_beats_the_pulse_that_it_is_watched_by(tmp_path: Path) -> None:
    commits, watchman = Commits(tmp_path / "fleet.git"), Beside()
    commits.push(files("one"))

    began_s = list[float]()

    def lived(_: machine.Look) -> bool:
        began_s.append(asyncio.get_running_loop().time())
        return began_s[-1] - began_s[0] > LIVED_S

    life = machine.live(tmp_path / "machine", commits.path, "boot-1", until=lived, watchman=watchman)
    assert life.rested
    assert watchman.beats > 1
    assert watchman.late == set()
