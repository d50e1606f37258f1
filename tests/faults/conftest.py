"""Fixtures of the fault tests."""

from tests.faults.failures import failure_table, say
from tests.fixtures.engine import busybox, engine
from tests.integration.end_to_end.conftest import broker, cluster, database, device, hub, hub_key, served

__all__ = [
    "broker",
    "busybox",
    "cluster",
    "database",
    "device",
    "engine",
    "failure_table",
    "hub",
    "hub_key",
    "say",
    "served",
]
