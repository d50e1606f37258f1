"""Rollouts in a real Postgres."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.database import Cluster, Database

from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.rollout import Course, DeviceState, planned
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.rollouts import KEPT_DEVICES, Rollouts
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.decisions.outcome import CONFIRMED, STARTED, Outcome
from metrica_hub.decisions.progress import Devices, Progress
from metrica_hub.decisions.reading import Reading
from metrica_hub.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.decisions.progress import Rollout

MAIN = "main"
FLEET = {DeviceId(f"pi-{number:02d}"): () for number in range(8)}
POLICY = RolloutPolicy(
    stages=(RolloutStage(name="some", share=0.25, soak_s=0), RolloutStage(name="all", share=1.0, soak_s=0))
)
READING = Reading(fleet="home", devices=FLEET, policy=POLICY, signers="hub ssh-ed25519 AAAA\n")


def commit(number: int) -> CommitId:
    return CommitId(f"{number:040x}")


@asynccontextmanager
async def opened(database: Database) -> AsyncGenerator[Pool]:
    await migrate(database.url)
    pool = await open_pool(database.url, name="test", size=2)
    try:
        yield pool
    finally:
        await close_pool(pool, within_s=5)


async def met(pool: Pool, number: int, reading: Reading = READING) -> Rollout | None:
    """Have the branch be at a commit, and that one read."""
    await Writer(pool).put_head(MAIN, commit(number))
    plan = None if reading.policy is None else planned(reading.policy, commit(number), reading.devices)
    return await Rollouts(pool).met(MAIN, commit(number), reading, plan)


async def begun(pool: Pool, number: int) -> Rollout:
    rollout = await met(pool, number)
    assert rollout is not None
    return rollout


def stays(course: Course, now_s: float) -> Progress:
    del now_s
    return Progress(course, (), None)


async def test_a_newer_commit_supersedes_and_numbers_only_grow(database: Database, cluster: Cluster) -> None:
    async with opened(database) as pool:
        store, now_s = Rollouts(pool), int(time.time())
        first = await begun(pool, 1)
        assert (first.previous, first.course.stage, first.course.state) == (None, -1, "open")
        assert first.number >= now_s
        assert await store.unread(MAIN) is None
        second = await begun(pool, 2)
        assert (second.previous, second.id) == (commit(1), first.id + 1)
        old = await store.rollout(first.id)
        assert old is not None
        assert (old.course.state, old.ended_at is not None) == ("superseded", True)
        assert first.number < old.number < second.number

        ahead = now_s + 1_000_000_000
        cluster.execute(f"UPDATE rollouts SET number = {ahead} WHERE id = {second.id}", database.name)  # noqa: S608 - numbers
        assert (await begun(pool, 3)).number == ahead + 2  # the one before was ended by a number of its own


async def test_what_can_not_be_used_or_is_old_changes_no_rollout(database: Database) -> None:
    async with opened(database) as pool:
        store = Rollouts(pool)
        first = await begun(pool, 1)
        assert await store.met(MAIN, commit(1), READING, planned(POLICY, commit(1), FLEET)) is None
        await Writer(pool).put_head(MAIN, commit(3))
        assert await store.unread(MAIN) == commit(3)
        assert await store.met(MAIN, commit(2), READING, planned(POLICY, commit(2), FLEET)) is None
        assert await met(pool, 4, Reading(problems=("fleet.toml: no",), signers="x")) is None
        assert await store.newest() == first
        found = await store.head(MAIN)
        assert found is not None
        assert (found[0].read_commit, found[0].problems, found[1]) == (commit(4), ("fleet.toml: no",), "x")

        assert await met(pool, 5, Reading(fleet="home", devices=FLEET)) is None
        newest = await store.newest()
        assert newest is not None
        assert (newest.commit, newest.course.state) == (commit(1), "superseded")


async def test_a_hub_that_was_left_behind_decides_nothing_about_another_rollout(database: Database) -> None:
    async with opened(database) as pool:
        store = Rollouts(pool)
        first, second = await begun(pool, 1), await begun(pool, 2)

        def never(course: Course, now_s: float) -> Progress:
            raise AssertionError((course, now_s))

        assert await store.move_on(first, {DeviceId("pi-00"): STARTED}, never) == second
        devices = Devices(second, await store.entries(second.id))
        after = await store.move_on(second, {}, lambda course, now_s: devices.moved_on(course, now_s, listens=True))
        assert (after.course.stage, after.number > second.number) == (0, True)
        assert after.stages[0].counts.waiting == 2
        assert await store.move_on(second, {}, lambda c, _: Progress(c, (after.stages[0].counts,) * 2, 1.0)) != second


async def test_what_became_of_devices_is_kept_with_the_time_when_it_began(database: Database) -> None:
    async with opened(database) as pool:
        store = Rollouts(pool)
        rollout = await begun(pool, 1)
        device, counts = DeviceId("pi-00"), tuple(stage.counts for stage in rollout.stages)

        async def becomes(now: Outcome) -> tuple[Outcome, float]:
            await store.move_on(rollout, {device: now}, lambda course, _: Progress(course, counts, None))
            (entry,) = [one for one in await store.entries(rollout.id) if one.device == device]
            return entry.outcome, entry.since_s

        _, began_s = await becomes(STARTED)
        assert await becomes(STARTED) == (STARTED, began_s)
        outcome, since_s = await becomes(CONFIRMED)
        assert (outcome, since_s > began_s) == (CONFIRMED, True)
        refused = Outcome(state=DeviceState.REFUSED, reason="died", message="web died")
        await becomes(refused)
        detail = await store.detail(rollout)
        assert [(one.reason, one.devices, one.example, one.message) for one in detail.failures] == [
            ("died", 1, device, "web died")
        ]
        assert sum(one.devices for one in detail.waits) == len(FLEET) - 1
        listed = await store.devices(rollout, state="waiting", stage=None, after="pi-03", limit=3)
        assert [one.device for one in listed] == ["pi-04", "pi-05", "pi-06"]
        assert [one.device for one in await store.devices(rollout, state="refused", stage=None, after="", limit=9)] == [
            device
        ]


async def test_a_word_that_is_refused_changes_nothing(database: Database) -> None:
    async with opened(database) as pool:
        store = Rollouts(pool)
        rollout = await begun(pool, 1)

        def refuses(*_: object) -> Course:
            raise Conflict("no")

        with pytest.raises(Conflict):
            await store.steer(rollout.id, refuses)
        assert await store.rollout(rollout.id) == rollout
        assert await store.steer(rollout.id + 1, refuses) is None


async def test_of_old_rollouts_the_devices_are_forgotten_and_the_counts_stay(database: Database) -> None:
    async with opened(database) as pool:
        store = Rollouts(pool)
        first = await begun(pool, 1)
        for number in range(2, KEPT_DEVICES + 2):
            await met(pool, number)
        assert await store.entries(first.id) == []
        assert len(await store.entries(first.id + 1)) == len(FLEET)
        kept = await store.rollout(first.id)
        assert kept is not None
        assert kept.stages[0].counts.waiting == 2
        assert len(await store.rollouts(before=2**62, limit=1000)) == KEPT_DEVICES + 1
