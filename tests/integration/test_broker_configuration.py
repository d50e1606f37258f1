from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiomqtt
import pytest
from tests.fixtures.authority import Authority
from tests.fixtures.broker import Broker, mosquitto_binary
from tests.fixtures.shipped_broker import ShippedBroker

from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, STORED, Address, Channel, topic_of

HOUSE = Path(__file__).resolve().parents[2]
DEADLINE_S = 10.0


@pytest.fixture(params=["MOSQUITTO", "MOSQUITTO_2_0_21"])
def mosquitto(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the path of a real broker, the distribution's and the one for production; ``Broker`` starts it too."""
    name: str = request.param
    path = os.environ.get(name) or pytest.fail(f"{name} is not set: run ./scripts/test")
    monkeypatch.setenv("METRICA_TEST_MOSQUITTO", path)
    return mosquitto_binary()


@pytest.mark.usefixtures("mosquitto")
def test_the_production_configuration_starts_with_both_listeners(tmp_path: Path) -> None:
    with ShippedBroker(tmp_path, Authority(tmp_path / "fleet")) as broker:
        pass
    # That a look at the TLS port hung up again is OpenSSL's error, not one of the configuration.
    assert ": Error" not in broker.log


# --- who may say what -----------------------------------------------------------------------------------------


def topic(channel: Channel, device: str = "") -> str:
    return topic_of(Address(FleetId("harbour"), channel, DeviceId(device)))


@pytest.mark.usefixtures("mosquitto")
async def test_a_device_speaks_for_itself_alone_and_hears_what_is_for_it(tmp_path: Path) -> None:
    with Broker(tmp_path, settings=(f"acl_file {HOUSE}/mosquitto/acl",)) as broker:
        async with _as(broker, "hub") as hub, _as(broker, "pi-01") as pi_01, _as(broker, "operator") as operator:
            for client in (hub, pi_01, operator):
                await client.subscribe("metrica/#", qos=1)
            # Allowed and forbidden in turn, then a last word on each side: what was to come has come by then.
            await pi_01.publish(topic(PRESENCE, "pi-02"), b"forged", qos=1)
            await pi_01.publish(topic(STORED, "pi-01"), b"forged", qos=1)
            await pi_01.publish(topic(HEAD), b"forged", qos=1)
            await pi_01.publish(topic(RECORDS, "pi-01"), b"true", qos=1)
            await operator.publish(topic(HEAD), b"forged", qos=1)
            await hub.publish(topic(STORED, "pi-02"), b"for another", qos=1)
            await hub.publish(topic(STORED, "pi-01"), b"true", qos=1)
            await hub.publish(topic(HEAD), b"last", qos=1)
            assert await _heard(pi_01, until=b"last") == [topic(STORED, "pi-01"), topic(HEAD)]
            assert await _heard(operator, until=b"last") == [
                topic(RECORDS, "pi-01"),
                topic(STORED, "pi-02"),
                topic(STORED, "pi-01"),
                topic(HEAD),
            ]
            assert await _heard(hub, until=b"last") == [topic(RECORDS, "pi-01"), topic(HEAD)]
            await pi_01.publish(topic(PRESENCE, "pi-01"), b"last", qos=1)
            assert await _heard(hub, until=b"last") == [topic(PRESENCE, "pi-01")]


def _as(broker: Broker, user: str) -> aiomqtt.Client:
    return aiomqtt.Client(
        broker.host,
        broker.port,
        username=user,
        identifier=user,
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=DEADLINE_S,
    )


async def _heard(client: aiomqtt.Client, *, until: bytes) -> list[str]:
    heard: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        async for message in client.messages:
            assert message.payload != b"forged"
            heard.append(str(message.topic))
            if message.payload == until:
                break
    return heard
