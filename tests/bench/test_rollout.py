"""What the rollout of ten thousand devices costs the hub that leads: at each look, and when devices have news."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

from tests.fixtures.git_servers import repository
from tests.integration.hub.test_rollouts import fleet_of, newest, read, rolling_out, state_of
from tests.integration.hub.waiting import until

from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.rollout import planned
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.rollouts import Rollouts
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.decisions.progress import Devices
from metrica_hub.decisions.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tests.bench.figures import Table
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database

    from metrica_fleet.rollout import Course
    from metrica_hub.decisions.outcome import Outcome
    from metrica_hub.decisions.progress import Progress

DEVICES: Final = int(os.environ.get("METRICA_BENCH_DEVICES", "10000"))
COMMIT: Final = CommitId("b" * 40)
NAMES: Final = tuple(DeviceId(f"pi-{number:05d}") for number in range(DEVICES))
POLICY: Final = RolloutPolicy(
    stages=(
        RolloutStage(name="tenth", share=0.1),
        RolloutStage(name="half", share=0.5),
        RolloutStage(name="all", share=1),
    )
)
TIMES: Final = 15
BEATING: Final = DEVICES // 60
"""Heartbeats of a second, at one a minute."""

FILL: Final = """
INSERT INTO devices (device, last_seen_at, presence, mode, commit, release, wanted_commit, phase, reason)
SELECT 'pi-' || lpad(n::text, 5, '0'), now(), 'online', 'steady', repeat('a', 40), repeat('1', 64), repeat('b', 40),
       'pending', 'gate-closed'
FROM generate_series(0, {} - 1) AS n
"""
BEAT: Final = """
UPDATE devices SET change = nextval('device_changes')
WHERE device IN (SELECT device FROM devices ORDER BY device LIMIT {})
"""
TRY: Final = """
UPDATE devices SET phase = 'trial', mode = 'trial', change = nextval('device_changes')
WHERE device IN (SELECT device FROM devices WHERE phase = 'pending' ORDER BY device LIMIT 100)
"""


class Leader:
    """What ``tasks.rollout`` does at a look, without the bus."""

    def __init__(self, store: Rollouts) -> None:
        self.store = store
        self.devices: Devices | None = None

    async def look(self, *, count: bool) -> None:
        """Take in the news; ``count``: whatever there is, move the rollout on."""
        rollout = await self.store.newest()
        assert rollout is not None
        if self.devices is None:
            self.devices = Devices(rollout, await self.store.entries(rollout.id))
        devices = self.devices
        news: dict[DeviceId, Outcome] = {}
        while moved := await self.store.moved(after=devices.cursor, limit=2000):
            devices.heard(moved, news)

        def decide(course: Course, now_s: float) -> Progress:
            devices.written(news, now_s)
            return devices.moved_on(course, now_s, listens=True)

        if news or count:
            await self.store.move_on(rollout, news, decide)


def test_a_rollout_of_ten_thousand_devices(cluster: Cluster, database: Database, table: Table) -> None:
    """Print what each part costs, in milliseconds of the machine."""
    asyncio.run(migrated(database))
    cluster.execute(FILL.format(DEVICES), database.name)

    def sql(statement: str) -> None:
        cluster.execute(statement, database.name)

    asyncio.run(measured(database, sql, table))


async def migrated(database: Database) -> None:
    await migrate(database.url)


async def measured(database: Database, sql: Callable[[str], None], table: Table) -> None:
    pool = await open_pool(database.url, name="bench", size=2)
    store = Rollouts(pool)
    leader = Leader(store)
    tags: dict[DeviceId, tuple[str, ...]] = dict.fromkeys(NAMES, ())
    began_s = time.perf_counter()
    plan = planned(POLICY, COMMIT, tags)
    table.row("who is in which stage", f"{1000 * (time.perf_counter() - began_s):.0f} ms, once")
    await Writer(pool).put_head("main", COMMIT)
    reading = Reading(fleet="home", devices=tags, policy=POLICY)
    table.row("begun", f"{await timed(store.met('main', COMMIT, reading, plan)):.0f} ms, once")
    table.row("first look, all that is known is read", f"{await timed(leader.look(count=True)):.0f} ms")

    async def spread(name: str, before: str | None, *, count: bool) -> None:
        taken: list[float] = []
        for _ in range(TIMES):
            if before is not None:
                await asyncio.to_thread(sql, before)
            taken.append(await timed(leader.look(count=count)))
        table.spread(name, taken, "ms", 1)

    await spread("look, nothing is new", None, count=False)
    await spread(f"look, {BEATING} devices were heard", BEAT.format(BEATING), count=False)
    await spread("look, 100 devices began", TRY, count=False)
    await spread("look, time may change it", None, count=True)
    rollout = await store.newest()
    assert rollout is not None
    table.spread("one rollout for the API", [await timed(store.detail(rollout)) for _ in range(TIMES)], "ms", 1)
    await close_pool(pool, within_s=5)


async def timed(work: Coroutine[object, object, object]) -> float:
    began_s = time.perf_counter()
    await work
    return 1000 * (time.perf_counter() - began_s)


FIELD: Final = int(os.environ.get("METRICA_BENCH_FIELD", "500"))
BROKEN: Final = 0.05
"""So much of the field can't run the commit."""
HALTS_WITHIN_S: Final = 5.0
STAGES: Final = (("some", 0.1), ("half", 0.5), ("all", 1.0))


async def test_a_commit_that_breaks_some_of_five_hundred_devices(
    broker: Broker, database: Database, tmp_path: Path, table: Table
) -> None:
    """Print how long it takes from the failure past the limit to the gate that says so; nobody else may begin then."""
    stages = "".join(f'[[rollout.stages]]\nname = "{name}"\nshare = {share}\nsoak_s = 1\n' for name, share in STAGES)
    files = fleet_of(FIELD, "failure_share = 0.04", stages)
    policy, _ = read(files)
    fleet = repository(tmp_path)
    async with rolling_out(fleet, files, broker, database, tmp_path) as (hub, herd, _):
        await until(lambda: state_of(hub, fleet.head()) == "done", within_s=120)
        broken = fleet.commit({"note": "breaks some"})
        plan = planned(policy, broken, herd.devices)
        herd.bad = frozenset(device for stage in plan.stages for device in stage.members[:: round(1 / BROKEN)])
        await until(lambda: state_of(hub, broken) == "halted", within_s=120)
        halted = newest(hub)
        await until(lambda: herd.last is not None and herd.last.state == "halted")
        begun = herd.started_on(broken)
        at: int = halted["stage"]
        assert begun <= {device for stage in plan.stages[: at + 1] for device in stage.members}
        limit = halted["stages"][at]
        assert herd.halted_s is not None
        allowed = int(policy.failure_share * len(plan.stages[at].members))
        failed_s = sorted(herd.failed_s[device] for device in herd.bad & set(plan.stages[at].members) & begun)
        taken_s = herd.halted_s - failed_s[allowed]
        table.row("devices", f"{FIELD}, {BROKEN:.0%} of them broken")
        table.row("halted in", f'stage "{STAGES[at][0]}", {limit["refused"]} refused of {len(begun)} that had begun')
        table.row("failure past the limit → gate halted", f"{taken_s:.2f} s")
        assert taken_s < HALTS_WITHIN_S
