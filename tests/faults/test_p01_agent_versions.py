"""P1 for the agent itself: wherever the power goes in a change of its version, an agent that works is started.

- what was not synced is lost: at every operation of such a change, every state is taken that a disk may then have
- killed for real at operations, with the launcher starting what is there
- killed for real at any moment of a real installation, in which pip writes what no shim sees

What systemd does between two starts is done here by a loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.faults import powercut
from tests.faults.board import Board, Mode
from tests.faults.powercut import states
from tests.faults.version_life import BAD, GOOD, OLD, PROGRAM, lived, whole
from tests.fixtures import wheels
from tests.fixtures.agent import until
from tests.fixtures.agent_versions import Installed

from metrica_agent import launcher
from metrica_agent.adapters import versions as adapter
from metrica_agent.adapters.versions import Versions, installing
from metrica_fleet.agent_versions import LISTING, AgentVersion, read_listing
from metrica_fleet.identity import CommitId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SEED = int(os.environ.get("METRICA_SEED") or secrets.randbelow(1 << 32))
LIVES = 12
"""More than any way to rest takes."""
KILLS = 5
MOMENTS = 12
COMMIT = CommitId("1" * 40)


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


@pytest.mark.long
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


@pytest.mark.long
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


class Device:
    """A device with an agent that was installed by hand, whose commit wants another; its wheels are real."""

    def __init__(self, root: Path, program: str) -> None:
        self.installed = Installed(root / "opt")
        self.installed.put(launcher.BASE, "#!/bin/sh\necho by hand\n")
        self._repository = root / "wheels"
        wheels.tiny(self._repository, "9.9.9", program)
        listed = read_listing("9.9.9", (self._repository / LISTING).read_bytes(), [])
        self.wanted = AgentVersion(version="9.9.9", wheels=listed)

    def start(self, *, then: Callable[[Versions], Awaitable[None]] | None = None) -> int:
        """Start an agent, in a process of its own, that installs what is wanted; return its number."""
        agent = os.fork()
        if agent:
            return agent
        try:
            asyncio.run(self._live(then))
            os._exit(0)
        finally:
            os._exit(1)

    async def _live(self, then: Callable[[Versions], Awaitable[None]] | None) -> None:
        own = Versions(self.installed.versions, launcher.BASE, export=self._export)
        await own.read()
        await own.stage(self.wanted, COMMIT)
        if then is not None:
            await then(own)

    async def _export(self, _commit: CommitId, _folder: str, into: Path) -> None:
        shutil.copytree(self._repository, into)

    def says(self) -> str:
        """Return which number the installed version says that it has."""
        program = self.installed.versions / self.wanted.name / "bin/metrica-agent"
        return subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout

    def at_work(self) -> list[str]:
        """Return what still runs of an installation."""
        there, mine = str(self.installed.versions), os.getpid()
        found = [one.info for one in psutil.process_iter(["pid", "cmdline"]) if one.pid != mine]
        return [" ".join(one["cmdline"]) for one in found if there in " ".join(one["cmdline"] or ())]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_agent_that_is_killed_at_any_moment_of_a_real_installation_leaves_one_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[[str], None]
) -> None:
    device, chance = Device(tmp_path, "def main():\n    print('metrica-agent 9.9.9')\n"), random.Random(SEED)
    versions, new = device.installed.versions, device.wanted.name
    pip = installing._pip(tmp_path / "pip")  # pyright: ignore[reportPrivateUsage] - unpacked and compiled once, for all
    birth = (
        f"; from metrica_agent.adapters.versions import installing; installing._pip = lambda _: {str(pip)!r}; main()"
    )
    monkeypatch.setattr(adapter, "_BIRTH", adapter._BIRTH.replace("; main()", birth))  # pyright: ignore[reportPrivateUsage]
    began_s = time.monotonic()
    assert os.waitpid(device.start(), 0)[1] == 0
    whole_s = time.monotonic() - began_s
    shutil.rmtree(versions / new)

    killed, left = 0, set[str]()
    for _ in range(2 * MOMENTS):
        agent, at_s = device.start(), whole_s * chance.random()
        time.sleep(at_s)  # a moment of chance, not one that anything waits for
        os.kill(agent, signal.SIGKILL)
        os.waitpid(agent, 0)
        until(lambda: not device.at_work(), within_s=10, what="what an agent started that was killed goes on")
        left |= {one.relative_to(versions / new).as_posix() for one in (versions / new).rglob("*")}
        assert device.installed.launch("run").stdout == "by hand\n", f"METRICA_SEED={SEED}"
        if new in launcher.complete(versions):
            assert device.says() == "metrica-agent 9.9.9\n", f"METRICA_SEED={SEED}"
            shutil.rmtree(versions / new)
            whole_s = at_s  # the first had pip compiled, too
        else:
            killed += 1
        if killed == MOMENTS:
            break

    assert os.waitpid(device.start(then=lambda own: own.begin(new, within_s=60, needs_git=True)), 0)[1] == 0
    assert device.installed.launch("run").stdout == "metrica-agent 9.9.9\n", f"METRICA_SEED={SEED}"
    assert device.installed.there() == {new}
    say(f"agent versions: killed at {killed} moments of an installation of {whole_s:.1f} s, METRICA_SEED={SEED}")
    assert killed == MOMENTS
    assert left, "no kill found a venv half made"


def test_what_an_agent_had_started_to_install_ends_with_it(tmp_path: Path) -> None:
    device = Device(tmp_path, "import time\ndef main():\n    time.sleep(600)\n")
    agent = device.start()
    until(lambda: any("--version" in one for one in device.at_work()), what="it was not asked for its number")
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    until(lambda: not device.at_work(), within_s=10, what=lambda: f"still at work: {device.at_work()}")
