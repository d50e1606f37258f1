"""TLS to the broker, as agent.toml asks for it."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import metrica_agent
from tests.fixtures.broker import Broker
from tests.fixtures.git_servers import certificate
from tests.integration.agent.reporting import DEVICE, FLEET
from tests.integration.agent.test_bus_adapter import SHORT, WILL

from metrica_agent.adapters.bus import Broker as Address
from metrica_agent.adapters.bus import Bus
from metrica_agent.settings import BusSettings
from metrica_agent.wiring import bus_tls
from metrica_fleet.errors import NotNow
from metrica_fleet.topics import PRESENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path)


@pytest.fixture
def broker(tmp_path: Path, authority: tuple[Path, Path]) -> Iterator[Broker]:
    own, key = authority
    with Broker(tmp_path, settings=(f"certfile {own}", f"keyfile {key}")) as running:
        yield running


def bus(settings: BusSettings) -> Bus:
    address = Address(host=settings.host, port=settings.port, tls=bus_tls(settings))
    return Bus(address, fleet=FLEET, device=DEVICE, patience=SHORT)


async def test_with_its_authority_named_the_broker_is_spoken_to(broker: Broker, authority: tuple[Path, Path]) -> None:
    settings = BusSettings(host="127.0.0.1", port=broker.port, ca_file=str(authority[0]))
    async with bus(settings).session(WILL) as link:
        await link.publish(PRESENCE, WILL)


async def test_the_systems_authorities_do_not_know_it(broker: Broker) -> None:
    with pytest.raises(NotNow, match="certificate verify failed"):
        async with bus(BusSettings(host="127.0.0.1", port=broker.port, tls=True)).session(WILL):
            pass


async def test_nothing_older_than_tls_1_3_is_spoken_to_a_broker(authority: tuple[Path, Path]) -> None:
    old = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    old.load_cert_chain(*authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=old) as server:
        port = server.sockets[0].getsockname()[1]
        settings = BusSettings(host="127.0.0.1", port=port, ca_file=str(authority[0]))
        with pytest.raises(NotNow, match=r"can.t be reached: .*(SSL|TLS)"):
            async with bus(settings).session(WILL):
                pass


async def test_an_authority_that_is_missing_is_named_and_waited_for(broker: Broker, tmp_path: Path) -> None:
    settings = BusSettings(host="127.0.0.1", port=broker.port, ca_file=str(tmp_path / "gone.crt"))
    with pytest.raises(NotNow, match=r"gone\.crt: the broker's authority can't be read") as refused:
        async with bus(settings).session(WILL):
            pass
    assert refused.value.reason == "bus-credentials"


def test_check_says_whether_tls_is_trusted(broker: Broker, authority: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    own = (
        f'fleet = "f"\ndevice = "d"\nstate_dir = "{tmp_path}/state"\n[git]\nremotes = ["git://127.0.0.1:1/x"]\n[bus]\n'
    )
    own += f'host = "127.0.0.1"\nport = {broker.port}\n'
    for more, line in (
        (f'ca_file = "{authority[0]}"', "ok       broker: .* answers, by TLS that we trust"),
        ("tls = true", "problem  broker: .* answers, but not with TLS that we trust"),
        (f'ca_file = "{tmp_path}/gone.crt"', "problem  broker: .*gone.crt: the broker's authority can't be read"),
    ):
        file.write_text(f"{own}{more}\n")
        said = metrica_agent("check", "--config", str(file)).stdout
        assert any(re.match(line, one) for one in said.splitlines()), said
