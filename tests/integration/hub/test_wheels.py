"""The hub gives wheels of the agent to whoever asks, and nothing else of that folder or beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.database import Cluster

WHEEL = "metrica_fleet-1.4.0-py3-none-any.whl"
CONTENT = b"PK and what follows" * 10_000


@pytest.fixture(scope="module")
def hub(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with one wheel, a link that leads out of the folder, and a file beside it."""
    folder: Path = tmp_path_factory.mktemp("wheels")
    (folder / "served/1.4.0").mkdir(parents=True)
    (folder / "served/1.4.0" / WHEEL).write_bytes(CONTENT)
    (folder / "secret.whl").write_bytes(b"secret")
    (folder / "served/1.4.0/link-1.4.0-py3-none-any.whl").symlink_to(folder / "secret.whl")
    (folder / "served/1.4.0/SHA256SUMS").write_text("x")
    settings = {"METRICA_HUB_AGENT_WHEELS_FOLDER": str(folder / "served")}
    with (
        Broker(tmp_path_factory.mktemp("broker")) as broker,
        cluster.database() as database,
        Hub(database.url, broker.port, settings=settings) as running,
    ):
        running.wait_until_ready()
        yield running


def test_a_wheel_is_given_as_it_is(hub: Hub) -> None:
    answer = hub.get(f"/agent/1.4.0/{WHEEL}")
    assert (answer.status, answer.text.encode()) == (200, CONTENT)


@pytest.mark.parametrize(
    "path",
    [
        f"/agent/1.5.0/{WHEEL}",
        "/agent/1.4.0/SHA256SUMS",
        "/agent/1.4.0/link-1.4.0-py3-none-any.whl",
        "/agent/..%2f/secret.whl",
        "/agent/1.4.0/..%2f..%2fsecret-1-py3-none-any.whl",
    ],
)
def test_nothing_else_is_given(hub: Hub, path: str) -> None:
    assert hub.get(path).status == 404
