"""P5: whole agents that are cut off for thirty days, in virtual time: they work on, and all that they tell arrives."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest
from tests.faults.rollout_world import PACE, RolloutWorld, played

from metrica_sim.virtual.history import ROLES

if TYPE_CHECKING:
    from metrica_sim.virtual.machine import Machine

CAMERA, SENSOR = ROLES
DAY_S: Final = 86_400.0
DAYS: Final = 30
REPAIRED_S: Final = 3600.0
"""The founding document's bound for drift."""
CUT: Final = 1


def told(machine: Machine) -> list[tuple[str, str]]:
    """Return kind and message of every event that the device has written down, in order."""
    return [rows[seq] for rows in machine.witness.events.values() for seq in sorted(rows)]


def arrived(world: RolloutWorld, machine: Machine) -> list[tuple[str, str]]:
    """Return the same of what the hub has."""
    has = world.hub.events_of(machine.id)
    streams = [has.get(stream, {}) for stream in machine.witness.events]
    return [(rows[seq].kind, rows[seq].message) for rows in streams for seq in sorted(rows)]


def runs(machine: Machine) -> bool:
    return machine.witness.unrest() is None


@pytest.mark.long
@pytest.mark.timeout(900)
def test_agents_that_are_cut_off_for_thirty_days_work_on_and_tell_all_of_it_once(say: Callable[[str], None]) -> None:
    """At a simulated world's intervals, and the outbox's default bound; one loses its power every seventh day."""
    began_s = time.monotonic()
    beats: list[int] = []
    events: list[int] = []

    async def scene(world: RolloutWorld) -> None:
        steady, unlucky = world.machines
        await world.until(lambda: all(arrived(world, one) == told(one) for one in world.machines), 3600)
        stored = {one.id: len(arrived(world, one)) for one in world.machines}
        heartbeats = world.hub.database.heartbeats
        cut_s = world.now_s
        for machine in world.machines:
            machine.begin("cut", CUT)
        missed = world.operators.push_good()
        for day in range(1, DAYS + 1):
            await world.go_on_for(cut_s + (day - 0.5) * DAY_S - world.now_s)
            before = Counter(kind for kind, _ in told(steady))
            for machine in world.machines:
                assert runs(machine), f"day {day}: {machine.witness.unrest()}"
                _tamper(machine, day)
            if day % 7 == 0:
                unlucky.cut_power(600.0)
                await world.go_on_for(700.0)
            await world.until(lambda: all(runs(one) for one in world.machines), REPAIRED_S)
            await world.go_on_for(cut_s + day * DAY_S - world.now_s)
            for machine in world.machines:
                assert runs(machine), f"day {day}: {machine.witness.unrest()}"
            repaired = Counter(kind for kind, _ in told(steady)) - before
            assert repaired["drift.repaired"] == 1, (day, repaired)
        assert world.confirmed(missed) == set()
        assert {one.id: len(arrived(world, one)) for one in world.machines} == stored
        assert world.hub.database.heartbeats == heartbeats

        for machine in world.machines:
            machine.end("cut", CUT)
        await world.until(lambda: len(world.confirmed(missed)) == len(world.machines), 3600)
        await world.until(lambda: all(arrived(world, one) == told(one) for one in world.machines), 3600)
        assert world.hub.database.twice == []
        kinds = Counter(kind for kind, _ in arrived(world, steady))
        assert kinds["network.lost"] == kinds["network.back"] == 1
        assert kinds["drift.repaired"] == DAYS, kinds
        assert kinds["outbox.thinned"] == 0, kinds
        for machine in world.machines:
            assert not [kind for kind, _ in told(machine) if kind.startswith("rollback") or kind.endswith("refused")]
        beats.append(world.hub.database.heartbeats - heartbeats)
        assert beats[0] >= 0.98 * len(world.machines) * DAYS * DAY_S / PACE.heartbeat_s
        events.extend(len(told(one)) for one in world.machines)

    played({"pi-000": CAMERA, "pi-001": SENSOR}, "", scene)
    say(
        f"thirty days cut off: {beats[0]} heartbeats and {sum(events)} events of two devices arrived,"
        f" {time.monotonic() - began_s:.0f} s"
    )


def _tamper(machine: Machine, day: int) -> None:
    """Let somebody do something that the device has to set right: another thing each day."""
    machine.trouble()
    match day % 3:
        case 0:
            machine.engine.stop("web")
        case 1:
            machine.engine.kill("recorder")
        case _:
            machine.engine.intrude(f"stranger-{day}")
