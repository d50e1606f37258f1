"""The bus adapter alone, against a real broker, and the private names that it rests on."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any

import aiomqtt
import paho.mqtt.client as paho
import pytest
from tests.fixtures.broker import Broker, free_port
from tests.integration.agent.reporting import DEVICE, FLEET, device, tiny_hub, topic, until

from metrica_agent.adapters.bus import Broker as Address
from metrica_agent.adapters.bus import Bus, Patience
from metrica_agent.tasks.report import Timing
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.messages import Presence
from metrica_fleet.topics import HEAD, PRESENCE, STORED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WILL = Presence(
    device=DEVICE, state="offline", reason="connection-lost", boot_id="b", connection=1, agent_version="0.1.0"
)
SHORT = Patience(connect_s=1.0, answer_s=1.0, leave_s=0.5, will_delay_s=1)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


def bus(port: int, host: str = "127.0.0.1", patience: Patience = SHORT) -> Bus:
    return Bus(Address(host=host, port=port), fleet=FLEET, device=DEVICE, patience=patience)


# --- what others might take away ------------------------------------------------------------------------------


async def test_the_private_names_that_we_use_are_there() -> None:
    client = aiomqtt.Client("127.0.0.1", protocol=aiomqtt.ProtocolVersion.V5)
    assert isinstance(client._client, paho.Client)
    assert isinstance(client._disconnected, asyncio.Future)
    assert isinstance(client._queue, asyncio.Queue)
    assert isinstance(client._loop, asyncio.AbstractEventLoop)
    assert client._client.on_socket_register_write == client._on_socket_register_write
    assert inspect.signature(aiomqtt.Client._client_connect).parameters.keys() == {"self"}
    assert "_client_connect" in inspect.getsource(aiomqtt.Client.__aenter__)
    assert inspect.signature(paho.Client._create_socket).parameters.keys() == {"self"}
    assert "self._create_socket()" in inspect.getsource(paho.Client.reconnect)
    assert inspect.signature(paho.Client._sock_close).parameters.keys() == {"self"}


async def test_aiomqtt_still_drops_the_reason_code(tmp_path: Path) -> None:
    # When this fails, aiomqtt has learnt to tell: our own pending answers can go.
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n", encoding="utf-8")
    with Broker(tmp_path, settings=(f"acl_file {rules}",)) as broker:
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.publish(topic(PRESENCE), b"{}", qos=1)
        async with bus(broker.port).session(WILL) as link:
            with pytest.raises(Unusable, match="Not authorized") as denied:
                await link.publish(PRESENCE, WILL)
            assert denied.value.reason == "bus-denied"


# --- connecting ---------------------------------------------------------------------------------------------------


async def test_nobody_there_is_not_now() -> None:
    with pytest.raises(NotNow) as refused:
        async with bus(free_port()).session(WILL):
            pass
    assert refused.value.reason == "bus-unreachable"


async def test_a_name_without_an_address_is_not_now() -> None:
    with pytest.raises(NotNow) as refused:
        async with bus(1883, host="no-such-host.invalid").session(WILL):
            pass
    assert refused.value.reason == "bus-unreachable"


async def test_a_broker_that_never_answers_is_not_now_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(NotNow) as refused:
            async with bus(server.getsockname()[1]).session(WILL):
                pass
    assert refused.value.reason == "bus-unreachable"
    assert time.monotonic() - began < 2


async def test_a_connection_that_is_cancelled_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = len(asyncio.all_tasks())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), bus(server.getsockname()[1]).session(WILL):
                pass
        await until(lambda: len(asyncio.all_tasks()) == before)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(2)
            while accepted.recv(1000):
                pass  # the CONNECT, then the end: the socket is closed


async def test_a_wrong_password_is_refused_and_the_right_one_needs_no_restart(tmp_path: Path) -> None:
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    command = ["mosquitto_passwd", "-b", "-c", str(passwords), "pi-01", "right"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    with Broker(tmp_path, settings=("allow_anonymous false", f"password_file {passwords}")) as broker:
        address = Address(host=broker.host, port=broker.port, username="pi-01", password_file=secret)
        ours = Bus(address, fleet=FLEET, device=DEVICE, patience=SHORT)
        reasons: list[str] = []
        for password in (None, "hunter2"):
            if password:
                secret.write_text(password, encoding="utf-8")
            with pytest.raises(NotNow) as refused:
                async with ours.session(WILL):
                    pass
            reasons.append(refused.value.reason)
            assert "hunter2" not in refused.value.message
        assert reasons == ["bus-credentials", "bus-refused"]
        secret.write_text("right\n", encoding="utf-8")
        async with ours.session(WILL) as link:
            await link.publish(PRESENCE, WILL)


async def test_tls_by_a_context_that_is_made_for_each_connection(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    with Broker(tmp_path, settings=(f"certfile {certificate}", f"keyfile {key}")) as broker:
        for trusted, reason in ((certificate, None), (None, "bus-unreachable")):
            make = functools.partial(ssl.create_default_context, cafile=trusted and str(trusted))
            address = Address(host="localhost", port=broker.port, tls=make)
            ours = Bus(address, fleet=FLEET, device=DEVICE, patience=SHORT)
            if reason is None:
                async with ours.session(WILL) as link:
                    await link.publish(PRESENCE, WILL)
                    await link.leave(WILL)
                continue
            with pytest.raises(NotNow, match="certificate verify failed") as refused:
                async with ours.session(WILL):
                    pass
            assert refused.value.reason == reason


async def test_a_cancellation_that_comes_together_with_the_answer_is_heeded(broker: Broker) -> None:
    async with bus(broker.port).session(WILL) as link, asyncio.TaskGroup() as group:
        subscribing = group.create_task(link.subscribe(STORED))
        client = link._client._client
        answered = client.on_subscribe

        def answered_and_cancelled(*words: Any) -> None:
            assert answered is not None
            answered(*words)
            subscribing.cancel()

        client.on_subscribe = answered_and_cancelled
    assert subscribing.cancelled()


async def test_a_connection_that_ends_while_it_has_something_to_write_leaves_no_writer_to_who_gets_its_number(
    broker: Broker,
) -> None:
    async with bus(broker.port).session(WILL) as link:
        client = link._client
        sock = client._client.socket()
        assert sock is not None
        number = sock.fileno()
        client._client.publish(topic(PRESENCE), b"x")
        client.drop()
        heir, other = socket.socketpair()
        with heir, other:
            assert number in {heir.fileno(), other.fileno()}
            await asyncio.sleep(0)
            assert not asyncio.get_running_loop().remove_writer(number)


# --- the session --------------------------------------------------------------------------------------------------


async def test_what_is_retained_has_been_received_when_a_later_publication_is_answered(broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        hub.watermarks = {"a" * 32: 7}
        await hub.tell()
        for _ in range(20):
            async with bus(broker.port).session(WILL) as link:
                await link.subscribe(STORED, HEAD)
                await link.publish(PRESENCE, WILL)
                (incoming,) = link.received()
                assert incoming.retained
                assert incoming.channel is STORED
                await link.leave(WILL)


async def test_a_lost_connection_ends_whoever_listens_or_speaks(broker: Broker) -> None:
    async with bus(broker.port).session(WILL) as link:
        await link.subscribe(STORED)
        broker.kill()
        with pytest.raises(NotNow) as listening:
            async for _ in link.messages():
                pass
        with pytest.raises(NotNow) as speaking:
            await link.publish(PRESENCE, WILL)
    assert {listening.value.reason, speaking.value.reason} == {"bus-lost"}


async def test_a_session_is_kept_between_connections_for_a_minute(broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        async with bus(broker.port).session(WILL) as link:
            await link.subscribe(STORED)
            await link.leave(WILL)
        await hub.client.publish(topic(STORED), b'{"streams":{}}', qos=1)  # not retained: only a session keeps it
        async with bus(broker.port).session(WILL) as link:
            async with asyncio.timeout(5):
                incoming = await anext(aiter(link.messages()))
            assert not incoming.retained


async def test_garbage_is_counted_and_ends_nothing(broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        ours = bus(broker.port)
        async with ours.session(WILL) as link:
            await link.subscribe(STORED)
            for payload in (b"", b"{", b"[]", b"[" * 60_000, b'{"streams":{"x":1}}', b'{"streams":{}}'):
                await hub.client.publish(topic(STORED), payload, qos=1)
            async with asyncio.timeout(5):
                incoming = await anext(aiter(link.messages()))
            assert incoming.channel is STORED
            assert ours.garbage == 5


async def test_a_message_past_the_limit_never_reaches_us(broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub, bus(broker.port).session(WILL) as link:
        await link.subscribe(STORED)
        await hub.client.publish(topic(STORED), b"x" * 200_000, qos=1)
        await hub.client.publish(topic(STORED), b'{"streams":{}}', qos=1)
        async with asyncio.timeout(5):
            assert (await anext(aiter(link.messages()))).channel is STORED


# --- coming back ----------------------------------------------------------------------------------------------------


async def test_reconnecting_is_jittered_and_bounded(tmp_path: Path) -> None:
    # A broker that hangs up at once. Each pause lies between nothing and a bound that doubles up to the cap.
    came: list[float] = []

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(time.monotonic())
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    timing = Timing(heartbeat_s=3600, reconnect_base_s=0.05, reconnect_cap_s=0.4)
    async with device(tmp_path, port, timing=timing, patience=Patience(connect_s=0.1)):
        await until(lambda: len(came) >= 12)
    server.close()
    await server.wait_closed()
    pauses = [after - before for before, after in itertools.pairwise(came)]
    bounds = [0.05 * 2**attempt + 0.1 for attempt in range(1, 13)]
    assert all(pause <= min(0.5, bound) + 0.3 for pause, bound in zip(pauses, bounds, strict=False))
    assert len({round(pause, 2) for pause in pauses}) > 3
