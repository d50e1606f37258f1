"""A database that was restored from a copy: what devices still have comes again, once; what is gone is told.

The device is the agent's own ledger, report task and bus on a real broker; the hub is the real one, and Postgres is
really put back to what it was. The backup that makes such a copy: tests/integration/stack/test_backup.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from tests.fixtures.database import Cluster
from tests.fixtures.hub import Hub
from tests.integration.agent.reporting import device
from tests.integration.hub.waiting import until

from metrica_agent.tasks.report import Timing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Database
    from tests.integration.agent.reporting import Device

BEATING = Timing(heartbeat_s=0.3, reconnect_base_s=0.1, reconnect_cap_s=1, resend_base_s=2, resend_cap_s=8)

QUIET = structs.replace(BEATING, heartbeat_s=3600)


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """One that may be put back while no other test uses it."""
    with Cluster(Path("/var/tmp")) as running:  # noqa: S108 - Postgres' user must be able to enter it
        yield running


@pytest.fixture
def own_database(own_cluster: Cluster) -> Iterator[Database]:
    with own_cluster.database() as made:
        yield made


def is_told(pi: Device) -> bool:
    return pi.ledger.stored() == pi.ledger.last_seq() > 0


def rows(cluster: Cluster, database: Database, sql: str) -> list[str]:
    return cluster.execute(sql, database.name).splitlines()


async def test_what_a_restored_database_lacks_comes_again_from_the_devices_once_and_the_gap_is_told(
    tmp_path: Path, broker: Broker, own_cluster: Cluster, own_database: Database
) -> None:
    def said() -> Counter[str]:
        return Counter(rows(own_cluster, own_database, "SELECT message FROM events WHERE kind = 'commit.seen'"))

    def told() -> list[dict[str, Any]]:
        found = rows(own_cluster, own_database, "SELECT detail FROM events WHERE kind = 'hub.set_back' ORDER BY cursor")
        return [json.loads(one) for one in found]

    def each_once() -> bool:
        return (
            own_cluster.execute(
                "SELECT count(*) = count(DISTINCT (stream, seq)) FROM"
                " (SELECT stream, seq FROM events UNION ALL SELECT stream, seq FROM heartbeats) AS records",
                own_database.name,
            )
            == "t"
        )

    async def is_stored(pi: Device, *texts: str) -> None:
        await pi.say(*texts)
        await until(lambda: is_told(pi) and said()[texts[-1]] > 0, what=f"{texts[-1]} is stored")

    with Hub(own_database.url, broker.port) as hub:
        hub.wait_until_ready()
        async with device(tmp_path, broker.port, timing=BEATING) as pi:
            await is_stored(pi, "before 1", "before 2")
            copy = await asyncio.to_thread(own_cluster.copy)
            await is_stored(pi, *(f"after the copy {number}" for number in range(8)))
            beats = await own_beats(own_cluster, own_database, more_than=3)

            # A hub and a device that go on: the word goes back, the hub is asked, and gets what is still there.
            await asyncio.to_thread(own_cluster.put_back, copy)
            await until(lambda: len(told()) == 1, what="it is told")
            await is_stored(pi, "goes on")
            assert said() == Counter(["before 1", "before 2", *(f"after the copy {n}" for n in range(8)), "goes on"])
            (first,) = told()
            assert first["has"] < first["had"]
            assert first["sent_again"] >= 8
            assert each_once()
            assert beats
        # An agent that begins anew, in a stream of its own, with nothing that waits: no record of it shows a step back.
        # It asks. (What it told the first time comes again, too.)
        async with device(tmp_path, broker.port, timing=QUIET) as pi:
            await is_stored(pi, "last words")
        assert is_told(pi)
        await asyncio.to_thread(own_cluster.put_back, copy)
        async with device(tmp_path, broker.port, timing=QUIET) as pi:
            await until(lambda: said()["last words"] and len(told()) == 2, within_s=60, what="one that begins tells it")
            await is_stored(pi, "and on")
            assert said()["after the copy 7"] == said()["goes on"] == said()["and on"] == 1
            assert each_once()
        # With the hub's memory whole, beginning anew brings nothing twice and tells nothing.
        had = len(told())
        async with device(tmp_path, broker.port, timing=QUIET) as pi:
            await is_stored(pi, "at last")
            assert (said()["goes on"], len(told()), each_once()) == (1, had, True)
        assert rows(own_cluster, own_database, "SELECT count(*) FROM dead_letters") == ["0"]


async def own_beats(cluster: Cluster, database: Database, *, more_than: int) -> int:
    """Wait until heartbeats are stored that a restore will lose."""
    count = 0

    def enough() -> bool:
        nonlocal count
        count = int(cluster.execute("SELECT count(*) FROM heartbeats", database.name))
        return count > more_than

    await until(enough, what="heartbeats")
    return count
