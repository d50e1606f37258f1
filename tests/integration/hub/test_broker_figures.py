"""What the broker says of itself, in the hub's metrics; and the alerts on the bus."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt
import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.hub import FLEET, Hub
from tests.integration.hub.device import event, heartbeat, new_stream, topic
from tests.integration.hub.test_http import promtool
from tests.integration.hub.waiting import until

from metrica_fleet.codec import encode
from metrica_fleet.topics import RECORDS
from metrica_hub.web.metrics import MOST_CULPRITS

if TYPE_CHECKING:
    from tests.fixtures.database import Cluster, Database

QUEUE = 5


def figures(hub: Hub) -> dict[str, float]:
    """Return the metrics that have no labels."""
    lines = [line for line in hub.get("/metrics").text.splitlines() if line and line[0] != "#" and "{" not in line]
    return {name: float(value) for name, value in (line.split() for line in lines)}


def names_of(hub: Hub) -> list[str]:
    return [
        line.split("{")[1] for line in hub.get("/metrics").text.splitlines() if "dead_letters_by_device_total{" in line
    ]


def is_sound(hub: Hub) -> None:
    """Have promtool read the metrics."""
    text = hub.get("/metrics").text
    done = subprocess.run([promtool(), "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture(params=["MOSQUITTO", "MOSQUITTO_2_0_21"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both brokers: the distribution's, and the one for production."""
    path = os.environ.get(request.param) or pytest.fail(f"{request.param} is not set: run ./scripts/test")
    monkeypatch.setenv("METRICA_TEST_MOSQUITTO", path)


@pytest.mark.usefixtures("either")
async def test_a_queue_that_was_full_is_told_and_loses_no_record_that_its_device_keeps(
    database: Database, cluster: Cluster, tmp_path: Path
) -> None:
    settings = ("sys_interval 1", f"max_queued_messages {QUEUE}", "max_inflight_messages 1")
    with Broker(tmp_path, settings=settings) as broker, Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        await until(lambda: figures(hub).get("metrica_broker_connected_clients") == 1.0)
        assert figures(hub)["metrica_broker_dropped_messages_total"] == 0
        hub.stop()
        stream = new_stream()
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as device:
            records = [encode(event(stream, seq)) for seq in range(1, 41)]
            for record in records:
                await device.publish(topic("pi-01", RECORDS), record, qos=1)
            hub.start()
            hub.wait_until_ready()
            await until(
                lambda: figures(hub).get("metrica_broker_dropped_messages_total", 0) >= len(records) - 3 * QUEUE
            )
            for record in records:
                await device.publish(topic("pi-01", RECORDS), record, qos=1)
            await until(lambda: cluster.execute("SELECT count(*) FROM events", database.name) == "40")
        await asyncio.to_thread(is_sound, hub)
        broker.stop()
        await until(lambda: figures(hub)["metrica_bus_connected"] == 0)
        assert not any(name.startswith("metrica_broker_") for name in figures(hub))


async def test_who_sends_what_cannot_be_used_is_named_and_names_are_bounded(hub: Hub, broker: Broker) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish(topic("broken", RECORDS), b"{", qos=1)
        await until(lambda: any('device="broken"' in name for name in names_of(hub)))
        for number in range(MOST_CULPRITS + 20):
            await client.publish(topic(f"invented-{number}", RECORDS), b"{", qos=1)
        await client.publish(f"metrica/v1/{FLEET}/devices/pi-01/records", encode(heartbeat(new_stream(), 1)), qos=1)
        await until(lambda: any(name.startswith('device="_others"} 21') for name in names_of(hub)))
    assert len(names_of(hub)) == MOST_CULPRITS + 1
