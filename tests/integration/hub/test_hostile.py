"""A client that floods the bus with what no device would say: nothing falls over, others are served, it is named."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from tests.fixtures import flood
from tests.fixtures.broker import Broker
from tests.fixtures.hub import FLEET, Hub
from tests.integration.hub.device import Device, heartbeat, new_stream
from tests.integration.hub.waiting import until

from metrica_fleet.identity import StreamId
from metrica_hub.decisions.allowance import OF_ONE, WINDOW_S

if TYPE_CHECKING:
    from tests.fixtures.database import Cluster, Database

RATE: Final = 10_000
SECONDS: Final = 15.0
QUIET: Final = 10
"""Devices that go on as always."""
EVERY_S: Final = 0.2
MOST_BYTES: Final = 160 * 2**20
"""Of the hub's memory."""
LONGEST_S: Final = 5.0
"""That a record of a quiet device may take from its publication to its ``stored``."""


async def talks(name: str, port: int, over: asyncio.Event) -> list[float]:
    """Tell a heartbeat now and then; return what each took until it was known to be stored."""
    stream, took = new_stream(), list[float]()
    async with Device(name, port) as device:
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


@pytest.mark.long
@pytest.mark.parametrize("limit", ["", "message_size_limit 65536"], ids=["no limit in the broker", "as shipped"])
async def test_one_that_floods_is_named_and_holds_up_nobody(
    limit: str, cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    with Broker(tmp_path, settings=(limit,)) as broker, Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        over = asyncio.Event()
        words = [sys.executable, flood.__file__, str(broker.port), FLEET, "pi-evil", str(RATE), str(SECONDS)]
        async with asyncio.TaskGroup() as group:
            quiet = [group.create_task(talks(f"pi-{n:02d}", broker.port, over)) for n in range(QUIET)]
            watching = group.create_task(largest_bytes(hub.pid, over))
            shouting = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
            sent = int((await shouting.communicate())[0])
            over.set()
        took = sorted(delay for one in quiet for delay in one.result())
        assert sent >= 0.3 * RATE * SECONDS, "this machine does not shout loudly enough"
        assert took[-1] < LONGEST_S
        assert watching.result() < MOST_BYTES
        stored = cluster.execute("SELECT count(*) FROM heartbeats WHERE device <> 'pi-evil'", database.name)
        assert int(stored) == len(took)
        metrics = hub.get("/metrics").text
        assert 'metrica_bus_loud_device_messages_per_second{device="pi-evil"}' in metrics
        assert 'metrica_hub_dead_letters_by_device_total{device="pi-evil"}' in metrics
        reasons = cluster.execute("SELECT DISTINCT reason FROM dead_letters WHERE device = 'pi-evil'", database.name)
        assert {"not-json", "wrong-type", "device-mismatch"} <= set(reasons.split())
        kept = int(cluster.execute("SELECT count(*) FROM dead_letters WHERE seq IS NULL", database.name))
        assert kept <= OF_ONE * (1 + SECONDS // WINDOW_S + 1)
        assert await until(lambda: hub.get("/readyz").status == 200)
