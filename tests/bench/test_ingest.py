"""How fast the hub stores what devices say, and how soon."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from tests.bench.figures import quantile
from tests.fixtures.agent import FLEET
from tests.fixtures.git_servers import binary

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Table
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

RECORDS = 60_000
DEVICES = 50
ROUNDS = 3
LOW_RATE = 50
SLOW_RECORDS = 1_500
PUBLISHER = Path(__file__).with_name("publisher.py")


def published(*numbers: int) -> str:
    command = [sys.executable, str(PUBLISHER), *map(str, numbers)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900).stdout


def processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_records_stored_a_second_with_broker_postgres_and_publisher_on_the_same_machine(
    broker: Broker, hub_on: Callable[..., Hub], cluster: Cluster, database: Database, table: Table
) -> None:
    rates: list[float] = []
    costs: list[float] = []
    with hub_on() as hub:
        hub.wait_until_ready()
        for _ in range(ROUNDS):
            before = processor_s(hub.pid)
            took_s = float(published(broker.port, DEVICES, RECORDS))
            rates.append(RECORDS / took_s)
            costs.append(1e6 * (processor_s(hub.pid) - before) / RECORDS)
        stored = int(cluster.execute("SELECT count(*) FROM heartbeats", database.name))
        memory = psutil.Process(hub.pid).memory_info().rss
    assert stored == ROUNDS * RECORDS
    table.spread(
        f"{RECORDS} records of {DEVICES} devices, until the last is stored and known to be", rates, "records/s", 0
    )
    table.spread("processor time of the hub", costs, "µs a record", 0)
    table.row("memory of the hub afterwards", f"{memory / 2**20:.0f} MiB resident")
    table.row("the broker alone, to mosquitto_sub in the hub's place", f"{broker_alone(broker):.0f} records/s")


def broker_alone(broker: Broker) -> float:
    """Return how fast a subscriber in C that stores nothing takes the same records."""
    topic = f"metrica/v1/{FLEET}/devices/+/records"
    program = binary("mosquitto_sub", "mosquitto-clients")
    command = [program, "-p", str(broker.port), "-V", "5", "-q", "1", "-t", topic, "-C", str(RECORDS)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as subscriber:
        publisher = subprocess.Popen(
            [sys.executable, str(PUBLISHER), str(broker.port), str(DEVICES), str(RECORDS)], stdout=subprocess.DEVNULL
        )
        began = time.monotonic()
        try:
            subscriber.wait(300)
            return RECORDS / (time.monotonic() - began)
        finally:
            publisher.kill()
            publisher.wait()


def test_delay_until_a_record_is_stored_at_a_low_rate(broker: Broker, hub_on: Callable[..., Hub], table: Table) -> None:
    with hub_on() as hub:
        hub.wait_until_ready()
        delays: list[float] = json.loads(published(broker.port, DEVICES, SLOW_RECORDS, LOW_RATE))
    assert len(delays) == SLOW_RECORDS
    for share in (0.5, 0.99):
        table.row(f"p{100 * share:.0f} at {LOW_RATE} records/s", f"{1000 * quantile(delays, share):.1f} ms")
    table.row("the longest", f"{1000 * max(delays):.1f} ms")
