"""P11, step by step: a stop meets each operation of a deployment, and each ends at a confirmed release. Virtual time.

The agent is the real one, with its ledger, releases and staging; an operation is whatever it does to its disk, its
engine, Git or the bus. The stop is published when the agent is about to do it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from msgspec.structs import replace
from tests.faults.rollout_world import PACE, RolloutWorld, played

from metrica_fleet.retry import spread
from metrica_fleet.stop import Level
from metrica_sim.virtual.history import ILLS, ROLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_agent.decisions.world import Memory
    from metrica_sim.virtual.history import Commit
    from metrica_sim.virtual.machine import Machine

CAMERA: Final = ROLES[0]
AT_ONCE: Final = """
[rollout]
prefetch_s = 0
[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""
BEGINS: Final = "git:fetch"
STEPS: Final = {BEGINS, "git:read", "git:export", "engine:resolve", "disk:stage:rename", "engine", "engine:brought"}
"""Of what is met at the least: from the fetch to the look at what runs."""
BESIDE: Final = ("bus:", "spool:", "thread:end")
"""Goes on beside a deployment, or is the end of what was met already."""
PATIENCE_S: Final = 1800.0
LOOKED_S: Final = 2.0
"""The world is looked at each second, and the fetch takes its time."""


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ill", [None, "dies-in-soak"], ids=str)
@pytest.mark.parametrize("level", Level)
def test_a_stop_at_any_operation_of_a_deployment_ends_at_a_confirmed_release(
    level: Level, ill: str | None, say: Callable[[str], None]
) -> None:
    met: list[str] = []
    moments: list[Moment] = []

    async def scene(world: RolloutWorld) -> None:
        moments.extend(await undisturbed(world, ill))
        met.extend([moment[0] for moment in moments if await stopped_at(world, level, ill, moment)])

    played({"pi-000": CAMERA}, AT_ONCE, scene, pace=replace(PACE, poll_s=20.0))
    what = "a good commit" if ill is None else f"a commit that {ill.replace('-', ' ')}"
    say(f"{level} at {len(met)} of the {len(moments)} operations by which {what} comes to its end")
    assert set(met) >= STEPS, sorted(STEPS - set(met))
    assert len(met) > 0.8 * len(moments), "what a stop is to meet is not met"


@pytest.mark.parametrize("usable", [True, False], ids=["good", "unusable"])
def test_a_stop_in_git_is_obeyed_within_one_poll_while_the_broker_is_down(
    *, usable: bool, say: Callable[[str], None]
) -> None:
    poll_s, took_s = 60.0, list[float]()

    async def scene(world: RolloutWorld) -> None:
        (machine,) = world.machines
        world.hub.broker.stop()
        for number in range(20):
            await world.go_on_for(poll_s + 7.0 * number)  # at another moment between two polls each time
            world.operators.push_stop('level = "halt"\n', usable=usable)
            took_s.append(await world.until(lambda: is_stopped(machine, Level.HALT), PATIENCE_S))
            await world.until(lambda: not running(machine), 60.0)
            world.operators.push_stop(None)
            await world.until(lambda: is_stopped(machine, None) and machine.witness.unrest() is None, PATIENCE_S)

    played({"pi-000": CAMERA}, AT_ONCE, scene, pace=replace(PACE, poll_s=poll_s))
    say(f"STOP in a commit, polls {poll_s:g} s apart: obeyed after {min(took_s):.0f} to {max(took_s):.0f} s")
    assert max(took_s) <= spread(poll_s, 1.0) + LOOKED_S


Moment = tuple[str, int]
"""The operation of that name, for the so manieth time in a deployment."""


class Seen:
    """What an agent does from the fetch of a commit on."""

    def __init__(self, wanted: Moment | None = None, do: Callable[[], object] = lambda: None) -> None:
        """``do`` is called at the moment that is wanted."""
        self.moments: list[Moment] = []
        self._counts: Counter[str] = Counter()
        self._wanted = wanted
        self._do = do

    def is_enough(self, operation: str) -> bool:
        if operation.startswith(BESIDE) or not (self.moments or operation == BEGINS):
            return False
        self._counts[operation] += 1
        self.moments.append((operation, self._counts[operation]))
        if self.moments[-1] == self._wanted:
            asyncio.get_running_loop().call_soon(self._do)
        return self.is_met

    @property
    def is_met(self) -> bool:
        return self._wanted in self.moments


def pushed(world: RolloutWorld, ill: str | None) -> Commit:
    return world.operators.push_good() if ill is None else world.operators.push_bad(CAMERA, ILLS.index(ill))


async def undisturbed(world: RolloutWorld, ill: str | None) -> list[Moment]:
    """Return every moment of a deployment that nobody stops."""
    (machine,), seen = world.machines, Seen()
    commit = pushed(world, ill)
    machine.watch(seen.is_enough)
    await world.until(lambda: has_ended(machine, commit), PATIENCE_S)
    return seen.moments


async def stopped_at(world: RolloutWorld, level: Level, ill: str | None, moment: Moment) -> bool:
    """Push, stop everything at that moment, then let it go on; return whether the moment came."""
    (machine,) = world.machines
    before = machine.memory()
    seen = Seen(moment, lambda: world.stops.stop(level, "fleet"))
    commit = pushed(world, ill)
    machine.watch(seen.is_enough)
    await world.until(lambda: seen.is_met or has_ended(machine, commit), PATIENCE_S)
    if not seen.is_met:
        return False
    await world.until(lambda: is_done(machine.memory(), world.stops.number), PATIENCE_S)
    stands(machine, level, before, commit)
    world.stops.resume("fleet")
    await world.until(lambda: has_ended(machine, commit), PATIENCE_S)
    after = machine.memory()
    assert after.confirmed is not None
    assert after.confirmed.commit == commit.id if ill is None else after.confirmed == before.confirmed
    return True


def is_stopped(machine: Machine, level: Level | None) -> bool:
    """Whether the device obeys a stop in Git of that level; ``None``: it obeys none."""
    stop = machine.memory().stop
    obeyed = stop.obeyed if stop is not None else None
    if level is None:
        return obeyed is None
    return obeyed is not None and (obeyed.source, obeyed.stop.level) == ("git", level)


def running(machine: Machine) -> list[str]:
    """Return the services that run."""
    return [life.service for life in machine.engine.lives() if life.state.value != "exited"]


def is_done(memory: Memory, number: int) -> bool:
    """Whether the order is obeyed, and nothing is in motion any more."""
    return memory.stop is not None and memory.stop.number == number and memory.stop.done and memory.trial is None


def has_ended(machine: Machine, commit: Commit) -> bool:
    """Whether the device has come to an end with ``commit``, well or not, and runs what it should."""
    memory = machine.memory()
    judged = memory.refusal_of(commit.id) is not None or (
        memory.confirmed is not None and memory.confirmed.commit == commit.id
    )
    return judged and memory.trial is None and machine.witness.unrest() is None


def stands(machine: Machine, level: Level, before: Memory, commit: Commit) -> None:
    """Under the stop the device stands on a release that was confirmed, and runs what the level leaves it."""
    after = machine.memory()
    assert after.confirmed is not None
    assert after.confirmed == before.confirmed or after.confirmed.commit == commit.id
    assert machine.current() == after.standing
    match level:
        case Level.HALT:
            assert (running(machine), after.standing) == ([], after.confirmed.release)
        case Level.SAFE:
            assert after.safe is not None
            assert machine.witness.unrest() is None
        case Level.FREEZE:
            assert after.standing == after.confirmed.release
            assert machine.witness.unrest() is None
