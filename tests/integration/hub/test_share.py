"""Several hubs share the records: whoever of them dies, freezes or leaves, nothing is lost and nothing stored twice."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt
import msgspec
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tests.faults.hunt import a_crowd, arrived, misses
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.wire import Wire
from tests.integration.hub.device import Device, deliver, event, heartbeat, new_stream, status, topic
from tests.integration.hub.test_broker_figures import figures, is_sound
from tests.integration.hub.test_lead import has_the_bus, leads
from tests.integration.hub.waiting import until

from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.messages import Stored
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, STORED, Address, every_device, shared, topic_of
from metrica_hub.adapters import bus as adapter
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.adapters.store.reader import Reader
from metrica_hub.decisions.coverage import MOST_SPANS
from metrica_hub.tasks.review import Reviewer
from metrica_sim.crowd.diary import read_diaries
from metrica_sim.crowd.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.fixtures.database import Cluster, Database

    from metrica_fleet.records import Record

ACL = Path(__file__).resolve().parents[3] / "mosquitto" / "acl"
SHARES = {"METRICA_HUB_BUS_SHARE": "true", "METRICA_HUB_BUS_USERNAME": "hub"}
DEVICES = tuple(f"pi-{number:02d}" for number in range(1, 9))
EACH = 300
COUNTS = """
SELECT device, count(*), count(DISTINCT seq), max(seq)
FROM (SELECT device, seq FROM heartbeats UNION ALL SELECT device, seq FROM events) AS record GROUP BY 1 ORDER BY 1
"""


@pytest.fixture
def rules() -> tuple[str, ...]:
    """The access rules that we ship."""
    return (f"acl_file {ACL}",)


@pytest.fixture
def broker(rules: tuple[str, ...], tmp_path: Path) -> Iterator[Broker]:
    """A broker with rules."""
    with Broker(tmp_path, settings=rules) as running:
        yield running


@pytest.fixture(params=["MOSQUITTO", "MOSQUITTO_2_0_21"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both brokers: the distribution's, and the one for production."""
    path = os.environ.get(request.param) or pytest.fail(f"{request.param} is not set: run ./scripts/test")
    monkeypatch.setenv("METRICA_TEST_MOSQUITTO", path)


@pytest.fixture
def to_database(cluster: Cluster) -> Iterator[Wire]:
    """The second hub's cable to Postgres."""
    with Wire(cluster.port) as wire:
        yield wire


@pytest.fixture
def first(either: None, broker: Broker, database: Database) -> Iterator[Hub]:
    """The hub that leads."""
    del either
    with Hub(database.url, broker.port, settings=SHARES) as hub:
        hub.wait_until_ready()
        yield hub


@pytest.fixture
def second(first: Hub, broker: Broker, database: Database, cluster: Cluster, to_database: Wire) -> Iterator[Hub]:
    """Another one that shares."""
    assert leads(first)
    url = database.url.replace(f":{cluster.port}/", f":{to_database.port}/")
    with Hub(url, broker.port, settings=SHARES) as hub:
        hub.wait_until_ready()
        yield hub


only_one_broker = pytest.mark.parametrize("either", ["MOSQUITTO_2_0_21"], indirect=True)


def records_of(stream: str, count: int = EACH) -> list[Record]:
    return [event(stream, seq) if seq % 3 == 0 else heartbeat(stream, seq) for seq in range(1, count + 1)]


def stored(cluster: Cluster, database: Database) -> int:
    return sum(int(line.split("|")[1]) for line in cluster.execute(COUNTS, database.name).splitlines())


def committed(hub: Hub) -> float:
    lines = hub.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("metrica_hub_records_total{"))


def assert_each_once(cluster: Cluster, database: Database, more: Mapping[str, int] | None = None) -> None:
    """Every record is there once, and the watermarks say so, with no gap before them and nothing beyond."""
    told: dict[str, int] = {**dict.fromkeys(DEVICES, EACH), **(more or {})}
    assert cluster.execute(COUNTS, database.name).splitlines() == [
        f"{name}|{each}|{each}|{each}" for name, each in told.items()
    ]
    marks = cluster.execute("SELECT device, stored_seq, ahead FROM streams ORDER BY 1", database.name).splitlines()
    assert marks == [f"{name}|{each}|{{}}" for name, each in told.items()]


async def remembered(broker: Broker, device: str) -> dict[str, int]:
    """Return what the broker keeps as the hub's last answer to ``device``."""
    async with aiomqtt.Client(HOST, broker.port, username=device, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(topic(device, STORED), qos=1)
        async with asyncio.timeout(20):
            message = await anext(aiter(client.messages))
    answer = decode(STORED, message.payload)  # pyright: ignore[reportArgumentType]
    assert isinstance(answer, Stored)
    return {str(stream): seq for stream, seq in answer.streams.items()}


async def until_remembered(broker: Broker, device: str, answer: dict[str, int]) -> None:
    """Return when the broker keeps ``answer``; each question is a new connection, as of a device that starts."""
    async with asyncio.timeout(45):
        while await remembered(broker, device) != answer:
            pass


async def test_records_are_dealt_to_all_hubs_and_each_is_stored_once(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    streams = {name: new_stream() for name in DEVICES}
    async with asyncio.TaskGroup() as group:
        for name, stream in streams.items():
            group.create_task(deliver(name, broker.port, records_of(stream)))
    assert_each_once(cluster, database)
    assert committed(first) > EACH
    assert committed(second) > EACH
    assert committed(first) + committed(second) == len(DEVICES) * EACH
    for name, stream in streams.items():
        await until_remembered(broker, name, {stream: EACH})
    assert (has_the_bus(first), has_the_bus(second)) == (True, False)
    for hub in (first, second):
        assert (figures(hub)["metrica_hub_shares"], figures(hub)["metrica_bus_share_connected"]) == (1, 1)
        is_sound(hub)


@pytest.mark.long
async def test_a_hub_killed_with_records_in_hand_that_never_comes_back_costs_only_that_devices_send_again(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    async with asyncio.TaskGroup() as group:
        for name in DEVICES:
            # Spread over three seconds: told all at once, it may all be stored before anybody looks.
            group.create_task(deliver(name, broker.port, records_of(new_stream()), pace_s=0.01))
        await until(lambda: stored(cluster, database) > 500)
        # It takes what it is dealt and does nothing with it, so that there is something to lose.
        os.kill(second.pid, signal.SIGSTOP)
        held_at = stored(cluster, database)
        await until(lambda: stored(cluster, database) > held_at + 100, within_s=60)
        second.kill()
        killed_s = time.monotonic()
        assert stored(cluster, database) < len(DEVICES) * EACH
    assert time.monotonic() - killed_s < 45
    assert_each_once(cluster, database)
    assert figures(first)["metrica_hub_duplicate_records_total"] > 0


@pytest.mark.long
@only_one_broker
async def test_more_gaps_than_a_stream_may_have_are_filled_when_the_hub_that_holds_them_is_dead(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    count = 4 * MOST_SPANS
    os.kill(second.pid, signal.SIGSTOP)  # every second record of the only device
    async with asyncio.TaskGroup() as group:
        group.create_task(deliver("pi-01", broker.port, records_of(new_stream(), count)))
        await until(lambda: figures(first)["metrica_hub_left_records_total"] > 0)
        second.kill()
    assert cluster.execute(COUNTS, database.name) == f"pi-01|{count}|{count}|{count}"
    assert cluster.execute("SELECT stored_seq, ahead FROM streams", database.name) == f"{count}|{{}}"


@pytest.mark.long
@only_one_broker
@pytest.mark.parametrize("rules", [()])  # all of a crowd are one user
def test_a_crowd_with_the_telemetry_of_real_devices_loses_nothing_when_a_hub_is_killed(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    state, devices, backlog = tmp_path / "crowd", 40, 60
    plan = msgspec.structs.replace(
        a_crowd(devices, duration_s=15, seed=1, haste=10),
        host=HOST,
        port=broker.port,
        state=str(state),
        backlog=backlog,
        ramp_s=1.0,
        event_every_s=0.5,
    )
    del first
    killing = threading.Thread(target=lambda: asyncio.run(kill_when(second, lambda: stored(cluster, database) > 1000)))
    killing.start()
    tally = simulate(plan, progress=io.StringIO())
    killing.join()
    assert misses(read_diaries(state), arrived(cluster, database)) == []
    assert tally.unheard == 0
    assert tally.events > 50
    assert int(cluster.execute("SELECT count(*) FROM heartbeats", database.name)) >= devices * backlog


async def kill_when(hub: Hub, fact: Callable[[], bool]) -> None:
    await until(fact)
    hub.kill()


@pytest.mark.long
@only_one_broker
async def test_a_hub_that_is_frozen_and_one_that_lost_the_database_hold_nothing_up_for_long_and_take_part_again(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database, to_database: Wire
) -> None:
    del first
    with Hub(database.url, broker.port, settings=SHARES) as third:
        third.wait_until_ready()
        to_database.hang()
        os.kill(third.pid, signal.SIGSTOP)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for name in DEVICES:
                group.create_task(deliver(name, broker.port, records_of(new_stream())))
        assert_each_once(cluster, database)
        await until(lambda: '"share.given_back"' in second.log)
        assert second.get("/readyz").status == 503
        await until(lambda: "exceeded timeout" in broker.log)
        # What they hold of it, they commit now: late, and stored by another meanwhile.
        os.kill(third.pid, signal.SIGCONT)
        to_database.mend()
        for hub in (second, third):
            await until(lambda hub=hub: hub.get("/readyz").status == 200)
        await until(lambda: second.log.count('"bus.connected"') == 2)
        await until(lambda: figures(second)["metrica_hub_unacknowledged_messages"] == 0)
        before = committed(second), committed(third)
        await deliver("pi-99", broker.port, records_of(new_stream(), 60))
        assert committed(second) > before[0]
        assert committed(third) > before[1]
    assert_each_once(cluster, database, {"pi-99": 60})


@only_one_broker
async def test_when_the_leader_dies_presence_status_and_records_go_on(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()
    async with Device("pi-01", broker.port) as device:
        await device.is_present("online", 1)
        await device.has_status(status("pi-01", message="before"))
        await until(lambda: said(cluster, database) == "online|before")
        first.kill()
        await device.has_status(status("pi-01", message="after", uptime_s=2.0))
        await deliver("pi-02", broker.port, records_of(stream, 50))
        await until(lambda: said(cluster, database) == "online|after", within_s=30)
        await device.is_present("offline", 1)
        await until(lambda: said(cluster, database) == "offline|after")
    assert (leads(second), has_the_bus(second)) == (True, True)
    assert second.get("/readyz").status == 200


def said(cluster: Cluster, database: Database) -> str:
    return cluster.execute("SELECT presence, message FROM devices WHERE device = 'pi-01'", database.name)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_hub_that_is_told_to_end_commits_its_part_so_that_no_device_need_send_anything_again(
    number: int, first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database
) -> None:
    leaving, staying = (first, second) if number == 1 else (second, first)
    left = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        telling = [group.create_task(tell_once(name, broker.port, left)) for name in DEVICES]
        await until(lambda: stored(cluster, database) > 100)
        assert await asyncio.to_thread(leaving.stop) == 0
        assert '"share.left_early"' not in leaving.log
        left.set()
    told = {name: one.result() for name, one in zip(DEVICES, telling, strict=True)}
    await until(lambda: stored(cluster, database) == sum(told.values()))
    assert_each_once(cluster, database, told)
    assert figures(staying)["metrica_hub_duplicate_records_total"] == 0


async def tell_once(name: str, port: int, over: asyncio.Event) -> int:
    """Tell something and nothing twice until it is over; never more than leaves room for as many gaps as may be."""
    stream, told = new_stream(), 0
    async with Device(name, port) as device:
        while not over.is_set():
            assert told < 2 * MOST_SPANS
            await asyncio.gather(*(device.tell(heartbeat(stream, told + 1 + number)) for number in range(5)))
            told += 5
            await asyncio.sleep(0.05)  # its pace
    return told


@only_one_broker
async def test_a_hub_that_is_told_to_end_and_can_not_commit_ends_in_time_and_its_part_comes_again(
    first: Hub, second: Hub, broker: Broker, cluster: Cluster, database: Database, to_database: Wire
) -> None:
    del first
    to_database.hang()
    async with asyncio.TaskGroup() as group:
        for name in DEVICES:
            group.create_task(deliver(name, broker.port, records_of(new_stream())))
        await until(lambda: figures(second)["metrica_hub_unacknowledged_messages"] > 0)
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(second.stop) == 0
    assert '"share.left_early"' in second.log
    assert_each_once(cluster, database)


@pytest.mark.usefixtures("either")
async def test_a_fleet_that_begins_to_share_is_not_told_everything_twice_and_keeps_what_waited(
    broker: Broker, cluster: Cluster, database: Database
) -> None:
    stream = new_stream()
    with Hub(database.url, broker.port, settings={"METRICA_HUB_BUS_USERNAME": "hub"}) as alone:
        alone.wait_until_ready()
        await deliver("pi-01", broker.port, [heartbeat(stream, 1)])
    async with Device("pi-01", broker.port) as device:
        await device.tell(heartbeat(stream, 2))
    with Hub(database.url, broker.port, settings=SHARES) as sharing:
        sharing.wait_until_ready()
        await until(lambda: stored(cluster, database) == 2, what="what waited for the hub")
        for name, count in (("pi-02", 50), ("pi-03", 1)):  # each once, however slow the answers are
            async with Device(name, broker.port) as device:
                for record in records_of(new_stream(), count):
                    await device.tell(record)
        await until(lambda: stored(cluster, database) == 53)
        assert figures(sharing)["metrica_hub_duplicate_records_total"] == 0


async def test_an_answer_that_overtook_a_later_one_is_put_right(first: Hub, broker: Broker, database: Database) -> None:
    del first
    stream = new_stream()
    await deliver("pi-01", broker.port, records_of(stream, 20))
    await until_remembered(broker, "pi-01", {stream: 20})
    pool = await open_pool(database.url, name="test", size=1)
    late = adapter.Broker(
        HOST, broker.port, "late", (every_device(FleetId(FLEET), PRESENCE),), adapter.Account("hub"), lasting=False
    )
    bus = adapter.Bus(late, chance=lambda: 0.0, on_connected=lambda: None)
    bus.let_connect()
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(bus.run())]
            # Another hub had committed up to 10 before, and only now comes to say so.
            bus.say(topic("pi-01", STORED), encode(Stored(streams={stream: 10})))
            await until(lambda: not bus.unsaid())
            assert await remembered(broker, "pi-01") == {stream: 10}
            reviewer = Reviewer(FleetId(FLEET), bus=bus, store=Reader(pool))
            running.append(group.create_task(reviewer.run()))
            reviewer.answered(DeviceId("pi-01"), {stream: 10})
            await until_remembered(broker, "pi-01", {stream: 20})
            for task in running:
                task.cancel()
    finally:
        await close_pool(pool, within_s=1)


@pytest.mark.usefixtures("either")
async def test_without_an_outbox_behind_it_a_shared_subscription_loses_messages_when_a_member_goes(
    broker: Broker,
) -> None:
    """CONVENTIONS.md F5, on these brokers: why devices keep what is not stored, and a member's session ends with it."""
    count, pattern = 40, shared(every_device(FleetId(FLEET), RECORDS), "plain")
    async with member(broker, "a") as a, member(broker, "b") as b:
        for one in (a, b):
            await one.subscribe(pattern, qos=1)
    async with Device("pi-01", broker.port) as device:
        for seq in range(1, count + 1):
            await device.tell(heartbeat(new_stream(), seq))
    async with member(broker, "a", ends=True):
        pass  # its session ends, with what waited for it
    async with member(broker, "b") as b:
        last = topic_of(Address(FleetId(FLEET), HEAD))
        await b.subscribe(last, qos=1)
        await b.publish(last, b"{}", qos=1)
        heard: list[str] = []
        async with asyncio.timeout(10):
            async for message in b.messages:
                heard.append(str(message.topic))
                if heard[-1] == last:
                    break
    assert heard[:-1] == [topic("pi-01", RECORDS)] * (count // 2)


def member(broker: Broker, name: str, *, ends: bool = False) -> aiomqtt.Client:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0 if ends else 60
    return aiomqtt.Client(
        HOST,
        broker.port,
        username="hub",
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=ends,
        properties=properties,
    )
