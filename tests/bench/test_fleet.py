"""Ten thousand devices: what they cost a hub while all is well, and how they come back together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import psutil
import pytest
from tests.bench.figures import quantile
from tests.fixtures.broker import HOST, Broker, free_port

from metrica_sim.crowd.main import allow_files

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.bench.figures import Table
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

DEVICES: Final = int(os.environ.get("METRICA_BENCH_DEVICES", "10000"))
HEARTBEAT_S: Final = 10.0
MEASURED_S: Final = 60.0
RAMP_S: Final = 20.0
BACKLOG: Final = 60
"""An hour of heartbeats at the default interval."""
USUAL_HEARTBEAT_S: Final = 60.0
ASK_EVERY_S: Final = 0.05
OPEN_FILES: Final = DEVICES + 200
"""Of the broker: one for each device, and some."""
QUEUES: Final = "max_queued_bytes 268435456"

EXACTLY_ONCE: Final = """
SELECT count(*) FROM (
    SELECT device FROM heartbeats GROUP BY device, stream
    HAVING count(*) = max(seq) AND count(DISTINCT seq) = count(*)
) AS whole
"""


class Herd:
    """The process of the devices."""

    def __init__(self, port: int, heartbeat_s: float, authority: Path | None) -> None:
        words = [str(port), str(DEVICES), str(heartbeat_s), *([] if authority is None else [str(authority)])]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("herd.py")), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.tally: dict[str, float] = {}
        self._told = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()
            self._reader.join()

    def do(self, what: str, **how: float) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **how}) + "\n")
        self._process.stdin.flush()

    def until(self, fact: Callable[[dict[str, float]], object], within_s: float) -> float:
        """Return how many seconds it took until ``fact`` was true of the tally."""
        began = time.monotonic()
        with self._told:
            met = self._told.wait_for(lambda: self._over or (self.tally and fact(self.tally)), within_s)
        assert met, f"not within {within_s} s: {self.tally}"
        assert not self._over, "the devices' process ended"
        return time.monotonic() - began

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._told:
                self.tally = json.loads(line)
                self._told.notify_all()
        with self._told:
            self._over = True
            self._told.notify_all()


@pytest.fixture
def crowded(tmp_path: Path) -> Generator[tuple[Broker, int, Path]]:
    """A broker with room for them: its own port without TLS, another with it, and the authority."""
    allow_files(OPEN_FILES)
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = "-addext subjectAltName=DNS:localhost -keyout broker.key -out broker.crt"
    subprocess.run(["openssl", *words.split(), *names.split()], cwd=tmp_path, check=True, capture_output=True)
    tls = free_port()
    settings = (
        QUEUES,
        f"listener {tls} {HOST}",
        f"certfile {tmp_path}/broker.crt",
        f"keyfile {tmp_path}/broker.key",
        "tls_version tlsv1.3",
    )
    with Broker(tmp_path, settings=settings) as running:
        yield running, tls, tmp_path / "broker.crt"


@pytest.fixture
def broker(crowded: tuple[Broker, int, Path]) -> Broker:
    """The broker that ``hub_on`` connects to."""
    return crowded[0]


@pytest.mark.parametrize("way", ["plain", "tls"])
def test_10000_connected_devices_with_a_heartbeat_every_10_s(
    way: str,
    crowded: tuple[Broker, int, Path],
    hub_on: Callable[..., Hub],
    cluster: Cluster,
    database: Database,
    table: Table,
) -> None:
    broker, tls, authority = crowded
    port, by = (tls, authority) if way == "tls" else (broker.port, None)
    with hub_on() as hub, Herd(port, HEARTBEAT_S, by) as herd:
        hub.wait_until_ready()
        herd.do("connect", over_s=RAMP_S)
        ramp_s = herd.until(lambda tally: tally["connected"] == DEVICES, 300)
        herd.until(lambda tally: tally["stored"] >= 2 * DEVICES, 300)
        parts = {"hub": hub.pid, "broker": broker.pid, "the devices": herd.pid}
        before = {name: processor_s(pid) for name, pid in parts.items()}
        before["Postgres"] = sum(map(processor_s, cluster.pids()))
        began, tally = time.monotonic(), herd.tally
        herd.until(lambda _: time.monotonic() >= began + MEASURED_S, 2 * MEASURED_S)
        took_s = time.monotonic() - began
        records, statuses = ((herd.tally[what] - tally[what]) / took_s for what in ("stored", "statuses"))
        after = {name: processor_s(pid) for name, pid in parts.items()}
        after["Postgres"] = sum(map(processor_s, cluster.pids()))
        table.row("all are connected", f"after {ramp_s:.1f} s (switched on over {RAMP_S:.0f})")
        table.row("records stored", f"{records:.0f}/s")
        table.row("statuses said", f"{statuses:.0f}/s")
        for name, value in after.items():
            table.row(f"processor of {name}", f"{100 * (value - before[name]) / took_s:.1f} % of a core")
        table.row("memory of the hub, resident", f"{psutil.Process(hub.pid).memory_info().rss / 1e6:.0f} MB")
        table.row("memory of the broker, resident", f"{psutil.Process(broker.pid).memory_info().rss / 1e6:.0f} MB")
        herd.do("hush")
        herd.until(lambda tally: tally["waiting"] == 0, 120)
    assert int(cluster.execute(EXACTLY_ONCE, database.name)) == DEVICES


def test_10000_devices_return_after_an_hour_apart(
    broker: Broker, hub_on: Callable[..., Hub], cluster: Cluster, database: Database, table: Table
) -> None:
    with hub_on() as hub, Herd(broker.port, USUAL_HEARTBEAT_S, None) as herd:
        hub.wait_until_ready()
        herd.do("connect", over_s=RAMP_S)
        herd.until(lambda tally: tally["connected"] == DEVICES, 300)
        herd.until(lambda tally: tally["waiting"] == 0, 300)
        herd.do("vanish")
        until(lambda: count(cluster, database, "offline") == DEVICES, 120)
        since = cluster.execute("SELECT now()", database.name)
        with asking(hub) as asked:
            began = time.monotonic()
            herd.do("return", backlog=BACKLOG)
            until(lambda: count(cluster, database, "online", since) == DEVICES, 300)
            current_s = time.monotonic() - began
            herd.do("hush")
            herd.until(lambda tally: tally["waiting"] == 0, 600)
            drained_s = time.monotonic() - began
        memory = psutil.Process(hub.pid).memory_info().rss
        records = herd.tally["records"]
    table.row("all are current", f"after {current_s:.1f} s")
    table.row(f"{BACKLOG * DEVICES:,} records of the hour are stored", f"after {drained_s:.1f} s")
    for share in (0.5, 0.99):
        table.row(f"API meanwhile, p{100 * share:.0f} of {len(asked)}", f"{1000 * quantile(asked, share):.0f} ms")
    table.row("the longest", f"{1000 * max(asked):.0f} ms")
    table.row("memory of the hub afterwards, resident", f"{memory / 1e6:.0f} MB")
    assert int(cluster.execute("SELECT count(*) FROM heartbeats", database.name)) == records
    assert int(cluster.execute(EXACTLY_ONCE, database.name)) == DEVICES


def count(cluster: Cluster, database: Database, state: str, since: str = "-infinity") -> int:
    sql = f"""SELECT count(*) FROM devices
              WHERE presence = '{state}' AND status_at > '{since}' AND last_seen_at > '{since}'"""  # noqa: S608
    return int(cluster.execute(sql, database.name))


def until(fact: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)


@contextmanager
def asking(hub: Hub) -> Generator[list[float]]:
    """Ask the API again and again until the end of the block; what each answer took."""
    took: list[float] = []
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.wait(ASK_EVERY_S):
            number += 1
            path = "/api/v1/devices?limit=100" if number % 2 else f"/api/v1/devices/herd-{number % DEVICES:05d}"
            began = time.perf_counter()
            answer = hub.get(path)
            took.append(time.perf_counter() - began)
            assert answer.status == 200, answer

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


def processor_s(pid: int) -> float:
    try:
        times: Any = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:  # one of Postgres' that came and went
        return 0.0
    return times.user + times.system
