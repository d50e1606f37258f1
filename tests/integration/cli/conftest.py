"""Fixtures of the command line's integration tests: a registry, and the hub's own."""

from tests.fixtures.registry import registry
from tests.integration.hub.conftest import broker, cluster, database, hub

__all__ = ["broker", "cluster", "database", "hub", "registry"]
