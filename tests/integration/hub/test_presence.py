"""Who is there, as the hub that leads hears it: silent deaths, hubs and brokers that were away, devices that flap.

What a device does by itself every minute is here every two or three seconds, and said so (``heartbeat_s``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.fixtures.hub import Hub
from tests.integration.hub.device import Device, heartbeat, new_stream, status
from tests.integration.hub.waiting import until

from metrica_hub.decisions.listening import LOOK_S
from metrica_hub.decisions.silence import allowance_s

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database

BEAT_S: Final = 2.0
KNOWN_S: Final = allowance_s(BEAT_S) + LOOK_S
GRACE_S: Final = 4.0
HALF_LIFE_S: Final = 4.0
SETTINGS: Final = {
    "METRICA_HUB_PRESENCE_GRACE_S": f"{GRACE_S}",
    "METRICA_HUB_PRESENCE_HALF_LIFE_S": f"{HALF_LIFE_S}",
}


@pytest.fixture
def hub(broker: Broker, database: Database) -> Iterator[Hub]:
    """A hub with little patience."""
    with Hub(database.url, broker.port, settings=SETTINGS) as running:
        running.wait_until_ready()
        yield running


def seen(hub: Hub, device: str = "pi-01") -> dict[str, Any]:
    return hub.get(f"/api/v1/devices/{device}").json


def is_shown(hub: Hub, connection: str, reason: str | None = None, device: str = "pi-01") -> bool:
    answer = hub.get(f"/api/v1/devices/{device}")
    if answer.status != 200:
        return False
    found = answer.json
    return found["connection"] == connection and reason in {None, found["connection_reason"]}


def listens(hub: Hub) -> bool:
    """Whether it has judged a device that fell silent: so it has listened for as long, which is more than its grace."""
    return is_shown(hub, "offline", "silent", device="long-gone")


async def settled(hub: Hub, broker: Broker) -> None:
    """Return when the hub has listened for longer than its grace."""
    async with Device("long-gone", broker.port) as device:
        await device.is_present("online", 1)
        await device.has_status(status("long-gone", heartbeat_s=0.1))
    await until(lambda: listens(hub), within_s=60)


@asynccontextmanager
async def beating(name: str, port: int, connection: int = 1) -> AsyncGenerator[Device]:
    """Let a device connect, and be heard every two seconds."""
    stream = new_stream()

    async def beat(device: Device) -> None:
        number = 0
        while True:
            number += 1
            await device.tell(heartbeat(stream, number))
            await asyncio.sleep(BEAT_S * 0.9)  # the device's own interval

    async with Device(name, port) as device:
        await device.is_present("online", connection)
        await device.has_status(status(name, heartbeat_s=BEAT_S))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(beat(device))
            yield device
            task.cancel()


async def died(name: str, broker: Broker, connection: int = 1) -> float:
    """Let a device be online, and vanish without a word; return when."""
    async with beating(name, broker.port, connection):
        pass
    return time.monotonic()


@pytest.mark.long
async def test_a_death_without_a_last_will_is_known_by_the_age_of_what_was_heard(hub: Hub, broker: Broker) -> None:
    await settled(hub, broker)
    died_s = await died("pi-01", broker)
    await until(lambda: is_shown(hub, "online"))
    await until(lambda: is_shown(hub, "offline", "silent"), within_s=KNOWN_S + GRACE_S + LOOK_S)
    assert time.monotonic() - died_s > allowance_s(BEAT_S)
    assert seen(hub)["last_heard_ago_s"] >= allowance_s(BEAT_S)
    series = 'metrica_device_online{device="pi-01",role="camera"} 0'
    await until(lambda: series in hub.get("/metrics").text, what="the metrics follow")
    page = hub.get("/").text
    assert "nothing was heard of it" in page
    assert "heard <time" in page
    # It is back: that is known at once, not at the next look.
    async with beating("pi-01", broker.port, 2):
        await until(lambda: is_shown(hub, "online", "connected"), within_s=LOOK_S - 1)
    # And once the hub has listened for long, it takes no longer than the rule says.
    died_s = time.monotonic()
    await until(lambda: is_shown(hub, "offline", "silent"), within_s=KNOWN_S + 2)


@pytest.mark.long
async def test_a_hub_that_was_away_declares_nobody_dead_and_finds_who_died_meanwhile(hub: Hub, broker: Broker) -> None:
    await settled(hub, broker)
    async with beating("pi-lives", broker.port):
        async with beating("pi-dies", broker.port):
            await until(
                lambda: is_shown(hub, "online", device="pi-lives") and is_shown(hub, "online", device="pi-dies")
            )
            hub.kill()
        await asyncio.sleep(allowance_s(BEAT_S) + 1)  # longer than a device may be silent
        hub.start()
        hub.wait_until_ready()
        assert is_shown(hub, "online", device="pi-lives")
        await until(lambda: is_shown(hub, "offline", "silent", device="pi-dies"), within_s=KNOWN_S + LOOK_S)
        assert is_shown(hub, "online", device="pi-lives")
    silent = [line for line in hub.log.splitlines() if '"silent"' in line]
    assert not any("pi-lives" in line for line in silent)


@pytest.mark.long
@pytest.mark.parametrize("what", ["database", "hub"])
async def test_what_is_away_or_frozen_declares_nobody_dead(
    what: str, hub: Hub, broker: Broker, cluster: Cluster
) -> None:
    await settled(hub, broker)
    async with beating("pi-01", broker.port):
        await until(lambda: is_shown(hub, "online"))
        if what == "database":
            cluster.stop(immediate=True)
        else:
            os.kill(hub.pid, signal.SIGSTOP)
        await asyncio.sleep(KNOWN_S + 1)
        if what == "database":
            cluster.start()
        else:
            os.kill(hub.pid, signal.SIGCONT)
        later = time.monotonic() + LOOK_S + 2
        await until(lambda: hub.get("/readyz").status == 200 and is_shown(hub, "online") and time.monotonic() > later)
    assert not any('"silent"' in line and "pi-01" in line for line in hub.log.splitlines())


@pytest.mark.long
async def test_of_a_broker_without_its_disk_who_does_not_come_back_is_told_offline(hub: Hub, broker: Broker) -> None:
    await settled(hub, broker)
    async with beating("pi-back", broker.port), beating("pi-gone", broker.port):
        await until(lambda: is_shown(hub, "online", device="pi-back") and is_shown(hub, "online", device="pi-gone"))
        broker.kill()
    broker.forget()
    broker.start()
    async with beating("pi-back", broker.port, 2):
        await until(lambda: is_shown(hub, "offline", "silent", device="pi-gone"), within_s=60)
        assert is_shown(hub, "online", device="pi-back")
    assert not any('"silent"' in line and "pi-back" in line for line in hub.log.splitlines())


@pytest.mark.long
async def test_a_late_will_changes_nothing_and_one_that_was_believed_is_overruled(hub: Hub, broker: Broker) -> None:
    await settled(hub, broker)
    async with beating("pi-01", broker.port, 70) as device:
        await until(lambda: is_shown(hub, "online", "connected"))
        await device.is_present("offline", 69)  # of an older connection
        await device.is_present("offline", 300, boot="another")  # of a boot that was followed by this one
        await device.has_status(status("pi-01", heartbeat_s=BEAT_S, message="after the wills"))
        await until(lambda: seen(hub)["message"] == "after the wills")
        assert is_shown(hub, "online", "connected")
        # Of a broker that tells the will of the connection that stands: wrong, but not for long.
        await device.is_present("offline", 70)
        await until(lambda: is_shown(hub, "offline", "connection-lost"))
        await until(lambda: is_shown(hub, "online", "heard"), within_s=30)
    await until(lambda: is_shown(hub, "offline", "connection-lost"), within_s=KNOWN_S + 2)


@pytest.mark.long
async def test_a_device_that_comes_and_goes_is_flapping_until_it_was_calm(
    hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    await settled(hub, broker)
    shown: set[str] = set()
    for connection in range(1, 6):
        async with Device("pi-01", broker.port) as device:
            await device.is_present("online", connection)
            await device.has_status(status("pi-01", heartbeat_s=600))
            await device.is_present("offline", connection)
    await until(lambda: is_shown(hub, "flapping"))
    series = 'metrica_device_flapping{device="pi-01",role="camera"} 1'
    await until(lambda: series in hub.get("/metrics").text, what="the metrics follow")
    page = hub.get("/").text
    assert ">flapping</span>" in page
    assert "it comes and goes since" in page
    for connection in range(6, 12):
        async with Device("pi-01", broker.port) as device:
            await device.is_present("online", connection)
            shown.add(seen(hub)["connection"])
            await device.is_present("offline", connection)
            shown.add(seen(hub)["connection"])
    assert shown == {"flapping"}
    asked = "SELECT presence, presence_connection FROM devices WHERE device = 'pi-01'"
    await until(lambda: cluster.execute(asked, database.name) == "offline|11", what="its words are kept as they were")
    await until(lambda: is_shown(hub, "offline", "connection-lost"), within_s=4 * HALF_LIFE_S + LOOK_S)
    await until(lambda: "metrica_device_flapping{" not in hub.get("/metrics").text)


async def test_another_hub_goes_on_with_what_was_concluded(hub: Hub, broker: Broker, database: Database) -> None:
    await settled(hub, broker)
    with Hub(database.url, broker.port, settings=SETTINGS) as second:
        second.wait_until_ready()
        assert listens(second), "every hub shows what the one that leads has found"
        hub.kill()
        await until(lambda: "\nmetrica_bus_connected 1.0\n" in second.get("/metrics").text)
        async with Device("long-gone", broker.port) as device:
            await device.is_present("online", 2)
            await until(lambda: is_shown(second, "online", "connected", device="long-gone"))
