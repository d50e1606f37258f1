from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
from msgspec import structs
from tests.fixtures.broker import Broker, free_port
from tests.integration.agent.reporting import QUICK, device, retained, tiny_hub, topic, until

from metrica_agent.adapters.bus import Patience
from metrica_agent.console import claimed
from metrica_agent.decisions.pace import Pace
from metrica_agent.decisions.services import Shown
from metrica_agent.tasks.report import Timing
from metrica_agent.tasks.talk import UNSTORED
from metrica_fleet.codec import decode
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId, StreamId
from metrica_fleet.messages import Head, Presence, Service, Services, Status, Stored
from metrica_fleet.records import Event
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, SERVICES, STATUS, STORED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from metrica_agent.tasks.talk import Link


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


async def test_a_newcomer_sees_presence_and_status(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        await until(lambda: hub.statuses and hub.statuses[-1].vitals.load_1m is not None)
        presence = cast("Presence", decode(PRESENCE, (await retained(broker.port, PRESENCE)).payload))
        message = await retained(broker.port, STATUS)
        told = cast("Status", decode(STATUS, message.payload))
        assert (presence.state, presence.reason, presence.device) == ("online", "connected", "pi-01")
        assert presence.boot_id == pi.clock.boot_id
        assert (told.mode, told.stream, told.vitals.load_1m) == ("steady", pi.ledger.stream, 0.5)
        assert message.retain
        assert message.properties is not None
        about = cast("dict[str, object]", message.properties.json())
        assert (about["ContentType"], about["PayloadFormatIndicator"]) == ("application/json", 1)


async def test_greets_in_order_and_numbers_its_connections(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        async with device(tmp_path, broker.port) as pi:
            await pi.say("one")
            await until(lambda: hub.said() == ["one"])
        kinds = [message.topic.value.rsplit("/", 1)[1] for message in hub.raw]
        assert kinds.index("presence") < kinds.index("status") < kinds.index("records")
        async with device(tmp_path, broker.port):
            await until(lambda: sum(presence.state == "online" for presence in hub.presences) == 2)
        online = [presence.connection for presence in hub.presences if presence.state == "online"]
        assert online[0] < online[1]


def runs(restarts: int) -> Shown:
    return Shown(services=(Service(name="web", state="running", restarts=restarts),))


async def test_what_runs_is_said_when_it_changes_and_on_each_connection(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        await pi.say("nothing is known of it yet")
        await until(lambda: len(hub.said()) == 1)
        for number in range(3):
            pi.runs = runs(number)
            await pi.say("it changed")
            await until(lambda number=number: len(hub.services) == number + 1)
            await pi.say("it did not")
            await until(lambda number=number: len(hub.said()) == 3 + 2 * number)
        assert [one.services[0].restarts for one in hub.services] == [0, 1, 2]
        pi.task.turn()
        await until(lambda: len(hub.services) == 4)
        message = await retained(broker.port, SERVICES)
        assert message.retain
        told = cast("Services", decode(SERVICES, message.payload))
        assert (told.device, told.boot_id, told.services) == ("pi-01", pi.clock.boot_id, runs(2).services)


async def test_what_changes_for_ever_is_said_now_and_then_and_its_last_state_in_time(
    tmp_path: Path, broker: Broker
) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        pi.task.services_pace = Pace(per_s=0.5, burst=3, tokens=3.0)
        began_s = time.monotonic()
        for number in range(30):
            pi.runs = runs(number)
            await pi.say(f"{number}")
            await until(lambda number=number: hub.said()[-1:] == [f"{number}"])
        await until(lambda: hub.services and hub.services[-1].services[0].restarts == 29)
        assert 3 < len(hub.services) <= 3 + 0.5 * (time.monotonic() - began_s) + 1


async def test_an_event_arrives_within_milliseconds(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        await pi.say("first")
        await until(hub.said)
        took: list[float] = []
        for number in range(50):
            began = time.monotonic()
            await pi.say(f"{number}")
            while hub.said()[-1] != f"{number}":  # noqa: ASYNC110  # the moment counts
                await asyncio.sleep(0)
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.5


async def test_what_is_stored_is_forgotten(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        for number in range(10):
            await pi.say(f"{number}")
        await until(lambda: pi.ledger.stored() == pi.ledger.last_seq() > 0)
        assert hub.said() == [f"{number}" for number in range(10)]
        assert await pi.ledger.unsent(0, 100) == ()


async def test_any_watermark_is_harmless(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        await pi.say("one", "two", "three")
        await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
        stored = pi.ledger.stored()
        await hub.say(STORED, Stored(streams={StreamId("f" * 32): 10_000, pi.ledger.stream: 1}))
        await hub.client.publish(topic(STORED), b'{"streams": {"x": -1}}', qos=1)
        await hub.client.publish(topic(STORED), b"\xff\x00 no message", qos=1)
        await until(lambda: pi.bus.garbage == 2)
        await hub.tell()
        assert pi.ledger.stored() == stored
        await pi.say("four")
        await until(lambda: hub.said() == ["one", "two", "three", "four"])
        assert len(set(hub.order)) == len(hub.order)


async def test_a_head_is_handed_on(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        head = Head(branch="main", commit=CommitId("a" * 40), number=3)
        await hub.say(HEAD, head)
        await until(lambda: pi.heads == [head])


async def test_a_status_is_told_when_it_changes_and_not_otherwise(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        await pi.say("one")
        await until(lambda: hub.said() == ["one"])
        before = len(hub.statuses)
        await pi.say("two")
        await until(lambda: hub.said() == ["one", "two"])
        assert len(hub.statuses) == before
        pi.now = structs.replace(pi.now, mode="trial")
        pi.task.wake.nudge()
        await until(lambda: hub.statuses[-1].mode == "trial")
        assert len(hub.statuses) == before + 1


async def test_heartbeats_come_at_their_interval_and_no_status_repeats_them(tmp_path: Path, broker: Broker) -> None:
    timing = structs.replace(QUICK, heartbeat_s=0.5)
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port, timing=timing) as pi:
        await until(lambda: pi.ledger.stored() >= 2)
        before, beats = len(hub.statuses), pi.task.beats
        await until(lambda: pi.ledger.stored() >= 8)
        assert not hub.said()
        assert pi.task.beats >= beats + 5
        assert len(hub.statuses) <= before + 2, "one may meet a heartbeat on its way to the hub"


async def test_a_hub_that_stores_nothing_hears_a_status_at_each_heartbeat(tmp_path: Path, broker: Broker) -> None:
    timing = structs.replace(QUICK, heartbeat_s=0.1)
    async with (
        tiny_hub(broker.port) as hub,
        device(tmp_path, broker.port, timing=timing),
    ):
        hub.silent = True
        before = len(hub.statuses)
        await until(lambda: len(hub.statuses) >= before + 10)
        assert len({status.last_seq for status in hub.statuses[before:]}) >= 8, "each says how many records there are"


async def test_a_device_that_spares_itself_beats_more_rarely_and_says_how_often(tmp_path: Path, broker: Broker) -> None:
    timing, factor = structs.replace(QUICK, heartbeat_s=0.1), [1]
    async with (
        tiny_hub(broker.port) as hub,
        device(tmp_path, broker.port, timing=timing, slower=lambda: factor[0]) as pi,
    ):
        await until(lambda: hub.statuses and hub.statuses[-1].heartbeat_s == 0.1)
        factor[0] = 5
        await until(lambda: hub.statuses[-1].heartbeat_s == 0.5)
        beats, began_s = pi.task.beats, time.monotonic()
        await until(lambda: pi.task.beats >= beats + 4)
        assert time.monotonic() - began_s > 4 * 0.1 * 1.5, "four beats at the old interval and all of its jitter"


# --- the broker goes and comes ------------------------------------------------------------------------------------


async def test_a_broker_that_is_down_holds_nothing_up(tmp_path: Path) -> None:
    async with device(tmp_path, free_port()) as pi:
        took: list[float] = []
        for number in range(200):
            began = time.monotonic()
            await pi.say(f"{number}")
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.5
        assert len(await pi.ledger.unsent(0, 1000)) >= 200


async def test_a_broker_that_comes_later_gets_everything_in_order(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        broker.stop()
        async with device(tmp_path, broker.port) as pi:
            for number in range(30):
                await pi.say(f"{number}")
            broker.start()
            async with tiny_hub(broker.port) as hub:
                await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
                assert hub.said() == [f"{number}" for number in range(30)]


async def test_a_broker_that_loses_its_disk_loses_nothing_of_ours(tmp_path: Path, broker: Broker) -> None:
    async with device(tmp_path, broker.port) as pi:
        async with tiny_hub(broker.port) as hub:
            await pi.say("stored")
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
            hub.deaf = True
            before = hub.came
            await pi.say("lost 1", "lost 2")
            await until(lambda: hub.came >= before + 2)
        broker.kill()
        broker.forget()
        broker.start()
        async with tiny_hub(broker.port, hub) as again:
            await pi.say("after")
            await until(lambda: again.said() == ["stored", "lost 1", "lost 2", "after"])
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())


IMPATIENT = Patience(connect_s=1.0, answer_s=1.0)
"""A loss before anybody listens is noticed by waiting: by default for longer than a test waits."""


async def test_no_connection_begins_with_a_cancellation_that_the_one_before_left_behind(
    tmp_path: Path, broker: Broker
) -> None:
    async with device(tmp_path / "device", broker.port, patience=IMPATIENT) as one:
        session = one.bus.session
        begun: list[int] = []

        def watched(will: Presence) -> AbstractAsyncContextManager[Link]:
            task = asyncio.current_task()
            assert task is not None
            begun.append(task.cancelling())
            return session(will)

        one.task.bus = Watched(watched)
        for number in range(4):
            await one.say(*(f"{number} {text}" for text in range(15)))  # on their way when the broker dies
            broker.kill()
            connections = len(begun)
            broker.start()
            await until(lambda connections=connections: len(begun) > connections)
    assert begun == [0] * len(begun)


async def test_a_cancellation_of_nobody_ends_a_connection_and_not_the_task(tmp_path: Path, broker: Broker) -> None:
    async with device(tmp_path / "device", broker.port, patience=IMPATIENT) as one:
        session, strays = one.bus.session, 3

        def straying(will: Presence) -> AbstractAsyncContextManager[Link]:
            nonlocal strays
            if strays:
                strays -= 1
                raise asyncio.CancelledError
            return session(will)

        one.task.bus = Watched(straying)
        broker.restart()
        async with tiny_hub(broker.port) as hub:
            await one.say("after all")
            await until(lambda: hub.said()[-1:] == ["after all"])
        assert strays == 0


def talking() -> list[asyncio.Task[object]]:
    return [one for one in asyncio.all_tasks() if one.get_name() == "talk"]


async def test_an_end_that_comes_together_with_the_loss_of_a_connection_is_an_end(
    tmp_path: Path, broker: Broker
) -> None:
    async with device(tmp_path / "device", broker.port, patience=IMPATIENT) as one:

        def lost_and_ended(_: Presence) -> AbstractAsyncContextManager[Link]:
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: talking()[0].cancel())
            raise NotNow("lost", reason="bus-lost")

        await until(talking)
        (talk,) = talking()
        one.task.bus = Watched(lost_and_ended)
        broker.kill()
        await until(talk.done)
        assert talk.cancelled()


@dataclass
class Watched:
    """A bus whose sessions a test has a hand in."""

    begin: Callable[[Presence], AbstractAsyncContextManager[Link]]

    def session(self, will: Presence) -> AbstractAsyncContextManager[Link]:
        return self.begin(will)


async def test_what_is_not_answered_is_sent_again_all_once_then_one_by_one(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        hub.deaf = True
        async with device(tmp_path, broker.port) as pi:
            pi.task.pace = Pace(per_s=200.0)
            await pi.say(*[f"{number}" for number in range(60)])
            await until(lambda: hub.came == 2 * UNSTORED)  # as many as may be unstored, and those again
            await until(lambda: hub.came == 2 * UNSTORED + 2)  # then what it takes to be answered
            hub.deaf = False
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
            assert hub.said() == [f"{number}" for number in range(60)]


async def test_a_backlog_goes_as_fast_as_it_is_stored(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        hub.deaf = True
        async with device(tmp_path, broker.port, timing=structs.replace(QUICK, resend_base_s=60.0)) as pi:
            pi.task.pace = Pace(per_s=1000.0)
            await pi.say(*[f"{number}" for number in range(60)])
            await until(lambda: hub.came == UNSTORED)
            for stored in (1, 7, UNSTORED, 33):
                await hub.say(STORED, Stored(streams={pi.ledger.stream: stored}))
                await until(lambda stored=stored: hub.came == stored + UNSTORED)
            assert pi.ledger.last_seq() > hub.came


async def test_what_was_lost_at_the_beginning_of_a_backlog_does_not_wait_for_its_end(
    tmp_path: Path, broker: Broker
) -> None:
    async with tiny_hub(broker.port) as hub:
        hub.loses = {5}
        async with device(tmp_path, broker.port) as pi:
            pi.task.pace = Pace(per_s=200.0)
            await pi.say(*[f"{number}" for number in range(400)])
            await until(lambda: hub.came > 30)
            hub.loses = set()
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
    seqs = [seq for _, seq in hub.order]
    assert sorted(seqs) == list(range(1, len(seqs) + 1))
    assert seqs.index(5) < seqs.index(len(seqs))


async def test_a_hub_that_answers_after_long_silence_gets_at_once_what_it_lacks(tmp_path: Path, broker: Broker) -> None:
    slower_and_slower = Timing(heartbeat_s=3600, resend_base_s=0.1, resend_cap_s=600.0)
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port, timing=slower_and_slower) as pi:
        pi.task.pace = Pace(per_s=200.0)
        await pi.say("before")
        await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
        hub.deaf, before = True, hub.came
        await pi.say(*[f"{number}" for number in range(30)])
        await until(lambda: hub.came >= before + 2 * UNSTORED + 4)  # the next would come in three seconds
        hub.deaf = False
        began_s = time.monotonic()
        await hub.tell()  # as a hub does that has just connected
        await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
        assert time.monotonic() - began_s < 1.5


async def test_what_never_arrives_does_not_make_all_the_rest_go_for_ever(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        hub.loses = {1}
        async with device(tmp_path, broker.port) as pi:
            pi.task.pace = Pace(per_s=400.0)
            await pi.say(*[f"{number}" for number in range(60)])

            def times(seq: int) -> int:
                sent = (decode(RECORDS, one.payload) for one in hub.raw if one.topic.value == topic(RECORDS))
                return sum(cast("Event", record).seq == seq for record in sent)

            # The first time, again because nothing was heard, again because the hub answers; then what it takes to ask.
            await until(lambda: times(1) >= 5)
            assert times(UNSTORED) == 3


async def test_a_hub_that_stored_and_did_not_say_so_is_asked_again(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        hub.silent = True
        async with device(tmp_path, broker.port) as pi:
            await pi.say("one")
            await until(lambda: hub.said() == ["one"])
            hub.silent = False
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
            assert hub.said() == ["one"]


async def test_a_thousand_records_are_drained_at_a_pace(tmp_path: Path, broker: Broker) -> None:
    with Broker(tmp_path / "other") as nobody:
        nobody.stop()
        async with device(tmp_path, nobody.port) as pi:
            for page in range(20):
                await pi.say(*[f"{page * 50 + number}" for number in range(50)])
    async with tiny_hub(broker.port) as hub:
        began = time.monotonic()
        async with device(tmp_path, broker.port) as pi:
            pi.task.pace = Pace(per_s=200.0)
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq(), within_s=30)
        took = time.monotonic() - began
    assert hub.said() == [f"{number}" for number in range(1000)]
    assert took >= (1000 - 20) / 200


async def test_what_an_older_copy_says_is_no_repetition(tmp_path: Path, broker: Broker) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    async with tiny_hub(broker.port) as hub:
        async with device(first, broker.port) as pi:
            await pi.say("before")
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
        shutil.copytree(first, copy)
        async with device(first, broker.port) as pi:
            await pi.say(*[f"original {number}" for number in range(20)])
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
        async with device(copy, free_port()) as pi:
            await pi.say(*[f"copy {number}" for number in range(40)])  # more than the original: its numbers lie inside
        async with device(copy, broker.port) as pi:
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq() > 40)
    assert hub.said() == [
        "before",
        *[f"original {number}" for number in range(20)],
        *[f"copy {number}" for number in range(40)],
    ]
    assert len(hub.watermarks) == 4


async def test_two_of_one_name_take_turns_and_each_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian's 2.0.11 ends the older connection without a word: there the hub alone can tell.
    monkeypatch.setenv("METRICA_TEST_MOSQUITTO", os.environ["MOSQUITTO_2_0_21"])
    with Broker(tmp_path) as broker:
        async with (
            tiny_hub(broker.port) as hub,
            device(tmp_path / "one", broker.port) as one,
            device(tmp_path / "other", broker.port) as other,
        ):
            for number in range(20):
                await one.say(f"one {number}")
                await other.say(f"other {number}")
            await until(lambda: hub.kinds().count("bus.taken_over") == 2)
            turns = len(hub.presences)
            await until(lambda: len(hub.presences) > turns + 6)
            await until(lambda: all(pi.ledger.stored() == pi.ledger.last_seq() for pi in (one, other)))
            said = [f"{who} {number}" for who in ("one", "other") for number in range(20)]
            assert sorted(hub.said()) == sorted(said)
            assert hub.kinds().count("bus.taken_over") == 2
        ((name, says),) = claimed(tmp_path / "one" / "agent.sqlite")
        assert name == "claimed"
        assert "another machine connected under this device's name" in says


# --- refused ------------------------------------------------------------------------------------------------------


async def test_a_denied_publication_is_told_once_and_arrives_when_it_is_allowed(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write metrica/v1/test/devices/pi-01/presence\n", encoding="utf-8")
    with Broker(tmp_path, settings=(f"acl_file {rules}", "log_type all")) as broker:
        async with device(tmp_path, broker.port) as pi:
            await pi.say("one")
            await until(lambda: pi.task.denied == {"records", "status"})
            await pi.say("two")
            await until(lambda: broker.log.count("Denied PUBLISH") >= 8)  # tried again and again
            told = [event for event in await pi.ledger.recent_events(100) if event.kind == "bus.denied"]
            assert sorted(str(event.detail["channel"]) for event in told) == ["records", "status"]
            assert {event.reason for event in told} == {"bus-denied"}
            assert "Not authorized" in told[0].message
            rules.write_text("topic readwrite #\n", encoding="utf-8")
            broker.restart()
            async with tiny_hub(broker.port) as hub:
                await until(lambda: hub.said() == ["one", "two"])
                await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
                assert hub.kinds().count("bus.denied") == 2
                await until(lambda: not pi.task.denied)


# --- the end ------------------------------------------------------------------------------------------------------


async def test_a_clean_end_says_so_in_time_and_leaves_no_will(tmp_path: Path, broker: Broker) -> None:
    patience = Patience(will_delay_s=1)
    async with tiny_hub(broker.port) as hub:
        async with device(tmp_path, broker.port, patience=patience) as pi:
            await until(lambda: hub.presences)
            began = time.monotonic()
            await pi.stop()
            assert time.monotonic() - began < Patience().connect_s
        await until(lambda: hub.presences[-1].reason == "shutdown")
        await asyncio.sleep(1.5)  # longer than the will's delay
        assert [presence.reason for presence in hub.presences] == ["connected", "shutdown"]


@pytest.mark.parametrize("state", ["nobody", "silent"])
async def test_a_clean_end_without_a_broker_is_quick_too(tmp_path: Path, state: str) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()
        closed.set()

    accepted, closed = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1] if state == "silent" else free_port()
    async with device(tmp_path, port) as pi:
        if state == "silent":
            await accepted.wait()
        began = time.monotonic()
        await pi.stop()
        assert time.monotonic() - began < Patience().connect_s
    if state == "silent":
        await closed.wait()
    server.close()
    await server.wait_closed()


async def test_records_of_all_kinds_survive_the_wire(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, device(tmp_path, broker.port) as pi:
        await pi.say("ünïcödé \u2026 \x00")
        await until(hub.said)
        (seq,) = await pi.say("last")
        await until(lambda: (pi.ledger.stream, seq) in hub.records)
        event = hub.records[pi.ledger.stream, seq]
        assert isinstance(event, Event)
        assert event.uptime_s > 0
        assert hub.said()[0] == "ünïcödé \u2026 \x00"
