"""The container engine, by the ``docker`` and ``docker compose`` command lines."""

from metrica_agent.adapters.compose.engine import ApplyFailed, Engine

__all__ = ["ApplyFailed", "Engine"]
