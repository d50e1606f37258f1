"""A real Mosquitto, a real Postgres, and real hub processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster, Database
from tests.fixtures.hub import Hub
from tests.integration.hub.stored import TABLES, Store, opened

from metrica_hub.adapters.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One Postgres for all tests; a test that stops it starts it again."""
    with Cluster(Path("/var/tmp")) as running:  # noqa: S108 - Postgres' user must be able to enter it
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """A database of the test's own."""
    with cluster.database() as made:
        yield made


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own."""
    with Broker(tmp_path) as running:
        yield running


@pytest.fixture
def hub(broker: Broker, database: Database) -> Iterator[Hub]:
    """A hub process between the two, ready."""
    with Hub(database.url, broker.port) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
async def store(database: Database) -> AsyncGenerator[Store]:
    """A store in a database of the test's own, with room for records."""
    await migrate(database.url)
    async with opened(database) as made:
        await made.keeper.make_room(TABLES)
        yield made
