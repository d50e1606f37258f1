"""Stop orders at the hub: given by its API or at the broker, kept, published, and counted as they are obeyed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiomqtt
import pytest
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.git_servers import repository
from tests.fixtures.hub import FLEET, Answer, Hub
from tests.fixtures.signing import Person
from tests.fixtures.stopping import Operator
from tests.integration.hub.device import Device, status
from tests.integration.hub.waiting import until

from metrica_fleet.identity import FleetId
from metrica_fleet.messages import StopStanding
from metrica_fleet.stop import Level, Stop, understood
from metrica_fleet.topics import STOP, Address, topic_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.database import Cluster, Database

TOPIC = topic_of(Address(FleetId(FLEET), STOP))
TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    folder: Path = tmp_path_factory.mktemp("people")
    return Person.made(folder, "alice")


def standing(hub: Hub) -> dict[str, Any]:
    return hub.get("/api/v1/stop").json


def number(hub: Hub) -> int | None:
    order = standing(hub)["order"]
    return None if order is None else order["number"]


LOOKS = "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'stop_orders'"


async def retained(broker: Broker, number: int) -> bytes:
    """Return what is retained once it is the order of this number."""
    async with (
        asyncio.timeout(20),
        aiomqtt.Client(HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5, timeout=5) as client,
    ):
        await client.subscribe(TOPIC)
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if message.payload and f'"number":{number},' in message.payload.decode():
                return message.payload
    raise AssertionError(f"never {number}")


async def test_an_order_is_prepared_signed_given_published_counted_and_lifted(
    hub: Hub, broker: Broker, person: Person
) -> None:
    token, alice = hub.token("operator"), Operator(person, FLEET, broker)

    def prepared(wanted: dict[str, str]) -> dict[str, Any]:
        answer = hub.get("/api/v1/stop/prepare", JSON, "POST", json.dumps(wanted), token=token)
        assert answer.status == 200, answer.text
        return answer.json

    def give(payload: bytes) -> Answer:
        return hub.get("/api/v1/orders", TEXT, "POST", payload, token=token)

    assert standing(hub)["order"] is None
    first = prepared({"level": "halt", "scope": "role:camera", "reason": "smoke"})
    assert standing(hub)["order"] is None, "nothing is stopped by what is prepared"
    payload = alice.signed(first["text"])
    given = give(payload)
    unjudged = "this hub has read no commit of the fleet repository"
    assert (given.status, given.json) == (
        202,
        {"number": first["number"], "signed_by": None, "unjudged": unjudged},
    )
    assert await retained(broker, first["number"]) == payload

    async with Device("pi-01", broker.port) as device:
        await device.is_present("online", 1)
        await device.has_status(status("pi-01"))
        await until(lambda: standing(hub)["counts"]["to_come"] == 1)
        assert standing(hub)["to_come"] == [
            {"device": "pi-01", "connection": "online", "knows": None, "wanted": "halt"}
        ]
        stop = StopStanding(number=first["number"], level=Level.HALT, source="order", done=False)
        await device.has_status(status("pi-01", uptime_s=2.0, stop=stop))
        await until(lambda: standing(hub)["counts"]["obeyed"] == 1)
        assert standing(hub)["counts"]["done"] == 0
        assert hub.get("/api/v1/devices/pi-01").json["stop_level"] == "halt"
        await until(lambda: 'metrica_stop_in_force{level="halt"} 1.0' in hub.get("/metrics").text)

        again = give(payload)
        assert (again.status, again.json["type"].rpartition("/")[2]) == (409, "order-outdated")
        second = prepared({"level": "freeze", "scope": "device:pi-02"})
        assert [(one["level"], one["scope"]) for one in second["stops"]] == [
            ("halt", "role:camera"),
            ("freeze", "device:pi-02"),
        ], "an order says all that is stopped"
        lifted = prepared({"resume": "all"})
        assert lifted["number"] > first["number"]
        assert lifted["stops"] == []
        assert give(alice.signed(lifted["text"])).status == 202
        await retained(broker, lifted["number"])
        assert standing(hub)["counts"]["to_come"] == 1, "it is still stopped"

    for bad, status_code in ((b"{}", 422), (alice.signed(alice.order(fleet="other")), 422)):
        assert give(bad).status == status_code
    viewer = hub.token("viewer")
    assert hub.get("/api/v1/orders", TEXT, "POST", payload, token=viewer).status == 403
    assert hub.get("/api/v1/stop/prepare", JSON, "POST", "{}", token=token).status == 422


async def test_an_order_that_would_lift_what_somebody_stopped_since_it_was_prepared_is_refused(
    hub: Hub, broker: Broker, person: Person
) -> None:
    token, alice = hub.token("operator"), Operator(person, FLEET, broker, number=1_700_000_000)
    fire, water = Stop(level=Level.HALT, scope="role:camera"), Stop(level=Level.SAFE, scope="device:pi-02")

    def give(payload: bytes, after: object) -> Answer:
        return hub.get(f"/api/v1/orders?after={after}", TEXT, "POST", payload, token=token)

    by_one, by_another = alice.signed(alice.order(fire)), alice.signed(alice.order(water))  # both upon none
    assert give(by_one, 0).status == 202
    refused = give(by_another, 0)
    assert (refused.status, refused.json["type"].rpartition("/")[2]) == (409, "order-outdated")
    assert refused.json["detail"].startswith("order 1700000001 is in force, and not 0;")
    assert [stop["scope"] for stop in standing(hub)["order"]["stops"]] == ["role:camera"]

    both = alice.signed(alice.order(fire, water))
    assert give(both, 1_700_000_000).status == 409
    assert give(both, 1_700_000_001).status == 202
    assert number(hub) == 1_700_000_003
    for wrong in ("-1", "x", "", 2**63):
        assert give(alice.signed(alice.order()), wrong).status == 400
    assert number(hub) == 1_700_000_003


async def test_where_nobody_ever_gave_an_order_the_hub_looks_for_one_once_a_second(
    hub: Hub, cluster: Cluster, database: Database
) -> None:
    assert standing(hub)["order"] is None

    def looks() -> int:
        return int(cluster.execute(LOOKS, database.name))

    before = await until(looks)  # Postgres tells of them once a second at most
    began_s = time.monotonic()
    await until(lambda: looks() >= before + 5)
    assert time.monotonic() - began_s > 2.5


async def test_an_order_given_at_the_broker_is_kept_and_the_newest_stays_whatever_is_published_or_lost(
    hub: Hub, broker: Broker, person: Person
) -> None:
    alice = Operator(person, FLEET, broker, number=1_700_000_000)
    freeze = Stop(level=Level.FREEZE)
    older = alice.signed(alice.order(freeze))
    newer = alice.signed(alice.order(freeze))
    alice.publish(newer)
    await until(lambda: number(hub) == alice.number)
    assert standing(hub)["order"]["via"] == "bus"
    alice.publish(older)
    assert await retained(broker, alice.number) == newer, "the older one was overwritten again"
    alice.publish(b"no order at all")
    assert await retained(broker, alice.number) == newer
    broker.restart(keep_disk=False)
    assert await retained(broker, alice.number) == newer
    # What was published while the hub was away is newer than what it knows: it must not overwrite it.
    hub.kill()
    newest = alice.signed(alice.order())
    alice.publish(newest)
    hub.start()
    hub.wait_until_ready()
    await until(lambda: number(hub) == alice.number)
    assert await retained(broker, alice.number) == newest
    assert understood(standing(hub)["order"]["text"], FleetId(FLEET)).stops == ()


async def test_an_order_that_nobody_signed_who_may_is_refused_at_once_and_relayed_where_that_cant_be_told(
    broker: Broker, database: Database, person: Person, tmp_path: Path
) -> None:
    alice, bob = Operator(person, FLEET, broker, number=1_700_000_000), Person.made(tmp_path, "bob")
    files = {
        "fleet.toml": f'name = "{FLEET}"\n',
        "devices/pi-01.toml": 'role = "camera"\n',
        "roles/camera/compose.yaml": "",
    }
    fleet = repository(tmp_path)
    settings = {"METRICA_HUB_GIT_URL": str(fleet.bare), "METRICA_HUB_GIT_POLL_S": "0.2"}
    with Hub(database.url, broker.port, settings=settings) as hub:
        token = hub.token("operator")

        async def reads(signers: str | None) -> str:
            commit = fleet.commit({**files, "allowed_signers": signers})
            await until(lambda: hub.get("/api/v1/head").json.get("read_commit") == commit)
            return commit[:8]

        def give(payload: bytes) -> Answer:
            return hub.get("/api/v1/orders", TEXT, "POST", payload, token=token)

        def refused(payload: bytes) -> tuple[int, str, str]:
            answer = give(payload)
            return answer.status, answer.json["type"].rpartition("/")[2], answer.json["detail"]

        hub.wait_until_ready()
        lines = person.line() + bob.line('namespaces="git"') + hub.key_line()
        commit = await reads(lines)
        given = give(alice.signed(alice.order()))
        assert (given.status, given.json["signed_by"], given.json["unjudged"]) == (202, "alice@example.org", None)

        status, slug, why = refused(alice.signed(alice.order(), by=bob))
        assert (status, slug) == (422, "signer-unknown")
        assert f"allowed_signers of the fleet repository (commit {commit})" in why
        assert "bob@example.org may not sign for this (metrica-order)" in why
        stranger = Person.made(tmp_path, "mallory")
        assert refused(alice.signed(alice.order(), by=stranger))[:2] == (422, "signer-unknown")
        for payload in (
            alice.signed(alice.order(), namespace="git"),
            alice.signed(alice.order()).replace(b'"stops":[]', b'"stops" :[]'),
        ):
            assert refused(payload)[:2] == (422, "signature-bad")
        assert number(hub) == 1_700_000_001, "nothing of what was refused is kept"
        trail = hub.get("/api/v1/audit?action=stop.order", token=hub.token("admin")).json["items"]
        assert [one["detail"]["signed_by"] for one in trail] == ["alice@example.org"]

        for signers, why in (
            (None, "has no allowed_signers, and each device goes by its own"),
            ("alice\n", "allowed_signers:1:"),
        ):
            await reads(signers)
            given = give(alice.signed(alice.order(), by=stranger))
            assert (given.status, given.json["signed_by"]) == (202, None)
            assert why in given.json["unjudged"]
            assert number(hub) == alice.number
