"""``metrica simulate`` with ten thousand devices that are cut off and rebooted, and a few that say nonsense."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from tests.bench.test_fleet import DEVICES, OPEN_FILES, QUEUES
from tests.faults.hunt import arrived, misses
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker

from metrica_sim.crowd.diary import read_diaries
from metrica_sim.crowd.main import allow_files

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from tests.bench.figures import Table
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub

TROUBLES: Final = ("--cuts", "1", "--reboots", "1", "--poison", "5")
"""Of each device one an hour; bad messages a second."""
EVERY: Final = ("--ramp", "120", "--minutes", "5", "--event", "600", "--patience", "300")


@pytest.fixture
def broker(tmp_path: Path) -> Generator[Broker]:
    """With room for them."""
    allow_files(OPEN_FILES)
    with Broker(tmp_path, settings=(QUEUES,)) as running:
        yield running


def test_a_crowd_in_trouble_is_stored_whole(
    broker: Broker, hub_on: Callable[..., Hub], cluster: Cluster, database: Database, table: Table, tmp_path: Path
) -> None:
    crowd, bus = tmp_path / "crowd", f"127.0.0.1:{broker.port}"
    command = [sys.executable, "-m", "metrica_cli", "simulate", "--bus", bus, "--fleet", FLEET]
    with hub_on() as hub:
        hub.wait_until_ready()
        done = subprocess.run(
            [*command, "--devices", str(DEVICES), *EVERY, *TROUBLES, "--state", str(crowd)],
            capture_output=True,
            text=True,
            check=False,
            timeout=1500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        most = max(int(found.replace(",", "")) for found in re.findall(r"([\d,]+) of [\d,]+ connected", done.stderr))
        table.row("connected at once, at most", f"{most}")
        table.row("memory of the hub, resident", f"{psutil.Process(hub.pid).memory_info().rss / 1e6:.0f} MB")
    table.row("it ended with", done.stdout.strip().replace("\n", "; "))
    told, stored = read_diaries(crowd), arrived(cluster, database)
    table.row("events told, stored", f"{sum(map(len, told.values()))}, {len(stored)}")
    assert misses(told, stored) == []
