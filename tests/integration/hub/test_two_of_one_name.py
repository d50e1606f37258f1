"""Cards that were cloned, ids given twice, ledgers restored or lost: told, and no record is lost or stored twice.

The devices are the agent's own ledger, report task and bus on a real broker; the hub is the real one.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.fixtures.broker import free_port
from tests.integration.agent.reporting import DEVICE, device
from tests.integration.agent.reporting import until as until_so
from tests.integration.hub.waiting import until

from metrica_agent.adapters.clock import Clock, boot_clock_s
from metrica_agent.tasks.report import Timing
from metrica_fleet.identity import BootId

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.broker import Broker
    from tests.fixtures.database import Cluster, Database
    from tests.fixtures.hub import Hub
    from tests.integration.agent.reporting import Device

TURNS = Timing(heartbeat_s=5, reconnect_base_s=0.5, reconnect_cap_s=4, stood_s=2, resend_base_s=2, resend_cap_s=8)
TOLD_S = 60.0
ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def of_boot(boot: str) -> Clock:
    """The clock of a machine of its own."""
    return Clock(boot_id=BootId(boot), boot_s=boot_clock_s, synchronised=lambda: True)


def is_told(pi: Device) -> bool:
    return pi.ledger.stored() == pi.ledger.last_seq() > 0


def seen(hub: Hub) -> dict[str, Any]:
    return hub.get(f"/api/v1/devices/{DEVICE}").json


def stored(cluster: Cluster, database: Database) -> Counter[str]:
    """Return what was told, and how often it is stored."""
    rows = cluster.execute("SELECT message FROM events WHERE kind = 'commit.seen'", database.name)
    return Counter(rows.splitlines())


def once(*texts: str) -> Counter[str]:
    return Counter(texts)


def numbered(what: str, count: int) -> list[str]:
    return [f"{what} {number}" for number in range(count)]


async def lived(folder: Path, port: int, boot: str, texts: list[str]) -> None:
    """Let a device say ``texts``, until all it has is stored; it is alone."""
    async with device(folder, port, clock=of_boot(boot)) as pi:
        await pi.say(*texts)
        await until_so(lambda: is_told(pi), within_s=30)


async def test_a_cloned_card_is_told_within_a_minute_and_neither_loses_a_record(
    tmp_path: Path, hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    card, clone = tmp_path / "card", tmp_path / "clone"
    await lived(card, broker.port, ONE, ["before"])
    async with device(card, free_port(), clock=of_boot(ONE)) as pi:
        await pi.say(*numbered("waits on both", 30))  # told nobody when the card was cloned
    shutil.copytree(card, clone)
    async with device(card, broker.port, clock=of_boot(ONE), timing=TURNS) as first:
        await until_so(lambda: is_told(first), within_s=30)
        began_s = time.monotonic()
        async with device(clone, broker.port, clock=of_boot(OTHER), timing=TURNS) as second:
            for number in range(40):
                await first.say(f"card {number}")
                await second.say(f"clone {number}")
            shown = await until(lambda: seen(hub)["claimants"], within_s=TOLD_S)
            assert time.monotonic() - began_s < TOLD_S
            assert {one["boot_id"] for one in shown} == {ONE, OTHER}
            assert all(one["last_heard_at"] for one in shown)
            await until(lambda: "claimed by two" in hub.get("/").text)
            assert f'metrica_device_claimed{{device="{DEVICE}",role="camera"}} 2' in hub.get("/metrics").text
            await until_so(lambda: is_told(first) and is_told(second), within_s=TOLD_S)
    everything = [
        "before",
        *numbered("waits on both", 30),
        *numbered("card", 40),
        *numbered("clone", 40),
    ]
    assert stored(cluster, database) == once(*everything)


async def test_two_devices_with_one_id_are_told_and_neither_loses_a_record(
    tmp_path: Path, hub: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    async with (
        device(tmp_path / "one", broker.port, clock=of_boot(ONE), timing=TURNS) as one,
        device(tmp_path / "other", broker.port, clock=of_boot(OTHER), timing=TURNS) as other,
    ):
        for number in range(30):
            await one.say(f"one {number}")
            await other.say(f"other {number}")
        await until(lambda: len(seen(hub).get("claimants", ())) == 2, within_s=TOLD_S)
        await until_so(lambda: is_told(one) and is_told(other), within_s=TOLD_S)
    assert stored(cluster, database) == once(*numbered("one", 30), *numbered("other", 30))


async def test_a_ledger_restored_from_a_copy_loses_nothing_that_it_tells_after(
    tmp_path: Path, broker: Broker, hub: Hub, cluster: Cluster, database: Database
) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    await lived(state, broker.port, ONE, ["before"])
    shutil.copytree(state, copy)
    await lived(state, broker.port, OTHER, numbered("after the copy", 20))
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    # Away from the broker it gives more numbers than the copy lacks; the broker has forgotten what the hub said.
    async with device(state, free_port(), clock=of_boot(OTHER)) as pi:
        await pi.say(*numbered("restored", 40))
    broker.restart(keep_disk=False)
    hub.wait_until_ready()
    await lived(state, broker.port, OTHER, ["in the end"])
    everything = ["before", *numbered("after the copy", 20), *numbered("restored", 40), "in the end"]
    assert stored(cluster, database) == once(*everything)
    assert seen(hub)["claimants"] == []


async def test_a_lost_ledger_begins_anew_and_the_device_is_there_again(
    tmp_path: Path, broker: Broker, hub: Hub, cluster: Cluster, database: Database
) -> None:
    state = tmp_path / "state"
    await lived(state, broker.port, ONE, numbered("lost", 20))
    shutil.rmtree(state)
    async with device(state, broker.port, clock=of_boot(OTHER)) as pi:
        await pi.say(*numbered("anew", 5))
        await until_so(lambda: is_told(pi), within_s=30)
        await until(lambda: seen(hub)["connection"] == "online" and seen(hub)["claimants"] == [])
    assert stored(cluster, database) == once(*numbered("lost", 20), *numbered("anew", 5))
