"""How fast the hub stores what devices say, beside what limits it and what one would take instead; and how soon."""
# ruff: noqa: S608 - the names in the statements are ours

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.bench.figures import Table, quantile
from tests.bench.load import TOPIC, Load, compiled, publish, template
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster, Database
from tests.fixtures.hub import Hub

from metrica_fleet.identity import FleetId
from metrica_hub.adapters.store.migrate import migrate
from metrica_hub.adapters.store.pool import close_pool, open_connection, open_pool
from metrica_hub.adapters.store.rows import HEARTBEAT_COLUMNS
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.decisions.intake import Arrival, Delivery, read
from metrica_hub.decisions.plan import plan, streams_of
from metrica_hub.tasks.consume import BATCH

ROUNDS = 3
FULL = Load(devices=50, records=60_000)
FOR_AIOMQTT = Load(devices=50, records=20_000)
FOR_MQTTWARN = Load(devices=50, records=350)
COPIES = (1000, 5000)
PACES = (Load(50, 1_500, 50), Load(50, 20_000, 2_000), Load(50, 100_000, 10_000))
CROWD = Load(10_000, 20_000, 1_000)

RIVALS = ("mqttwarn==0.36.1", "psycopg2-binary==2.9.13", "paho-mqtt==1.6.1")
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Programs:
    """What is compiled or installed for a run."""

    publisher: Path
    subscriber: Path
    mqttwarn: Path


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one way."""

    records_s: float
    processor_us: float
    """Of the process in the hub's place, for a record."""
    memory_mib: float
    rows: int


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder, here = tmp_path_factory.mktemp("programs"), Path(__file__).parent
    venv = folder / "mqttwarn"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", *RIVALS], check=True)
    return Programs(
        compiled(here / "publisher.c", folder),
        compiled(here / "subscriber.c", folder, "mosquitto"),
        venv / "bin" / "mqttwarn",
    )


@pytest.fixture(scope="module")
def stamping() -> Iterator[Cluster]:
    """A Postgres that remembers when each transaction was committed."""
    folder = os.environ.get("METRICA_TEST_DIR", "/var/tmp")  # noqa: S108 - Postgres' user must be able to enter it
    with Cluster(Path(folder), durable=True, settings=("track_commit_timestamp=on",)) as running:
        yield running


class Meter:
    """What a process takes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._began_s = self.processor_s()

    def processor_s(self) -> float:
        """Return the time of all processors that it had."""
        times = self._process.cpu_times()
        return times.user + times.system

    def used_s(self) -> float:
        """Return what it had since the beginning."""
        return self.processor_s() - self._began_s

    def result(self, load: Load, took_s: float, rows: int) -> Result:
        """Return what ``load`` took since the beginning."""
        processor_us = 1e6 * self.used_s() / load.rows
        return Result(load.records / took_s, processor_us, self.memory_mib(), rows)

    def memory_mib(self) -> float:
        """Return what is resident of it."""
        return self._process.memory_info().rss / 2**20


@contextmanager
def hub_between(database: Database, broker: Broker) -> Generator[Hub]:
    with Hub(database.url, broker.port, settings={"METRICA_HUB_FLEET": FLEET}) as hub:
        hub.wait_until_ready()
        yield hub


@contextmanager
def program(*command: object) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().strip() == "ready"
            yield running
        finally:
            running.kill()


def count(cluster: Cluster, database: Database, table: str = "heartbeats") -> int:
    return int(cluster.execute(f"SELECT count(*) FROM {table}", database.name))


def by_hub(programs: Programs, cluster: Cluster, folder: Path) -> Result:
    with Broker(folder) as broker, cluster.database() as database, hub_between(database, broker) as hub:
        meter = Meter(hub.pid)
        took_s = publish(programs.publisher, broker.port, FULL, answered=True).took_s
        different = "(SELECT DISTINCT device, stream, seq FROM heartbeats) AS different"
        assert count(cluster, database) == count(cluster, database, different) == FULL.rows
        return meter.result(FULL, took_s, FULL.rows)


def by_subscriber(programs: Programs, folder: Path) -> Result:
    """Return how fast a subscriber in C that stores nothing takes the same records: the broker's own limit."""
    with (
        Broker(folder) as broker,
        program(programs.subscriber, broker.port, TOPIC, FULL.rows) as running,
    ):
        meter = Meter(running.pid)
        began_s = publish(programs.publisher, broker.port, FULL, answered=False).began_s
        assert running.stdout is not None
        assert running.stdout.readline().strip() == "heard"
        return meter.result(FULL, time.monotonic() - began_s, 0)


def by_aiomqtt(programs: Programs, cluster: Cluster, folder: Path) -> Result:
    load = FOR_AIOMQTT
    plain = Path(__file__).with_name("plain_hub.py")
    with (
        Broker(folder) as broker,
        cluster.database() as database,
        program(sys.executable, plain, broker.port, TOPIC, database.url, load.rows) as running,
    ):
        meter = Meter(running.pid)
        began_s = publish(programs.publisher, broker.port, load, answered=False).began_s
        assert running.stdout is not None
        assert running.stdout.readline().strip() == "stored"
        return meter.result(load, time.monotonic() - began_s, count(cluster, database, "records"))


def by_mqttwarn(programs: Programs, cluster: Cluster, folder: Path) -> Result:
    load = FOR_MQTTWARN
    with Broker(folder, settings=("log_type subscribe",)) as broker, cluster.database() as database:
        cluster.execute("CREATE TABLE records (stream text, seq bigint, at text, payload text)", database.name)
        configuration = folder / "mqttwarn.ini"
        configuration.write_text(MQTTWARN.format(broker=broker.port, postgres=cluster.port, database=database.name))
        environment = {**os.environ, "MQTTWARNINI": str(configuration)}
        with subprocess.Popen([programs.mqttwarn], env=environment, stdout=subprocess.DEVNULL) as running:
            try:
                until(lambda: TOPIC in broker.log)  # it has subscribed
                meter = Meter(running.pid)
                began_s = publish(programs.publisher, broker.port, load, answered=False).began_s
                until(lambda: count(cluster, database, "records") >= load.rows)
                return meter.result(load, time.monotonic() - began_s, count(cluster, database, "records"))
            finally:
                running.send_signal(signal.SIGKILL)


MQTTWARN = """
[defaults]
hostname = '127.0.0.1'
port = {broker}
clientid = 'mqttwarn'
cleansession = False
lwt = None
num_workers = 4
loglevel = ERROR
logfile = 'stream://sys.stderr'
launch = postgres

[config:postgres]
host = '127.0.0.1'
port = {postgres}
user = 'postgres'
pass = ''
dbname = '{database}'
targets = {{ 'records': ['records', 'payload', 'public'] }}

[metrica/v1/e2e/devices/+/records]
targets = postgres:records
qos = 1
"""


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.25)


async def by_copy(rows: list[tuple[Any, ...]], database: Database, size: int) -> float:
    """Return how many of ``rows`` a second COPY commits, ``size`` a transaction, into a table without an index."""
    connection = await open_connection(database.url, name="copies")
    await connection.execute("CREATE TABLE IF NOT EXISTS copied (LIKE heartbeats)")
    await connection.execute("TRUNCATE copied")
    began_s = time.monotonic()
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        await connection.copy_records_to_table("copied", records=batch, columns=HEARTBEAT_COLUMNS)
    took_s = time.monotonic() - began_s
    assert await connection.fetchval("SELECT count(*) FROM copied") == len(rows)
    connection.terminate()
    return len(rows) / took_s


async def by_writer(database: Database) -> float:
    """Return how many heartbeats a second the hub plans and stores once that it need not ask the broker for."""
    await migrate(database.url)
    pool = await open_pool(database.url, name="writes", size=1)
    writer, batches = Writer(pool), [batch_of(first) for first in range(0, FULL.records, BATCH)]
    began_s = time.monotonic()
    for batch in batches:
        await writer.commit(streams_of(batch), partial(plan, batch))
    took_s = time.monotonic() - began_s
    await close_pool(pool, within_s=1)
    return FULL.records / took_s


def batch_of(first: int) -> list[Arrival]:
    """Return heartbeats of all devices in turn, from the ``first`` on."""
    arrivals: list[Arrival] = []
    for number in range(first, first + BATCH):
        round_, device = divmod(number, FULL.devices)
        places = {"@STREAM@": f"{device:032x}", "@SEQ@": str(round_ + 1), "@PREV@": str(round_)}
        payload = template().replace("@AT@", "2026-11-29T03:40:00.123456Z")
        for place, value in places.items():
            payload = payload.replace(place, value)
        topic = TOPIC.replace("+", f"publisher-{device}")
        delivery = Delivery(topic, payload.encode(), replayed=False, packet_id=None, link=1)
        arrivals.append(read(delivery, FleetId(FLEET), datetime.now(UTC)))
    return arrivals


async def some_rows(database: Database) -> list[tuple[Any, ...]]:
    connection = await open_connection(database.url, name="reads")
    found = await connection.fetch(f"SELECT {', '.join(HEARTBEAT_COLUMNS)} FROM heartbeats")
    connection.terminate()
    return [tuple(row[name] for name in HEARTBEAT_COLUMNS) for row in found]


def test_records_stored_a_second_beside_what_limits_it_and_what_one_would_take_instead(
    programs: Programs, cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    ways: dict[str, Callable[[Path], Result]] = {
        "the hub": partial(by_hub, programs, cluster),
        "(a) a subscriber in C that stores nothing": partial(by_subscriber, programs),
        "(c) aiomqtt and executemany": partial(by_aiomqtt, programs, cluster),
        "(d) mqttwarn, 4 workers": partial(by_mqttwarn, programs, cluster),
    }
    results: dict[str, list[Result]] = {way: [] for way in ways}
    copied: dict[int, list[float]] = {size: [] for size in COPIES}
    written: list[float] = []
    with Broker(tmp_path) as broker, cluster.database() as database, hub_between(database, broker):
        publish(programs.publisher, broker.port, FULL, answered=True)
        rows = asyncio.run(some_rows(database))
        for number in range(ROUNDS):
            for place, (way, measured) in enumerate(ways.items()):
                folder = tmp_path / f"{number}-{place}"
                folder.mkdir()
                results[way].append(measured(folder))
            for size in COPIES:
                copied[size].append(asyncio.run(by_copy(rows, database, size)))
            with cluster.database() as another:
                written.append(asyncio.run(by_writer(another)))
                assert count(cluster, another) == FULL.records
    hub_s = statistics.median(one.records_s for one in results["the hub"])
    for way, found in results.items():
        table.spread(way, [one.records_s for one in found], "records/s", 0)
        table.row(
            "… ratio of the medians, hub : it", f"{hub_s / statistics.median(one.records_s for one in found):.2f}"
        )
        table.spread("… processor time", [one.processor_us for one in found], "µs a record", 0)
        table.spread("… memory afterwards, resident", [one.memory_mib for one in found], "MiB", 0)
        table.row("… rows, of the last round", str(found[-1].rows))
    of_copy = statistics.median(copied[COPIES[0]])
    for size, rates in copied.items():
        table.spread(f"(b) plain COPY, {size} rows a transaction", rates, "rows/s", 0)
        table.row("… ratio of the medians, hub : it", f"{hub_s / statistics.median(rates):.2f}")
    table.spread(f"the hub's writer alone, {BATCH} a transaction", written, "records/s", 0)
    table.row("… ratio of the medians, it : (b) of 1000", f"{statistics.median(written) / of_copy:.2f}")
    of_subscriber = hub_s / statistics.median(one.records_s for one in results[list(ways)[1]])
    table.row("goal: at least 0.9 of (a)", kept(of_subscriber >= 0.9))
    table.row("goal: at least 0.6 of (b), 1000 rows", kept(hub_s / of_copy >= 0.6))


def kept(is_kept: bool) -> str:  # noqa: FBT001 - what is said of it
    return "kept" if is_kept else "MISSED"


def test_delay_from_the_publication_to_the_commit_and_until_the_device_knows(
    programs: Programs, broker: Broker, stamping: Cluster, table: Table
) -> None:
    with stamping.database() as database, hub_between(database, broker) as hub:
        for load in PACES:
            meter = Meter(hub.pid)
            published = publish(programs.publisher, broker.port, load, answered=True)
            committed = committed_s(stamping, database, load)
            used = meter.result(load, published.took_s, load.rows)
            for name, delays in (("committed", committed), ("the device knows", published.delays_s)):
                p50, p99, longest = (1000 * quantile(delays, share) for share in (0.5, 0.99, 1.0))
                table.row(f"{load.rate:.0f}/s: {name}", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms")
            table.row("… processor time of the hub", f"{used.processor_us:.0f} µs a record")
            if load.rate == 2_000:
                is_kept = quantile(committed, 0.5) < 0.002 and quantile(committed, 0.99) < 0.020
                table.row("goal at 2,000/s: committed, p50 < 2 ms, p99 < 20 ms", kept(is_kept))
            if load.rate == 10_000:
                table.row("goal at 10,000/s: committed, p99 < 100 ms", kept(quantile(committed, 0.99) < 0.1))


def committed_s(cluster: Cluster, database: Database, load: Load) -> list[float]:
    """Return the delays of the last ``load``, by the times that Postgres gives commits before it waits for the disk."""
    newest = f"SELECT xmin, at FROM heartbeats ORDER BY received_at DESC LIMIT {load.records}"
    sql = f"SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - at) FROM ({newest}) AS newest"
    found = [float(line) for line in cluster.execute(sql, database.name).split()]
    assert len(found) == load.records
    return found


def test_a_thousand_records_a_second_each_of_another_device(
    programs: Programs, broker: Broker, cluster: Cluster, database: Database, table: Table
) -> None:
    with hub_between(database, broker) as hub, ThreadPoolExecutor(1) as beside:
        publishing = beside.submit(publish, programs.publisher, broker.port, CROWD, answered=True)
        paced = "heartbeats WHERE seq > 1"  # the first of each device comes at once, and is not what is measured
        until(lambda: count(cluster, database, paced) > CROWD.rate)
        meter, began_s = Meter(hub.pid), time.monotonic()
        until(lambda: count(cluster, database, paced) > CROWD.records - 2 * CROWD.rate)
        share = meter.used_s() / (time.monotonic() - began_s)
        published = publishing.result()
        assert count(cluster, database) == CROWD.rows
        memory_mib = meter.memory_mib()
    table.row("processor of the hub", f"{100 * share:.1f} % of a core")
    table.row("memory of the hub afterwards, resident", f"{memory_mib:.0f} MiB ({memory_mib * 1.048576:.0f} MB)")
    table.row("the device knows: p50", f"{1000 * quantile(published.delays_s, 0.5):.1f} ms")
    table.row("… p99", f"{1000 * quantile(published.delays_s, 0.99):.1f} ms")
