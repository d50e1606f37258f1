"""P9: hub, broker or Postgres dies at any instant and returns: no record lost, none twice, no operator needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.integration.hub.device import Device, deliver, event, heartbeat, new_stream
from tests.integration.hub.waiting import until

if TYPE_CHECKING:
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

    from metrica_fleet.records import Record

COUNT = 1000


def records(stream: str, count: int = COUNT) -> list[Record]:
    return [event(stream, seq) if seq % 3 == 0 else heartbeat(stream, seq) for seq in range(1, count + 1)]


def stored(cluster: Cluster, database: Database) -> int:
    return int(
        cluster.execute("SELECT (SELECT count(*) FROM heartbeats) + (SELECT count(*) FROM events)", database.name)
    )


def assert_each_once(cluster: Cluster, database: Database, stream: str, count: int = COUNT) -> None:
    every = "SELECT seq FROM (SELECT stream, seq FROM heartbeats UNION ALL SELECT stream, seq FROM events) ORDER BY seq"
    assert [int(row) for row in cluster.execute(every, database.name).split()] == list(range(1, count + 1))
    marks = cluster.execute("SELECT replace(stream::text, '-', ''), stored_seq FROM streams", database.name)
    assert marks == f"{stream}|{count}"


async def test_a_hub_killed_in_the_middle_of_1000_records_stores_each_once_after_its_restart(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()
    async with Device("pi-01", broker.port) as device, asyncio.TaskGroup() as group:

        async def send() -> None:
            for record in records(stream):
                await device.tell(record)

        sending = group.create_task(send())
        await until(lambda: stored(cluster, database) >= 100, what="a hundred records")
        hub.kill()
        at_the_kill = stored(cluster, database)
        await sending  # the broker keeps what comes while the hub is dead
        assert at_the_kill < COUNT
    hub.start()
    await until(lambda: stored(cluster, database) >= COUNT, what="all of them")
    hub.wait_until_ready()
    await until(
        lambda: cluster.execute("SELECT stored_seq FROM streams", database.name) == str(COUNT), what="the watermark"
    )
    assert_each_once(cluster, database, stream)


async def test_a_hub_killed_again_and_again_stores_each_record_once(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()
    async with asyncio.TaskGroup() as group:
        delivering = group.create_task(deliver("pi-01", broker.port, records(stream), pace_s=0.002))
        for goal in (100, 300, 500):
            await until(lambda goal=goal: stored(cluster, database) >= goal)
            hub.kill()
            hub.start()
        await asyncio.wait_for(delivering, 100)
    assert_each_once(cluster, database, stream)


@pytest.mark.long
async def test_a_broker_restarted_without_its_disk_costs_nothing_when_the_device_keeps_to_the_contract(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()
    async with asyncio.TaskGroup() as group:
        delivering = group.create_task(deliver("pi-01", broker.port, records(stream), pace_s=0.002))
        await until(lambda: stored(cluster, database) >= 200)
        await asyncio.to_thread(broker.kill)
        broker.forget()
        await asyncio.to_thread(broker.start)
        await asyncio.wait_for(delivering, 100)
    assert_each_once(cluster, database, stream)
    assert hub.get("/readyz").status == 200


@pytest.mark.long
async def test_postgres_stopped_at_once_in_mid_stream_costs_nothing(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()
    async with asyncio.TaskGroup() as group:
        delivering = group.create_task(deliver("pi-01", broker.port, records(stream), pace_s=0.002))
        await until(lambda: stored(cluster, database) >= 200)
        await asyncio.to_thread(cluster.stop, immediate=True)
        try:
            await until(lambda: hub.get("/readyz").status == 503, what="the hub says that it is not ready")
            assert hub.get("/api/v1/devices").status == 503
            assert hub.get("/metrics").status == 200
        finally:
            await asyncio.to_thread(cluster.start)
        await asyncio.wait_for(delivering, 100)
    assert_each_once(cluster, database, stream)
    assert int(cluster.execute("SELECT count(*) FROM dead_letters", database.name)) == 0


async def test_a_device_that_repeats_itself_is_answered_and_nothing_is_stored_twice(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    del hub
    stream = new_stream()
    await asyncio.wait_for(deliver("pi-01", broker.port, records(stream, 50)), 30)
    await asyncio.wait_for(deliver("pi-01", broker.port, records(stream, 50)), 30)
    assert_each_once(cluster, database, stream, 50)
