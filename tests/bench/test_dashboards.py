"""How long dashboards wait for Prometheus and Postgres at 500 simulated devices with hours behind them.

Prometheus: the hub's own lines of 500 devices, as it tells them now, are written down for every 15 s of six hours,
packed by promtool, and served by a real Prometheus that goes on scraping the hub. Postgres: the same devices, a month
of their heartbeats' sums and of events. Then each question of each dashboard is asked over those hours, as its page
does.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TextIO

from tests.bench.figures import quantile
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import HOST
from tests.fixtures.crowd import crowd
from tests.fixtures.dashboards import Shown, asked, targets
from tests.fixtures.git_servers import binary
from tests.fixtures.scraping import Prometheus, exporter

from metrica_hub.adapters.store.pool import open_connection
from metrica_sim.crowd.main import allow_files
from metrica_sim.crowd.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.bench.figures import Table
    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

DEVICES: Final = int(os.environ.get("METRICA_BENCH_DEVICES", "500"))
HOURS: Final = float(os.environ.get("METRICA_BENCH_HOURS", "6"))
EVERY_S: Final = 15
BLOCK_S: Final = 2 * 3600
MOST_S: Final = 5.0
"""What the founding document allows a query of Prometheus."""
AT_ONCE: Final = 6
"""So many questions a browser asks at the same time of one host."""
POINTS: Final = 300
"""That a panel draws: its width, about."""

HISTORY: Final = """
SELECT make_partition('heartbeats_1h_sums', 'heartbeats_1h_sums_' || to_char(m, 'YYYYMM'), m, m + interval '1 month'),
       make_partition('events', 'events_' || to_char(m, 'YYYYMM'), m, m + interval '1 month')
FROM generate_series(date_trunc('month', now(), 'UTC') - interval '2 months', now(), interval '1 month') AS m;
INSERT INTO heartbeats_1h_sums (device, begins, heartbeats, load_1m_sum, load_1m_count, memory_available_bytes_sum,
    memory_available_bytes_count, memory_available_bytes_min, disk_free_bytes_sum, disk_free_bytes_count,
    disk_free_bytes_min, temperature_celsius_sum, temperature_celsius_count, temperature_celsius_max)
SELECT device, hour, 60, 30, 60, 6e10, 60, 1e9, 6e11, 60, 1e10, 3000, 60, 55
FROM devices, generate_series(now() - interval '30 days', now() - interval '1 day', interval '1 hour') AS hour;
INSERT INTO events (device, stream, seq, received_at, at, boot_id, uptime_s, kind, message, detail)
SELECT device, repeat('0', 32)::uuid, number, at, at, 'boot', 1,
       (ARRAY['commit.seen', 'release.staged', 'release.trial_started', 'release.confirmed'])[1 + number % 4], '', '{}'
FROM devices, generate_series(1, 600) AS number,
     LATERAL (SELECT now() - number * interval '70 minutes' AS at) AS told
ORDER BY at;
ANALYZE;
"""


def test_what_dashboards_ask_at_500_devices(
    hub_on: Callable[..., Hub], cluster: Cluster, database: Database, broker: Broker, table: Table, tmp_path: Path
) -> None:
    cluster.execute("CREATE ROLE grafana LOGIN")
    allow_files(DEVICES + 200)
    with hub_on() as hub:
        hub.wait_until_ready()
        asyncio.run(_measured(hub, cluster, database, broker, table, tmp_path))


async def _measured(hub: Hub, cluster: Cluster, database: Database, broker: Broker, table: Table, folder: Path) -> None:
    async with crowd(_plan(folder, broker)):
        await _until_all_tell(hub)
        cluster.execute(HISTORY, database.name)
        blocks = folder / "blocks"
        began_s = time.monotonic()
        series, samples = await asyncio.to_thread(_past, hub.get("/metrics").text, folder, blocks)
        table.row("devices, series of theirs", f"{DEVICES}, {series:,}")
        table.row(
            f"samples of {HOURS:g} hours, each {EVERY_S} s",
            f"{samples / 1e6:.1f} million, packed in {time.monotonic() - began_s:.0f} s",
        )
        with ExitStack() as stack:
            node = stack.enter_context(exporter(folder, "node"))
            jobs = {"hub": hub.port, "node": node.port}
            prometheus = stack.enter_context(Prometheus(folder, jobs, every=f"{EVERY_S}s", data=blocks))
            await asyncio.to_thread(_until_scraped, prometheus)
            await _ask_all(prometheus, database, table)


async def _ask_all(prometheus: Prometheus, database: Database, table: Table) -> None:
    """Ask each dashboard's questions, a few at once, as its page does."""
    now_s = time.time()
    step_s = max(EVERY_S, math.ceil(HOURS * 3600 / POINTS))
    shown = Shown(now_s - HOURS * 3600, now_s, "crowd-001", rate_interval=f"{step_s + EVERY_S}s", interval=f"{step_s}s")
    pages: dict[str, list[tuple[str, str, float]]] = {}
    limit = asyncio.Semaphore(AT_ONCE)
    with ThreadPoolExecutor(AT_ONCE) as threads:

        async def ask(name: str, kind: str, is_instant: bool, text: str) -> tuple[str, str, float]:  # noqa: FBT001
            async with limit:
                began_s = time.perf_counter()
                if kind == "sql":
                    await _sql(text, database)
                elif is_instant:
                    await asyncio.get_running_loop().run_in_executor(threads, prometheus.now, text)
                else:
                    over = (text, shown.from_s, shown.to_s, step_s)
                    await asyncio.get_running_loop().run_in_executor(threads, prometheus.over, *over)
                return name, kind, time.perf_counter() - began_s

        for board in sorted({target.board for target in targets()}):
            mine = [target for target in targets() if target.board == board and target.kind != "logql"]
            page_s = 0.0
            for _ in range(2):  # the second time as whoever looks again does: everything is in memory
                began_s = time.perf_counter()
                took = await asyncio.gather(
                    *(ask(one.name, one.kind, one.is_instant, asked(one, shown)) for one in mine)
                )
                page_s = time.perf_counter() - began_s
                pages.setdefault(board, []).extend(took)
            table.row(f"{board}: {len(mine)} questions, {AT_ONCE} at once", f"{page_s:.2f} s")
    every = [one for page in pages.values() for one in page]
    for kind, what in (("promql", "a query of Prometheus"), ("sql", "a query of Postgres")):
        took_s = [seconds for _, of, seconds in every if of == kind]
        longest = max((one for one in every if one[1] == kind), key=lambda one: one[2])
        table.row(
            f"{what}, of {len(took_s)}, asked so",
            f"median {1000 * quantile(took_s, 0.5):.0f} ms, p99 {1000 * quantile(took_s, 0.99):.0f} ms,"
            f" longest {longest[2]:.2f} s ({longest[0]})",
        )
        assert longest[2] < MOST_S, longest


async def _sql(text: str, database: Database) -> None:
    url = database.url.replace("//postgres@", "//grafana@")
    connection = await open_connection(url, name="a dashboard")
    try:
        await connection.fetch(text)
    finally:
        connection.terminate()


def _plan(folder: Path, broker: Broker) -> Plan:
    return Plan(
        fleet=FLEET,
        host=HOST,
        port=broker.port,
        state=str(folder / "crowd"),
        devices=DEVICES,
        duration_s=7200,
        ramp_s=10,
        heartbeat_s=60,
    )


async def _until_all_tell(hub: Hub) -> None:
    deadline = time.monotonic() + 300
    told = 0
    while told < DEVICES:
        assert time.monotonic() < deadline, f"{told} of {DEVICES} devices tell"
        await asyncio.sleep(1)
        text = (await asyncio.to_thread(hub.get, "/metrics")).text
        told = len(re.findall(r"^metrica_device_temperature_celsius\{", text, re.MULTILINE))


def _until_scraped(prometheus: Prometheus) -> None:
    deadline = time.monotonic() + 120
    while len(prometheus.now("count_over_time(up[5m]) > 1")) < 3:
        assert time.monotonic() < deadline
        time.sleep(1)


def _past(metrics: str, folder: Path, blocks: Path) -> tuple[int, int]:
    """Write what the hub tells of devices now for every 15 s of the past, shaken; return series and samples."""
    lines = sorted(line for line in metrics.splitlines() if line.startswith("metrica_device"))
    ends = int(time.time()) // EVERY_S * EVERY_S - 60
    begins = ends - int(HOURS * 3600)
    samples = 0
    # promtool reads its whole input once for each block: a file for each.
    while begins < ends:
        until = min(ends, begins // BLOCK_S * BLOCK_S + BLOCK_S)
        instants = range(begins, until, EVERY_S)
        plain = folder / "past.om"
        with plain.open("w") as out:
            _write(out, lines, instants)
        make = [binary("promtool", "prometheus"), "tsdb", "create-blocks-from", "openmetrics", str(plain), str(blocks)]
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        plain.unlink()
        begins, samples = until, samples + len(lines) * len(instants)
    return len(lines), samples


def _write(out: TextIO, lines: Sequence[str], instants: range) -> None:
    chance = random.Random(1)
    family = ""
    for line in lines:
        name, _, value = line.rpartition(" ")
        if (base := name.partition("{")[0]) != family:
            family = base
            out.write(f"# TYPE {family} gauge\n")
        series = name.replace("{", '{instance="hub",job="hub",', 1)
        number = float(value)
        if number in {0.0, 1.0}:
            out.writelines(f"{series} {value} {instant}\n" for instant in instants)
        else:
            out.writelines(
                f"{series} {number * (0.98 + 0.04 * chance.random()):.6g} {instant}\n" for instant in instants
            )
    out.write("# EOF\n")
