"""A device with everything that is around it in the field: Git server, engine, broker, Postgres and hub, all real."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster, Database
from tests.fixtures.engine import RealEngine, busybox, engine
from tests.fixtures.git_servers import GitHttpServer, http_server, repository
from tests.fixtures.hub import Hub
from tests.fixtures.registry import registry
from tests.fixtures.signing import Person
from tests.integration.end_to_end.device import Device, HubView

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["busybox", "engine", "registry"]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all: each test has a device name of its own."""
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One Postgres for all."""
    folder = os.environ.get("METRICA_TEST_DIR", "/var/tmp")  # noqa: S108 - Postgres' user must be able to enter it
    with Cluster(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def database(cluster: Cluster) -> Iterator[Database]:
    """The hub's database."""
    with cluster.database() as made:
        yield made


@pytest.fixture(scope="session")
def hub_key(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The key by which the hub signs."""
    return Person.made(tmp_path_factory.mktemp("hub"), "hub")


@pytest.fixture(scope="session")
def hub(broker: Broker, database: Database, cluster: Cluster, hub_key: Person) -> Iterator[HubView]:
    """One hub for all, ready."""
    settings = {"METRICA_HUB_FLEET": FLEET, "METRICA_HUB_HUB_KEY_FILE": str(hub_key.key)}
    with Hub(database.url, broker.port, settings=settings) as running:
        running.wait_until_ready()
        yield HubView(running, lambda sql: cluster.execute(sql, database.name))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, GitHttpServer]]:
    """A folder whose repositories are served over http."""
    folder = tmp_path_factory.mktemp("git")
    (folder / "served").mkdir()
    with http_server(folder / "served") as server:
        yield folder, server


def _device(folder: Path, engine: RealEngine, served: tuple[Path, GitHttpServer], broker: Broker) -> Iterator[Device]:
    name = f"pi-{secrets.token_hex(4)}"
    root, server = served
    fleet = repository(root, name)
    device = Device(name, folder, fleet, engine, url=server.url(fleet), broker_port=broker.port)
    try:
        yield device
    finally:
        device.agent.end()
    # Whatever a test was about, the agent must never have stumbled.
    assert "Traceback" not in device.agent.log


@pytest.fixture
def device(tmp_path: Path, engine: RealEngine, served: tuple[Path, GitHttpServer], broker: Broker) -> Iterator[Device]:
    """A device of the test's own; its agent is not started yet."""
    yield from _device(tmp_path, engine, served, broker)


@pytest.fixture(scope="module")
def old_hand(
    busybox: str,
    tmp_path_factory: pytest.TempPathFactory,
    served: tuple[Path, GitHttpServer],
    broker: Broker,
) -> Iterator[Device]:
    """A device that the tests of one module share: it lives through all of them, as devices do."""
    assert busybox
    engine = RealEngine(f"mt-e2e-{secrets.token_hex(4)}")
    try:
        yield from _device(tmp_path_factory.mktemp("old-hand"), engine, served, broker)
    finally:
        engine.clean()
