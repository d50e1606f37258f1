"""Devices for tests of faults: a real agent between a real Git server and a real engine; the fixtures to import."""

from __future__ import annotations

from tests.fixtures.engine import busybox, deployer, engine
from tests.integration.end_to_end.conftest import broker, device, old_hand, served

__all__ = ["broker", "busybox", "deployer", "device", "engine", "old_hand", "served"]
