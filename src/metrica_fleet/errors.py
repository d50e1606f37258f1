"""The exception family of Metrica Fleet. An error's class says what happens next.

    FleetError
    ├── Unusable    this input will never do: refuse it, remember why, go on
    ├── NotNow      the world is in the way: wait, then look again
    └── Ours        a broken promise of our own code: say so loudly, back off

Every one carries ``reason``, a stable slug that goes into events and metrics, and a message of one sentence
for people that names the file or thing, the key, and the way out.
"""

from __future__ import annotations


class FleetError(Exception):
    """Root of the family."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class Unusable(FleetError):
    """The input is wrong and stays wrong; trying again changes nothing."""


class NotNow(FleetError):
    """The world is in the way; worth another try after ``retry_after_s`` (``None``: the caller's own pace)."""

    def __init__(self, message: str, *, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class Ours(FleetError):
    """A promise of our own code does not hold."""
