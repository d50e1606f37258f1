"""Answers to commands in ``/metrics``: the one figure by which a device that answers garbage is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

OUTCOMES: Final = ("stored", "unknown", "unreadable", "dropped")


class CommandFigures:
    """What became of answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        about = "Answers of devices to commands: stored, of no command of ours, not to be read, or too many at once."
        self._answers = Counter("metrica_hub_command_answers", about, ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self._answers.labels(outcome)

    def answers(self, outcome: str, count: int = 1) -> None:
        """Count answers."""
        self._answers.labels(outcome).inc(count)
