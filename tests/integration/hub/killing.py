"""Killing what the hub lives on, and itself."""

from __future__ import annotations

from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster
from tests.fixtures.hub import Hub


def killed(hub: Hub, *parts: Broker | Cluster | Hub) -> None:
    """Kill ``parts`` at once, the broker with its disk; start them again, and return when ``hub`` can be used."""
    for part in parts:
        match part:
            case Broker():
                part.kill()
                part.forget()
            case Cluster():
                part.stop(immediate=True)
            case Hub():
                part.kill()
    for part in parts:
        part.start()
    hub.wait_until_ready()
