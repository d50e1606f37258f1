"""What can go wrong in the demo: one sentence for people, and the log that says more."""

from __future__ import annotations

from pathlib import Path

from metrica_fleet.errors import FleetError


class Trouble(FleetError):
    """The demo can't go on; ``log`` is where to read why."""

    def __init__(self, message: str, *, log: Path | None = None, reason: str = "demo") -> None:
        super().__init__(message, reason=reason)
        self.log = log
