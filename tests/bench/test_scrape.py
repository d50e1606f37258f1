"""What a scrape of a hub with 10,000 devices costs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import psutil
from tests.bench.figures import quantile

from metrica_hub.adapters.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Table
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

DEVICES: Final = 10_000
ROUNDS: Final = 15
MAX_S: Final = 1.0
SERIES: Final = 23
"""Of a device that says everything."""

FILL: Final = """
INSERT INTO devices (device, last_seen_at, presence, role, mode, phase, commit, release, agent_version,
                     uptime_s, load_1m, memory_total_bytes, memory_available_bytes, disk_total_bytes,
                     disk_free_bytes, temperature_celsius, throttled, clock_synchronised,
                     memory_pressure_some_ratio, memory_pressure_full_ratio, inodes_total, inodes_free,
                     under_voltage, frequency_capped, soft_temperature_limit)
SELECT 'pi-' || number, now(), 'online', 'camera', 'steady', 'confirmed', repeat('c', 40), repeat('d', 64), '0.1.0',
       number, random(), 4e9, random() * 4e9, 3e10,
       random() * 3e10, 40 + random() * 20, false, true,
       random(), random(), 2e6, random() * 2e6,
       false, false, false
FROM generate_series(1, 10000) AS number
"""


def test_a_scrape_with_10000_devices(
    hub_on: Callable[..., Hub], cluster: Cluster, database: Database, table: Table
) -> None:
    asyncio.run(migrate(database.url))
    cluster.execute(FILL, database.name)
    for settings, what in (({}, "every device's series"), ({"metrics_devices": "false"}, "only counts")):
        with hub_on(**settings) as hub:
            hub.wait_until_ready()
            process = psutil.Process(hub.pid)
            before = process.cpu_times()
            took_s: list[float] = []
            text = ""
            for _ in range(ROUNDS):
                began_s = time.perf_counter()
                text = hub.get("/metrics").text
                took_s.append(time.perf_counter() - began_s)
            after = process.cpu_times()
            lines = sum(line.startswith("metrica_device_") for line in text.splitlines())
            cost_s = (after.user + after.system - before.user - before.system) / ROUNDS
            table.row(
                f"a scrape, {what}",
                f"median {1000 * quantile(took_s, 0.5):.0f} ms (longest {1000 * max(took_s):.0f}),"
                f" {1000 * cost_s:.0f} ms of processor time, {lines:,} series, {len(text) / 1e6:.1f} MB",
            )
            table.row(f"memory of the hub, {what}", f"{process.memory_info().rss / 2**20:.0f} MiB")
            assert lines == (0 if settings else SERIES * DEVICES)
            assert 'metrica_devices_of_commit{commit="cccccccc"} 10000.0' in text
            assert quantile(took_s, 0.5) < MAX_S
