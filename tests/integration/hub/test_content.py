"""What devices say, good and bad, and what the hub makes of it."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.hub import Hub
from tests.integration.hub.device import Device, event, heartbeat, new_stream, presence, service, services, status
from tests.integration.hub.waiting import until

from metrica_fleet.codec import encode
from metrica_fleet.topics import PRESENCE, RECORDS, SERVICES, STATUS, Channel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.database import Cluster, Database

S = "5" * 32


def record(**changes: object) -> bytes:
    """A valid event, with ``changes``."""
    fields = msgspec.to_builtins(event(S, 1, prev=0))
    return msgspec.json.encode({**fields, **changes})


GARBAGE: list[tuple[str, Channel, bytes, str]] = [
    ("not JSON", RECORDS, b"hello", "not-json"),
    ("empty", RECORDS, b"", "not-json"),
    ("half", RECORDS, record()[:-10], "not-json"),
    ("not UTF-8", RECORDS, record(message="x").replace(b'"x"', b'"\xff"'), "not-json"),
    ("a raw NUL", RECORDS, record(message="x").replace(b'"x"', b'"\x00"'), "not-json"),
    ("a lone surrogate", RECORDS, record(message="x").replace(b'"x"', b'"\\ud800"'), "not-json"),
    ("a number", RECORDS, b"17", "wrong-type"),
    ("a list", RECORDS, b"[]", "wrong-type"),
    ("nested deeply", RECORDS, b"[" * 20_000 + b"]" * 20_000, "wrong-type"),
    ("no seq", RECORDS, record().replace(b'"seq":1,', b""), "missing-field"),
    ("seq 0", RECORDS, record(seq=0), "wrong-type"),
    ("seq beyond 2^53", RECORDS, record(seq=2**53), "wrong-type"),
    ("unknown type", RECORDS, record(type="measurement"), "wrong-type"),
    ("a number out of range", RECORDS, record(uptime_s=1).replace(b'"uptime_s":1', b'"uptime_s":1e999'), "wrong-type"),
    ("too large", RECORDS, record(detail={"x": "y" * 70_000}), "too-large"),
    ("NUL in the message", RECORDS, record(message="a\0b"), "nul-character"),
    ("NUL in a key", RECORDS, record(detail={"a\0": 1}), "nul-character"),
    ("NUL in the boot id", RECORDS, record(boot_id="\0"), "nul-character"),
    ("status of another", STATUS, encode(status("pi-02")), "device-mismatch"),
    ("presence of another", PRESENCE, encode(presence("pi-02", "online", 9)), "device-mismatch"),
    ("services of another", SERVICES, encode(services("pi-02")), "device-mismatch"),
    ("a service with NUL", SERVICES, encode(services("pi-01", service("\0"))), "nul-character"),
    ("an emptied status", STATUS, b"", "not-json"),
    ("a status with NUL", STATUS, encode(status("pi-01", message="\0")), "nul-character"),
]


class Shared:
    """One hub for all kinds of garbage: that it lives through all of them is part of the test."""

    def __init__(self, hub: Hub, broker: Broker, cluster: Cluster, database: Database) -> None:
        self.hub, self.broker = hub, broker
        self._cluster, self._database = cluster, database

    def sql(self, statement: str) -> str:
        """Run a statement."""
        return self._cluster.execute(statement, self._database.name)

    async def forget(self) -> None:
        """Empty the tables."""
        self.sql("TRUNCATE events, heartbeats, dead_letters, streams, devices")


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The hub of this module."""
    with (
        Broker(tmp_path_factory.mktemp("garbage")) as broker,
        cluster.database() as database,
        Hub(database.url, broker.port) as hub,
    ):
        hub.wait_until_ready()
        yield Shared(hub, broker, cluster, database)


@pytest.mark.parametrize(("channel", "payload", "reason"), [case[1:] for case in GARBAGE], ids=[c[0] for c in GARBAGE])
async def test_garbage_is_set_aside_with_its_reason_and_the_next_message_goes_on(
    channel: Channel, payload: bytes, reason: str, shared: Shared
) -> None:
    await shared.forget()
    async with Device("pi-01", shared.broker.port) as device:
        await device.say(channel, payload, retain=False)
        await device.tell(event(S, 2, prev=1))
    found = await until(lambda: shared.sql("SELECT reason FROM dead_letters"), what="a dead letter")
    assert found == reason
    kept = hashlib.sha256(payload[:65536]).hexdigest()
    assert shared.sql("SELECT encode(sha256(payload), 'hex') FROM dead_letters") == kept
    assert int(shared.sql("SELECT payload_bytes FROM dead_letters")) == len(payload)
    assert await until(lambda: shared.sql("SELECT seq FROM events"), what="the next message") == "2"


async def test_one_record_that_postgres_refuses_does_not_hold_up_the_batch_or_the_stream(shared: Shared) -> None:
    await shared.forget()
    shared.sql("ALTER TABLE events ADD CONSTRAINT refusing CHECK (message <> 'refuse me')")
    bad = {7, 8, 31}
    async with Device("pi-01", shared.broker.port) as device:
        for seq in range(1, 41):
            payload = record(seq=seq, prev=seq - 1)
            if seq in bad:
                payload = record(seq=seq, prev=seq - 1, message="refuse me")
            await device.say(RECORDS, payload)
    await until(lambda: shared.sql("SELECT stored_seq FROM streams") == "40", what="the watermark passes them")
    assert shared.sql("SELECT count(*) FROM events") == "37"
    assert shared.sql("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM dead_letters") == "7,8,31"
    shared.sql("ALTER TABLE events DROP CONSTRAINT refusing")


async def test_a_time_that_no_clock_tells_is_stored_as_none(shared: Shared) -> None:
    await shared.forget()
    times = ("0001-01-01T00:00:00+12:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")
    async with Device("pi-01", shared.broker.port) as device:
        for seq, at in enumerate(times, start=1):
            await device.say(RECORDS, record(seq=seq, prev=seq - 1, at=at))
    await until(lambda: shared.sql("SELECT stored_seq FROM streams") == "3", what="the watermark passes them")
    assert shared.sql("SELECT count(*) FROM events WHERE at IS NULL") == "3"
    assert shared.sql("SELECT count(*) FROM dead_letters") == "0"


async def test_a_record_of_a_kind_that_is_not_known_yet_does_not_hold_up_its_stream(shared: Shared) -> None:
    await shared.forget()
    async with Device("pi-01", shared.broker.port) as device:
        for _ in range(2):  # and when it comes again it is set aside once
            await device.say(RECORDS, record(seq=1, prev=0))
            await device.say(RECORDS, record(seq=2, prev=1, type="measurement"))
            await device.say(RECORDS, record(seq=3, prev=2))
    await until(lambda: shared.sql("SELECT stored_seq FROM streams") == "3")
    assert shared.sql("SELECT stream, seq, reason FROM dead_letters") == (
        "55555555-5555-5555-5555-555555555555|2|wrong-type"
    )


async def test_a_late_will_of_an_older_connection_does_not_turn_a_device_offline(shared: Shared) -> None:
    await shared.forget()
    async with Device("pi-01", shared.broker.port) as device:
        await device.is_present("online", 4)
        await device.is_present("online", 5)
        await device.is_present("offline", 4)
        await device.tell(event(S, 1))  # behind it in the same order
        await until(lambda: shared.sql("SELECT stored_seq FROM streams"))
        assert shared.hub.get("/api/v1/devices/pi-01").json["connection"] == "online"
        await device.is_present("offline", 5)
        await until(lambda: shared.hub.get("/api/v1/devices/pi-01").json["connection"] == "offline")


async def test_a_device_with_a_new_card_that_counts_from_one_again_is_seen_online(shared: Shared) -> None:
    await shared.forget()
    async with Device("pi-01", shared.broker.port) as device:
        await device.is_present("online", 70)
        await device.is_present("offline", 70)
        await device.is_present("online", 1, boot="another-boot")
    await until(lambda: shared.sql("SELECT presence FROM devices") == "online")


async def test_a_retained_status_is_seen_by_a_hub_that_comes_later(broker: Broker, database: Database) -> None:
    async with Device("pi-01", broker.port) as device:
        await device.is_present("online", 3)
        await device.has_status(status("pi-01", mode="trial", message="<b>careful</b>", uptime_s=12.5))
    with Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        await until(lambda: hub.get("/api/v1/devices").json["items"])
        await until(lambda: hub.get("/api/v1/devices/pi-01").json["mode"] == "trial")
        seen = hub.get("/api/v1/devices/pi-01").json
        assert (seen["connection"], seen["role"], seen["message"]) == ("online", "camera", "<b>careful</b>")
        assert seen["vitals"]["temperature_celsius"] == 50.0
        assert seen["last_seen_at"] is None  # the broker remembered it; the device itself was not heard
        page = await until(lambda: (re.search("careful", text := hub.get("/").text) and text) or "")
        assert "<b>careful" not in page
        assert "&lt;b&gt;careful&lt;/b&gt;" in page


async def test_an_older_status_of_the_same_boot_does_not_replace_a_newer_one(shared: Shared) -> None:
    await shared.forget()
    async with Device("pi-01", shared.broker.port) as device:
        await device.has_status(status("pi-01", mode="steady", uptime_s=100.0))
        await device.has_status(status("pi-01", mode="trial", uptime_s=99.0))
        await device.tell(event(S, 1))
        await until(lambda: shared.sql("SELECT stored_seq FROM streams"))
    assert shared.sql("SELECT mode FROM devices") == "steady"


async def test_backlog_of_an_earlier_boot_does_not_replace_the_vitals_of_now(shared: Shared) -> None:
    await shared.forget()
    stream = new_stream()
    async with Device("pi-01", shared.broker.port) as device:
        await device.has_status(status("pi-01", uptime_s=5.0))
        old = msgspec.structs.replace(heartbeat(stream, 1, uptime_s=90_000.0), boot_id="an-earlier-boot")
        await device.tell(old)
        await until(lambda: shared.sql("SELECT stored_seq FROM streams"))
        assert shared.sql("SELECT uptime_s, temperature_celsius FROM devices") == "5|50"
        await device.tell(heartbeat(stream, 2, uptime_s=6.0))
        await until(lambda: shared.sql("SELECT uptime_s, temperature_celsius FROM devices") == "6|48.5")


@pytest.mark.usefixtures("hub")
async def test_an_answer_names_the_streams_of_a_device_that_were_stored_last(broker: Broker) -> None:
    """What is retained is for whoever comes next under the name, and no answer takes another one back."""
    streams = [new_stream() for _ in range(6)]
    async with Device("pi-01", broker.port) as device:
        answers = device.stored()
        for number, stream in enumerate(streams):
            await device.tell(event(stream, 1))
            async for answer in answers:
                if stream in answer.streams:
                    assert list(answer.streams) == streams[max(0, number - 3) : number + 1]
                    break
