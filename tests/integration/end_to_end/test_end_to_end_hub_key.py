"""A real agent with a real engine is stopped, and let go on, from a machine without a key: the hub has one for that."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.agent import FLEET, until
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.hub import Hub
from tests.fixtures.signing import Person
from tests.integration.end_to_end.device import WEB, Device, HubView

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.database import Cluster

    from metrica_fleet.records import Event


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One of its own: an order is retained, and heard by each device there is."""
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def hub(broker: Broker, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubView]:
    """A hub that was given a key for orders."""
    given = Person.made(tmp_path_factory.mktemp("given"), "hub-stop")
    settings = {"METRICA_HUB_FLEET": FLEET, "METRICA_HUB_STOP_KEY_FILE": str(given.key)}
    with cluster.database() as database, Hub(database.url, broker.port, settings=settings) as running:
        running.wait_until_ready()
        yield HubView(running, lambda sql: cluster.execute(sql, database.name))


def metrica(hub: HubView, home: Path, *words: str) -> None:
    """Run the command as somebody who has a token, and no key; it waits until the device has obeyed."""
    home.mkdir(exist_ok=True)
    token = home / "token"
    if not token.exists():
        token.write_text(hub.hub.token("operator"), encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "metrica_cli",
            *words,
            "--with-hub-key",
            "--yes",
            "--hub",
            f"http://{HOST}:{hub.hub.port}",
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "METRICA_TOKEN_FILE": str(token)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_device_obeys_what_the_hub_signs_by_the_line_in_its_signers_and_not_without(
    hub: HubView, device: Device, tmp_path: Path
) -> None:
    alice = Person.made(tmp_path, "alice")
    services = {"web": {**WEB, "stop_grace_period": "0s"}}

    def deployed(*lines: str) -> None:
        device.deploy(device.files(services, also={"allowed_signers": "".join((alice.line(), *lines))}))

    def told(*kinds: str, after: int = 0) -> Event:
        return device.agent.wait_for(*kinds, after=after)

    deployed(f"{hub.hub.get('/api/v1/stop').json['hub_key']}\n")
    hub.wait_for_device(device.name, connection="online")
    metrica(hub, tmp_path / "home", "stop", "halt", f"device:{device.name}", "--reason", "smoke")
    obeyed = told("stop.obeyed")
    until(lambda: all(state != "running" for _, state, _ in device.containers().values()), what=device.agent.story)
    metrica(hub, tmp_path / "home", "resume", "--reason", "toast")
    told("stop.lifted", after=obeyed.seq)
    device.serves("one")

    # By a commit without the line it is a stranger's key again, whatever the hub signs.
    deployed()
    order = hub.hub.get("/api/v1/stop").json["order"]["number"]
    body = f'{{"level": "halt", "after": {order}}}'
    token = (tmp_path / "home" / "token").read_text(encoding="utf-8")
    asked = hub.hub.get("/api/v1/stop/sign", {"Content-Type": "application/json"}, "POST", body, token=token)
    assert asked.status == 202, asked.text
    assert told("stop.obeyed", "stop.refused", after=obeyed.seq).reason == "signer-unknown"
    device.serves("one")
