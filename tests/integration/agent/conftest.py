"""Fixtures of the agent's integration tests."""

from tests.fixtures.engine import busybox, deployer, engine
from tests.fixtures.registry import registry

__all__ = ["busybox", "deployer", "engine", "registry"]
