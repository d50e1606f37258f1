"""A client that floods the bus with what no device would say: nothing falls over, others are served, it is named."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import psutil
import pytest
from tests.fixtures import flood
from tests.fixtures.broker import Broker
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.papers import PaperFleet
from tests.fixtures.shipped_broker import ShippedBroker
from tests.integration.hub.device import Device, heartbeat, new_stream
from tests.integration.hub.waiting import until

from metrica_fleet.identity import StreamId
from metrica_hub.decisions.allowance import OF_ONE, WINDOW_S

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from tests.fixtures.database import Cluster, Database

RATE: Final = 10_000
SECONDS: Final = 15.0
EVIL: Final = "pi-evil"
QUIET: Final = 10
"""Devices that go on as always."""
EVERY_S: Final = 0.2
MOST_BYTES: Final = 160 * 2**20
"""Of the hub's memory."""
LONGEST_S: Final = 5.0
"""That a record of a quiet device may take from its publication to its ``stored``."""


async def talks(name: str, port: int, over: asyncio.Event, tls: ssl.SSLContext | None = None) -> list[float]:
    """Tell a heartbeat now and then; return what each took until it was known to be stored."""
    stream, took = new_stream(), list[float]()
    async with Device(name, port, tls) as device:
        answers = device.stored()
        while not over.is_set():
            began = time.monotonic()
            await device.tell(heartbeat(stream, len(took) + 1))
            async for answer in answers:
                if answer.streams.get(StreamId(stream), 0) > len(took):
                    break
            took.append(time.monotonic() - began)
            await asyncio.sleep(EVERY_S)  # its interval
    return took


async def largest_bytes(pid: int, over: asyncio.Event) -> int:
    """Return how much memory a process had at most."""
    largest = 0
    while not over.is_set():
        largest = max(largest, psutil.Process(pid).memory_info().rss)
        await asyncio.sleep(0.5)  # between two looks
    return largest


class Flooded(NamedTuple):
    """What came of a flood."""

    sent: int
    took_s: list[float]
    """What each record of a quiet device took, the longest last."""
    hub_bytes: int


async def flooded(hub: Hub, port: int, papers: Callable[[str], tuple[str, ...]] = lambda _: ()) -> Flooded:
    """Have one device shout among quiet ones; ``papers``: the files by which a name is known to the broker."""

    def tls(name: str) -> ssl.SSLContext | None:
        files = papers(name)
        return flood.by_certificate(*files) if files else None

    known = {name: tls(name) for name in (f"pi-{n:02d}" for n in range(QUIET))}
    words = [sys.executable, flood.__file__, str(port), FLEET, EVIL, str(RATE), str(SECONDS), *papers(EVIL)]
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        quiet = [group.create_task(talks(name, port, over, mine)) for name, mine in known.items()]
        watching = group.create_task(largest_bytes(hub.pid, over))
        shouting = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
        sent = int((await shouting.communicate())[0])
        over.set()
    return Flooded(sent, sorted(delay for one in quiet for delay in one.result()), watching.result())


async def assert_contained_and_named(came: Flooded, hub: Hub, sql: Callable[[str], str]) -> None:
    assert came.sent >= 0.3 * RATE * SECONDS, "this machine does not shout loudly enough"
    assert came.took_s[-1] < LONGEST_S
    assert came.hub_bytes < MOST_BYTES
    assert int(sql("SELECT count(*) FROM heartbeats WHERE device <> 'pi-evil'")) == len(came.took_s)
    metrics = hub.get("/metrics").text
    assert f'metrica_bus_loud_device_messages_per_second{{device="{EVIL}"}}' in metrics
    assert f'metrica_hub_dead_letters_by_device_total{{device="{EVIL}"}}' in metrics
    reasons = sql("SELECT DISTINCT reason FROM dead_letters WHERE device = 'pi-evil'")
    assert {"not-json", "wrong-type", "device-mismatch"} <= set(reasons.split())
    kept = int(sql("SELECT count(*) FROM dead_letters WHERE seq IS NULL"))
    assert kept <= OF_ONE * (1 + SECONDS // WINDOW_S + 1)
    assert await until(lambda: hub.get("/readyz").status == 200)


@pytest.mark.long
@pytest.mark.parametrize("limit", ["", "message_size_limit 65536"], ids=["no limit in the broker", "its limit"])
async def test_one_that_floods_is_named_and_holds_up_nobody(
    limit: str, cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    with Broker(tmp_path, settings=(limit,)) as broker, Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        came = await flooded(hub, broker.port)
        await assert_contained_and_named(came, hub, lambda sql: cluster.execute(sql, database.name))


@pytest.mark.long
async def test_one_that_floods_the_broker_as_shipped_is_named_there_too_and_speaks_for_nobody_else(
    cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    with PaperFleet(tmp_path, database.url, shipped=True) as fleet:

        def papers(name: str) -> tuple[str, ...]:
            made = fleet.issued(name)
            return (str(fleet.file), str(made.file), str(made.key))

        came = await flooded(fleet.hub, fleet.tls_port, papers)
        await assert_contained_and_named(came, fleet.hub, lambda sql: cluster.execute(sql, database.name))
        assert cluster.execute("SELECT DISTINCT device FROM dead_letters", database.name) == EVIL
        assert fleet.hub.get(f"/api/v1/devices/{flood.ANOTHER}", token=fleet.operator).status == 404
        # Who sends what is too large is thrown out by the broker, by name.
        assert isinstance(fleet.broker, ShippedBroker)
        assert [line for line in fleet.broker.log.splitlines() if EVIL in line and "oversize" in line], (
            fleet.broker.log[-3000:]
        )
