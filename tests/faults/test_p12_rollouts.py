"""P12: past a stage's limit no further device starts the commit, whatever the hub does next. In virtual time."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import floor

import pytest
from tests.faults.rollout_world import RolloutWorld, played

from metrica_fleet.gate import EVERYBODY, bucket
from metrica_fleet.identity import CommitId, DeviceId
from metrica_sim.virtual.history import ROLES

CAMERA, SENSOR = ROLES
STAGES = """
[rollout]
failure_share = {share}
deadline_s = 600
waiting_s = 3600
prefetch_s = 60
hub_silent = "{silent}"
hub_silent_s = 900
[[rollout.stages]]
name = "canary"
devices = ["pi-000"]
soak_s = 30
[[rollout.stages]]
name = "tenth"
share = 0.1
soak_s = 60
[[rollout.stages]]
name = "half"
share = 0.5
soak_s = 120
[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 60
"""
HOLD, GO_ON = (STAGES.format(share=0.03, silent=silent) for silent in ("hold", "go-on"))
FEW = {f"pi-{number:03}": CAMERA for number in range(8)}


def sensors(devices: int) -> dict[str, str]:
    """Return a fleet of which one device in twenty is a sensor."""
    return {f"pi-{number:03}": SENSOR if number % 20 == 7 else CAMERA for number in range(devices)}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_commit_that_breaks_5_percent_of_500_devices_halts_where_the_limit_says(say: Callable[[str], None]) -> None:
    roles = sensors(500)
    broken = {DeviceId(name) for name, role in roles.items() if role == SENSOR}
    told: list[str] = []

    async def scene(world: RolloutWorld) -> None:
        world.operators.push_good()
        commit = world.operators.push_bad(SENSOR, 12)  # it dies in its soak
        await world.until(lambda: commit.id in world.rollouts.all, 120)
        plan = world.rollout(commit).plan
        halts_at = next(
            at
            for at, stage in enumerate(plan.stages)
            if len(broken & set(stage.members)) > floor(0.03 * len(stage.members))
        )
        for _ in range(30):
            if world.rollouts.has_stopped(commit.id):
                break
            await world.go_on_for(90.0)
            world.hub.kill()
            world.hub.start()
        await world.until(lambda: world.rollouts.has_stopped(commit.id), 3600)
        halted_s = world.now_s
        course = world.rollout(commit).course
        assert (course.state, course.stage) == ("halted", halts_at)
        world.hub.kill()
        world.hub.broker.stop()
        world.hub.broker.start(wiped=True)
        await world.go_on_for(600.0)
        started = world.started(commit)
        opened = {device for stage in plan.stages[: halts_at + 1] for device in stage.members}
        assert set(started) <= opened
        assert max(started.values()) <= halted_s
        failed = len(broken & set(started))
        told.append(
            f'halted in stage "{plan.stages[halts_at].name}" after {halted_s:.0f} s: {len(started)} of 500 had started,'
            f" {failed} of them failed, {len(opened)} were let in"
        )

    began_s = time.process_time()
    played(roles, HOLD, scene, new=True)
    say(f"500 devices, a commit that breaks 25: {told[0]}; {time.process_time() - began_s:.0f} s of one core")


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", [HOLD, GO_ON], ids=["hold", "go-on"])
def test_with_the_hub_dead_from_the_start_500_devices_meet_a_commit_that_breaks_5_percent(
    policy: str, say: Callable[[str], None]
) -> None:
    """Nobody counts failures then: held, nobody begins; going on by time, whom it breaks goes back by itself."""
    roles = sensors(500)
    broken = {DeviceId(name) for name, role in roles.items() if role == SENSOR}
    told: list[str] = []

    async def scene(world: RolloutWorld) -> None:
        first, everybody = world.operators.head, set(map(DeviceId, roles))
        world.operators.push_good()
        commit, pushed_s = world.operators.push_bad(SENSOR, 12), world.now_s  # it dies in its soak
        if policy == HOLD:
            await world.go_on_for(3600)
            assert world.started(commit) == {}
            assert world.confirmed(first) == everybody
            told.append("held, nobody has begun after an hour")
            return
        await world.until(lambda: world.confirmed(commit) == everybody - broken, 3 * 3600)
        await world.until(lambda: all(machine.witness.unrest() is None for machine in world.machines), 1800)
        started = world.started(commit)
        assert set(started) == everybody
        assert world.confirmed(first) == broken
        assert all(started[device] >= pushed_s + opens_s(commit.id, device) for device in everybody)
        last_s = max(started.values()) - pushed_s
        told.append(f"by time, the last began after {last_s:.0f} s: {len(everybody - broken)} run it, 25 went back")

    began_s = time.process_time()
    played(roles, policy, scene, hub_is_dead=True)
    took_s = time.process_time() - began_s
    say(f"the hub dead from the start, a commit that breaks 25 of 500: {told[0]}; {took_s:.0f} s of one core")


def opens_s(commit: CommitId, device: DeviceId) -> float:
    """Return after how long a silence the policy lets a device begin, where nobody has counted the fleet."""
    if device == "pi-000":
        return 900
    place = bucket(commit, device) / EVERYBODY
    return 900 + 30 + (0 if place < 0.1 else 60 if place < 0.5 else 60 + 120)


def test_with_the_hub_dead_from_the_start_a_fleet_that_is_to_hold_waits_and_says_so() -> None:
    async def scene(world: RolloutWorld) -> None:
        commit = world.operators.push_good()
        await world.go_on_for(4 * 3600)
        assert world.started(commit) == {}
        status = world.status(DeviceId("pi-000"))
        assert (status.wanted_commit, status.reason, status.mode) == (commit.id, "hub-silent", "steady")

    played(FEW, HOLD, scene, hub_is_dead=True)


def test_with_the_hub_dead_from_the_start_a_fleet_that_is_to_go_on_opens_its_stages_by_time() -> None:
    async def scene(world: RolloutWorld) -> None:
        commit = world.operators.push_good()
        pushed_s = world.now_s
        await world.until(lambda: len(world.confirmed(commit)) == len(FEW), 3 * 3600)
        started = world.started(commit)
        assert min(started.values()) >= pushed_s + 900
        others = [at_s for device, at_s in started.items() if device != "pi-000"]
        assert min(others) > pushed_s + 900 + 30, "the canary has its soak"
        assert max(started.values()) < pushed_s + 600 + 900 + 30 + 60 + 120 + 600

    played(FEW, GO_ON, scene, hub_is_dead=True)


def test_a_hub_that_dies_in_between_is_gone_on_without_and_a_halt_that_was_heard_is_not() -> None:
    async def scene(world: RolloutWorld) -> None:
        commit = world.operators.push_good()
        await world.until(lambda: commit.id in world.rollouts.all and world.rollout(commit).course.stage == 1, 3600)
        world.hub.kill()
        killed_s = world.now_s
        await world.until(lambda: len(world.confirmed(commit)) == len(FEW), 3 * 3600)
        assert max(world.started(commit).values()) > killed_s + 600
        world.hub.start()
        bad = world.operators.push_bad(CAMERA, 12)
        await world.until(lambda: world.rollouts.has_stopped(bad.id), 3600)
        await world.go_on_for(60.0)
        world.hub.kill()
        await world.go_on_for(3 * 3600)
        assert set(world.started(bad)) == {"pi-000"}
        assert world.status(DeviceId("pi-001")).reason == "rollout-halted"

    played(FEW, GO_ON, scene)


def test_an_abort_takes_back_who_runs_the_commit_where_it_says_so() -> None:
    async def scene(world: RolloutWorld) -> None:
        first = world.operators.head
        commit = world.operators.push_good()
        await world.until(lambda: len(world.confirmed(commit)) >= 2, 3600)
        world.rollouts.say_abort("it leaks", revert=True)
        await world.until(lambda: world.confirmed(first) == {machine.id for machine in world.machines}, 1800)
        await world.until(lambda: all(machine.witness.unrest() is None for machine in world.machines), 900)
        assert all(machine.memory().refusal_of(commit.id) is not None for machine in world.machines)
        assert world.status(DeviceId("pi-000")).reason == "rollout-aborted"
        third = world.operators.push_good()
        await world.until(lambda: len(world.confirmed(third)) == len(FEW), 3 * 3600)

    played(FEW, HOLD, scene)


def test_forged_gates_change_nothing_and_are_told_once() -> None:
    async def scene(world: RolloutWorld) -> None:
        await world.until(lambda: world.hub.broker.up, 10)
        commit = world.operators.push_bad(CAMERA, 12)
        await world.until(lambda: world.rollouts.has_stopped(commit.id), 3600)
        world.hub.kill()
        for gate, by in [*world.rollouts.forgeries(), *world.rollouts.forgeries()]:
            world.rollouts.publish(gate, by)
            await world.go_on_for(30.0)
        await world.go_on_for(1800.0)
        assert set(world.started(commit)) == {"pi-000"}
        rows = [row for events in world.machines[3].witness.events.values() for row in events.values()]
        assert [kind for kind, _ in rows].count("gate.refused") == 3

    played(FEW, HOLD, scene)
