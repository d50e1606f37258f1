"""Several hubs on one database and one broker: one leads, another takes over, nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.hub import Hub
from tests.fixtures.wire import Wire
from tests.integration.hub.device import deliver, event, new_stream
from tests.integration.hub.waiting import until

from metrica_hub.adapters.store.pool import (
    COMMIT_LOCK,
    alone,
    close_pool,
    open_connection,
    open_pool,
    transaction,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database

TAKEOVER_S = 10.0


def leads(hub: Hub) -> bool:
    return "\nmetrica_hub_leads 1.0\n" in hub.get("/metrics").text


def has_the_bus(hub: Hub) -> bool:
    return "\nmetrica_bus_connected 1.0\n" in hub.get("/metrics").text


@pytest.fixture
def to_database(cluster: Cluster) -> Iterator[Wire]:
    """The first hub's cable to Postgres."""
    with Wire(cluster.port) as wire:
        yield wire


@pytest.fixture
def first(broker: Broker, cluster: Cluster, database: Database, to_database: Wire) -> Iterator[Hub]:
    """The hub that leads at first."""
    with Hub(database.url.replace(f":{cluster.port}/", f":{to_database.port}/"), broker.port) as hub:
        hub.wait_until_ready()
        yield hub


@pytest.fixture
def second(first: Hub, broker: Broker, database: Database) -> Iterator[Hub]:
    """The hub that waits."""
    assert leads(first)
    with Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        yield hub


def test_one_leads_and_the_other_serves_without_the_bus(first: Hub, second: Hub) -> None:
    assert (leads(first), leads(second)) == (True, False)
    assert (has_the_bus(first), has_the_bus(second)) == (True, False)
    assert second.get("/api/v1/devices").status == 200
    assert second.get("/readyz").status == 200


@pytest.mark.parametrize("how", ["killed", "ended", "frozen", "cut off from the database"])
async def test_when_the_leader_is_gone_the_other_takes_over_and_nothing_is_lost(
    how: str, first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database, to_database: Wire
) -> None:
    stream = new_stream()
    records = [event(stream, seq) for seq in range(1, 201)]
    pid = first.pid

    async def trouble() -> None:
        match how:
            case "killed":
                first.kill()
            case "ended":
                await asyncio.to_thread(first.stop)
            case "frozen":
                os.kill(pid, signal.SIGSTOP)
            case _:
                to_database.hang()

    async with asyncio.TaskGroup() as group:
        group.create_task(deliver("pi-01", broker.port, records, pace_s=0.02))
        await until(lambda: int(cluster.execute("SELECT count(*) FROM events", database.name)) > 20)
        began_s = time.monotonic()
        await trouble()
        await until(lambda: leads(second) and has_the_bus(second), within_s=TAKEOVER_S)
        assert time.monotonic() - began_s < TAKEOVER_S
    assert cluster.execute("SELECT count(*), count(DISTINCT seq) FROM events", database.name) == "200|200"
    if how in {"killed", "ended"}:
        return
    # Who led before finds out that it does no more, and does not take the bus back.
    if how == "frozen":
        os.kill(pid, signal.SIGCONT)
    to_database.mend()
    await until(lambda: first.get("/readyz").status == 200 and not has_the_bus(first))
    assert (leads(first), leads(second)) == (False, True)
    await until(lambda: has_the_bus(second))


async def test_while_the_database_is_away_the_leader_keeps_its_connection_to_the_broker(
    first: Hub, cluster: Cluster
) -> None:
    before = first.log.count('"bus.connected"')
    cluster.stop(immediate=True)
    await until(lambda: '"lead.unknown"' in first.log)
    assert has_the_bus(first)
    cluster.start()
    await until(lambda: leads(first))
    assert first.log.count('"bus.connected"') == before


async def test_a_transaction_that_nobody_goes_on_with_holds_others_up_for_seconds_only(database: Database) -> None:
    frozen = await open_connection(database.url, name="frozen in its commit")
    pool = await open_pool(database.url, name="goes on", size=1)
    try:
        await frozen.execute("BEGIN")
        await alone(frozen, COMMIT_LOCK)
        began_s = time.monotonic()
        async with transaction(pool) as connection:
            await alone(connection, COMMIT_LOCK)
        assert time.monotonic() - began_s < TAKEOVER_S
    finally:
        frozen.terminate()
        await close_pool(pool, within_s=1)
