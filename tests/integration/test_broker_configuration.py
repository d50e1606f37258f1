from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import aiomqtt
import pytest
from tests.fixtures.broker import HOST, Broker, free_port, mosquitto_binary, wait_for_port

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


def test_the_production_configuration_starts_with_both_listeners(mosquitto: str, tmp_path: Path) -> None:
    plain, tls = free_port(), free_port()
    places = {
        "/etc/mosquitto/": f"{tmp_path}/",
        "/var/lib/mosquitto/": f"{tmp_path}/data/",
        "listener 1883 127.0.0.1": f"listener {plain} {HOST}",
        "listener 8883": f"listener {tls} {HOST}",
    }
    for name in ("mosquitto.conf", "conf.d/tls.conf", "acl"):
        text = (HOUSE / "mosquitto" / name).read_text(encoding="utf-8")
        for old, new in places.items():
            text = text.replace(old, new)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    # As root Mosquitto would become the user `mosquitto`, who may not look into a test's folder.
    with (tmp_path / "mosquitto.conf").open("a", encoding="utf-8") as file:
        file.write("user root\n")
    (tmp_path / "passwords").touch()
    (tmp_path / "data").mkdir()
    _make_certificates(tmp_path / "tls")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([mosquitto, "-c", str(tmp_path / "mosquitto.conf")], stdout=log, stderr=log)
    try:
        for port in (plain, tls):
            wait_for_port(port, process, (tmp_path / "log").read_text(encoding="utf-8"))
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
    said = (tmp_path / "log").read_text(encoding="utf-8")
    # That a look at the TLS port hung up again is OpenSSL's error, not one of the configuration.
    assert ": Error" not in said


def _make_certificates(folder: Path) -> None:
    folder.mkdir()
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    files = "-keyout broker.key -out broker.crt"
    subprocess.run(["openssl", *words.split(), *files.split()], cwd=folder, check=True, capture_output=True)
    (folder / "ca.crt").write_bytes((folder / "broker.crt").read_bytes())


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
