"""Who may come in, and then say and hear what: every identity, topic and action, on the real broker as it is shipped.

What is expected comes from ``metrica_fleet.topics``, and not from the access file, which is made from it as well.
"""

from __future__ import annotations

import asyncio
import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import mqtt5
import pytest
from tests.fixtures.authority import Authority, Certificate
from tests.fixtures.raw_client import RawClient, Refused
from tests.fixtures.shipped_broker import ShippedBroker

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.topics import CHANNELS, RECORDS, ROOT, Address, address_of, every_device, shared, topic_of
from metrica_hub.decisions.share import group_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

DEADLINE_S: Final = 10.0
USERS: Final = ("pi-01", "pi-02", "hub", "operator", "+")
"""Names in good certificates. The last is one that would be everybody, if the broker took it for a wildcard."""
PLANTER: Final = "planter"
"""Somebody of these tests alone, who may do everything: plants what others must not read, and sees what is said."""
UNSAID: Final = "$SYS/unknown"
"""What nobody can say, with whatever rights: the broker keeps ``$SYS`` for itself."""
TOPICS: Final = (
    *(
        topic_of(Address(FleetId(fleet), channel, DeviceId(device) if channel.per_device else None))
        for fleet in ("harbour", "elsewhere")
        for channel in CHANNELS
        for device in (("pi-01", "pi-02") if channel.per_device else ("",))
    ),
    "metrica/v1/harbour",
    "metrica/v1/harbour/devices/pi-01",
    "metrica/v1/harbour/devices/pi-01/unknown",
    "metrica/v1/harbour/devices/pi-01/status/deeper",
    "metrica/v1/harbour/orders/unknown",
    "metrica/v2/harbour/head",
    "elsewhere",
    "$SYS/broker/version",
    UNSAID,
    "$CONTROL/dynamic-security/v1",
)

BY_THE_BROKER: Final = "$SYS/broker/version"
"""It says this itself, once."""


class Cell(NamedTuple):
    user: str
    topic: str
    action: str


# --- what is expected ---------------------------------------------------------------------------------------------


def may_write(user: str, topic: str) -> bool:
    try:
        address = address_of(topic)
    except Unusable:
        return False
    channel = address.channel
    match user:
        case "hub":
            return channel.writer == "hub"
        case "operator":
            return channel.operators
        case _:
            return channel.writer == "device" and address.device == user


def may_read(user: str, topic: str) -> bool:
    if user == "operator":  # looks at everything
        return topic.startswith((f"{ROOT}/", "$SYS/"))
    if user == "hub" and topic.startswith("$SYS/broker/"):  # for its figures
        return True
    try:
        address = address_of(topic)
    except Unusable:
        return False
    channel = address.channel
    if user == "hub":  # and what is said to all is no secret from who says it
        return channel.writer == "device" or not channel.per_device
    return user != "+" and channel.writer == "hub" and address.device in {None, user}


WRITING: Final = ("publish", "retain", "clear", "last will")
READING: Final = ("exactly", "by a wildcard", "in a group")


def expected() -> dict[Cell, bool]:
    writing = {Cell(user, topic, how): may_write(user, topic) for user in USERS for topic in TOPICS for how in WRITING}
    reading = {Cell(user, topic, how): may_read(user, topic) for user in USERS for topic in TOPICS for how in READING}
    # The broker has said this before, and a group hears nothing of what was; that nobody can say.
    never = {Cell(user, BY_THE_BROKER, "in a group"): False for user in USERS}
    unsaid = {Cell(user, UNSAID, how): False for user in USERS for how in READING}
    return writing | reading | never | unsaid


# --- what is there ------------------------------------------------------------------------------------------------


class Fleet(NamedTuple):
    """An authority, and certificates of all kinds."""

    authority: Authority
    contexts: dict[str, ssl.SSLContext]
    good: dict[str, Certificate]
    bad: dict[str, Certificate | None]
    twin: Certificate
    """The second one of pi-01, as after a renewal."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("authorities")
    ours, foreign = Authority(folder / "ours"), Authority(folder / "foreign")
    days = {number: timedelta(days=number) for number in (-2, -1, 1, 2)}
    revoked = ours.issued("pi-01")
    ours.revoke(revoked)
    ours.write_crl()
    bad = {
        "foreign": foreign.issued("pi-01"),
        "a foreign hub": foreign.issued("hub"),
        "expired": ours.issued("pi-01", begins=days[-2], ends=days[-1]),
        "not yet valid": ours.issued("pi-01", begins=days[1], ends=days[2]),
        "revoked": revoked,
        "a server's": ours.issued("pi-01", purpose="server"),
        "missing": None,
    }
    good = {user: ours.issued(user) for user in USERS}
    contexts = {user: ours.context(certificate) for user, certificate in good.items()}
    return Fleet(ours, contexts, good, bad, ours.issued("pi-01"))


@pytest.fixture(scope="module", params=["MOSQUITTO", "MOSQUITTO_2_0_21"])
def broker(
    request: pytest.FixtureRequest, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ShippedBroker]:
    name: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "METRICA_TEST_MOSQUITTO", os.environ.get(name) or pytest.fail(f"{name} is not set: ./scripts/test")
        )
        all_rights = (f"user {PLANTER}", "topic readwrite #", "topic readwrite $SYS/#", "topic write $CONTROL/#")
        running = ShippedBroker(tmp_path_factory.mktemp("broker"), fleet.authority, also=all_rights)
        running.add_user(PLANTER, PLANTER)
        with running:
            yield running


async def planting(broker: ShippedBroker, name: str = PLANTER) -> RawClient:
    return await RawClient.connected(broker.plain, name, username=PLANTER, password=PLANTER.encode())


async def entering(broker: ShippedBroker, fleet: Fleet, user: str, will: mqtt5.Will | None = None) -> RawClient:
    return await RawClient.connected(broker.tls, "any", tls=fleet.contexts[user], will=will)


def retained_in(client: RawClient) -> dict[str, bytes]:
    return {packet.topic: bytes(packet.payload) for packet in client.received if packet.retain}


async def retained(broker: ShippedBroker) -> dict[str, bytes]:
    """Return what the broker keeps."""
    async with await planting(broker, "looks") as looks:
        await looks.subscribed("#", "$SYS/#", "$CONTROL/#")
        await looks.caught_up()
        return retained_in(looks)


async def comes_in(broker: ShippedBroker, context: ssl.SSLContext) -> bool:
    try:
        async with await RawClient.connected(broker.tls, "any", tls=context):
            return True
    except Refused:
        return False


# --- who comes in -------------------------------------------------------------------------------------------------


async def test_only_a_certificate_that_is_good_now_comes_in(broker: ShippedBroker, fleet: Fleet) -> None:
    for user in USERS:
        async with await entering(broker, fleet, user):
            pass
    for why, certificate in fleet.bad.items():
        with pytest.raises(Refused):
            await RawClient.connected(broker.tls, why, tls=fleet.authority.context(certificate))
    with pytest.raises(Refused):
        await RawClient.connected(broker.tls, "pi-01", username=PLANTER, password=PLANTER.encode())
    with pytest.raises(Refused):  # a certificate is no password where passwords are asked for
        await RawClient.connected(broker.plain, "pi-01", username="pi-01")


async def test_an_older_tls_than_1_3_is_not_spoken(broker: ShippedBroker, fleet: Fleet) -> None:
    context = fleet.authority.context(fleet.good["pi-01"])
    context.maximum_version = context.maximum_version.TLSv1_2
    with pytest.raises(Refused):
        await RawClient.connected(broker.tls, "pi-01", tls=context)


@pytest.mark.parametrize("copy", ["the same certificate", "another one of the name"])
async def test_a_copy_takes_the_connection_over_and_nobody_else_can(
    broker: ShippedBroker, fleet: Fleet, copy: str
) -> None:
    """A client id of one's choice would end anybody's connection: it is the certificate's name, whatever is asked."""
    first = await entering(broker, fleet, "pi-01")
    thief = await RawClient.connected(broker.tls, "pi-01", tls=fleet.contexts["pi-02"])
    await first.caught_up()
    mine = fleet.good["pi-01"] if copy == "the same certificate" else fleet.twin
    async with await RawClient.connected(broker.tls, "else", tls=fleet.authority.context(mine)) as second, thief:
        # 2.0.11 closes without the reason, where TLS is spoken.
        assert await asyncio.wait_for(first.ended, DEADLINE_S) in {"session_taken_over", "the connection was closed"}
        await second.caught_up()
        await thief.caught_up()


async def test_who_is_revoked_is_out_once_the_broker_rereads_and_his_name_is_taken_over(
    broker: ShippedBroker, fleet: Fleet
) -> None:
    """Rereading ends no connection that stands: taking it over does, with a certificate that the hub gives itself."""
    ours = fleet.authority
    stolen, mine, probe = (ours.issued(name) for name in ("pi-03", "pi-03", "probe"))
    thief = await RawClient.connected(broker.tls, "thief", tls=ours.context(stolen))
    for taken_back in (stolen, probe):
        ours.revoke(taken_back)
    ours.write_crl()
    broker.reload()
    async with asyncio.timeout(DEADLINE_S):
        while await comes_in(broker, ours.context(probe)):
            pass
    await thief.caught_up()
    async with await RawClient.connected(broker.tls, "ends it", tls=ours.context(mine)):
        await asyncio.wait_for(thief.ended, DEADLINE_S)
    assert not await comes_in(broker, ours.context(stolen))


async def test_a_list_past_its_time_locks_everybody_out_until_there_is_a_new_one(
    broker: ShippedBroker, fleet: Fleet
) -> None:
    """So the hub writes it anew long before (``[authority]``), and the broker is not to be left without."""
    fleet.authority.write_crl(ends=timedelta(seconds=30))
    broker.reload()

    try:
        async with asyncio.timeout(DEADLINE_S):
            while await comes_in(broker, fleet.contexts["pi-01"]):
                pass
    finally:
        fleet.authority.write_crl()
        broker.reload()
    async with asyncio.timeout(DEADLINE_S):
        while not await comes_in(broker, fleet.contexts["pi-01"]):
            pass


@pytest.mark.parametrize("shout", [b"x" * 200_000, None], ids=["too large", "no packet of MQTT"])
async def test_who_shouts_is_thrown_out_by_the_name_in_its_certificate_and_disturbs_nobody(
    broker: ShippedBroker, fleet: Fleet, shout: bytes | None
) -> None:
    topic = topic_of(Address(FleetId("harbour"), RECORDS, DeviceId("pi-02")))
    async with await entering(broker, fleet, "pi-01") as quiet, await entering(broker, fleet, "hub") as hub:
        await hub.subscribed("metrica/#")
        evil = await entering(broker, fleet, "pi-02")
        if shout is None:
            evil.send(b"\x00\xff" * 100)
        else:
            evil.send(mqtt5.PublishPacket(topic, shout).write())
        await asyncio.wait_for(evil.ended, DEADLINE_S)
        await quiet.caught_up()
        await hub.caught_up()
        assert hub.received == []
    assert re.search(r"Client pi-02 (disconnected|\[.*\] disconnected)", broker.log), broker.log[-1000:]


# --- who says and hears what --------------------------------------------------------------------------------------


async def test_every_cell_of_identities_topics_and_actions_is_as_designed(broker: ShippedBroker, fleet: Fleet) -> None:
    found: dict[Cell, bool] = {}
    async with await planting(broker) as planter:
        await planter.subscribed("#", "$SYS/#", "$CONTROL/#")
        for user in USERS:
            found |= await written_by(user, broker, fleet, planter)
        found |= await read_by_all(broker, fleet, planter)
    wanted = expected()
    assert found.keys() == wanted.keys()
    assert len(found) >= 1000
    assert [(*cell, allowed) for cell, allowed in found.items() if allowed != wanted[cell]] == []


async def written_by(user: str, broker: ShippedBroker, fleet: Fleet, planter: RawClient) -> dict[Cell, bool]:
    """Return what comes of what ``user`` writes: what others get, and what is retained; the answers must fit."""
    found: dict[Cell, bool] = {}

    async def come() -> set[str]:
        await planter.caught_up()
        payloads = {packet.topic for packet in planter.received if bytes(packet.payload) == user.encode()}
        planter.received.clear()
        return payloads

    async with await entering(broker, fleet, user) as client:
        for how in ("publish", "retain"):
            codes = await asyncio.gather(
                *(client.published(topic, user.encode(), retain=how == "retain") for topic in TOPICS)
            )
            got = await come()
            for topic, code in zip(TOPICS, codes, strict=True):
                found[Cell(user, topic, how)] = topic in got
                assert (code is mqtt5.PubAckReasonCode.NOT_AUTHORIZED) == (topic not in got), (user, topic, how)
        kept = {topic for topic, payload in (await retained(broker)).items() if payload == user.encode()}
        assert kept == {topic for topic in TOPICS if found[Cell(user, topic, "retain")]}
        await asyncio.gather(*(planter.published(topic, b"planted", retain=True) for topic in TOPICS))
        await asyncio.gather(*(client.published(topic, b"", retain=True) for topic in TOPICS))
        left = await retained(broker)
        found |= {Cell(user, topic, "clear"): topic not in left and topic in plantable() for topic in TOPICS}
    await come()
    ended: list[RawClient] = []
    for topic in TOPICS:
        will = mqtt5.Will(topic, payload=user.encode(), qos=mqtt5.QoS.AT_LEAST_ONCE)
        try:
            # Whoever comes next by this name ends the connection, and so has the will said.
            ended.append(await entering(broker, fleet, user, will))
        except Refused:
            continue
    async with await entering(broker, fleet, user):
        got = await come()
        found |= {Cell(user, topic, "last will"): topic in got for topic in TOPICS}
    for client in ended:
        await client.vanish()
    return found


def plantable() -> set[str]:
    """Return the topics on which anything of ours can be retained: the broker's own are not."""
    return {topic for topic in TOPICS if not topic.startswith("$")}


async def read_by_all(broker: ShippedBroker, fleet: Fleet, planter: RawClient) -> dict[Cell, bool]:
    """Return who hears what is planted on every topic, retained and new."""
    found: dict[Cell, bool] = {}
    await asyncio.gather(*(planter.published(topic, b"planted", retain=True) for topic in TOPICS))
    for how in READING:
        for user in USERS:
            async with await entering(broker, fleet, user) as client:
                await client.subscribed(*filters(how))
                await client.caught_up()
                kept = {packet.topic for packet in client.received}
                client.received.clear()
                await asyncio.gather(*(planter.published(topic, b"new", retain=False) for topic in TOPICS))
                await client.caught_up()
                new = {packet.topic for packet in client.received if bytes(packet.payload) == b"new"}
                if how != "in a group":  # to which nothing is said of what was
                    assert kept & plantable() == new & plantable(), (user, how)
                found |= {Cell(user, topic, how): topic in kept | new for topic in TOPICS}
    return found


def filters(how: str) -> tuple[str, ...]:
    match how:
        case "exactly":
            return TOPICS
        case "by a wildcard":
            return ("#", "+/+/+/#", "$SYS/#", "$CONTROL/#")
        case _:
            return tuple(f"$share/anybody/{topic}" for topic in TOPICS)


@pytest.mark.parametrize("secret", [None, b"the password of hub"])
async def test_a_device_in_the_hubs_group_takes_records_away_so_its_name_is_a_secret(
    broker: ShippedBroker, fleet: Fleet, secret: bytes | None
) -> None:
    topic = topic_of(Address(FleetId("harbour"), RECORDS, DeviceId("pi-01")))
    records = every_device(FleetId("harbour"), RECORDS)
    async with (
        await entering(broker, fleet, "hub") as hub,
        await entering(broker, fleet, "pi-02") as evil,
        await entering(broker, fleet, "pi-01") as device,
    ):
        await hub.subscribed(shared(records, group_of(secret)))
        await evil.subscribed(*(shared(records, group) for group in ("hub", group_of(b"a guess"))))
        for number in range(10):
            await device.published(topic, str(number).encode())
        await hub.caught_up()
        await evil.caught_up()
        assert evil.received == []
        # Not what was kept for whoever comes, by another test.
        dealt = [packet for packet in hub.received if bytes(packet.payload).isdigit()]
        assert len(dealt) == (5 if secret is None else 10)
