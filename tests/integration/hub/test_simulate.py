"""``metrica simulate`` as an operator types it, over a real broker and a real hub."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.fixtures.hub import FLEET

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub


def simulated(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metrica_cli", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_crowd_connects_tells_and_is_stored(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    bus, state = f"127.0.0.1:{broker.port}", tmp_path / "crowd"
    quick = ("--minutes", "0.05", "--ramp", "1", "--heartbeat", "1", "--event", "1", "--backlog", "7")
    done = simulated("--bus", bus, "--fleet", FLEET, "--devices", "24", "--state", str(state), *quick)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("24 devices told ")
    assert " of 24 connected; " in done.stderr
    told = sum(len(path.read_text().splitlines()) for path in state.glob("diary-*.txt"))
    assert told > 0
    stored, devices = cluster.execute("SELECT count(*), count(DISTINCT device) FROM events", database.name).split("|")
    assert (int(stored), int(devices) <= 24) == (told, True)
    (backlog,) = cluster.execute(
        "SELECT min(n) FROM (SELECT count(*) AS n FROM heartbeats GROUP BY device) AS one", database.name
    ).split()
    assert int(backlog) >= 7
    assert hub.get("/metrics").text.count("metrica_device_info{") == 24
    # Each has said on its connection what runs, and again when what it repaired ran anew.
    running = [hub.get(f"/api/v1/devices/crowd-{number:02}").json["services"] for number in range(1, 25)]
    assert [[(one["name"], one["state"]) for one in them] for them in running] == [
        [("recorder", "running"), ("web", "running")]
    ] * 24
    since = [{one["name"]: one["since"] for one in them} for them in running]
    assert any(one["recorder"] < one["web"] for one in since)
    assert all(one["recorder"] <= one["web"] for one in since)


def test_without_a_hub_the_command_says_that_nothing_was_stored(broker: Broker) -> None:
    bus = f"127.0.0.1:{broker.port}"
    done = simulated(
        "--bus", bus, "--devices", "2", "--minutes", "0.05", "--ramp", "0", "--event", "0.2", "--patience", "1"
    )
    assert done.returncode == 1
    assert "2 devices were not told that their last event is stored; does a hub run?" in done.stderr


def test_mistakes_of_the_call_are_told_without_a_traceback() -> None:
    for arguments, said in (
        (("--bus", "here"), "error: --bus here is no broker\n  try: --bus 127.0.0.1:1883"),
        (("--minutes", "0"), "error: --minutes: Expected `float` > 0.0"),
        (("--devices", "0"), "error: --devices: Expected `int` >= 1"),
        (("--fleet", "Not A Name"), "error: --fleet: "),
        (("--bus", "127.0.0.1:9"), "error: no broker answers at 127.0.0.1:9"),
    ):
        done = simulated(*arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
