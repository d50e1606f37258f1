"""When to stop reading from the broker, and when to go on: two marks, so that the answer does not flutter.

The upper mark can't be a hard limit: one read of the socket may bring many messages at once. What is bounded is what
waits beyond it: one read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What was received and not yet committed."""

    messages: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Stop at either ``high`` figure, go on when both are below a quarter of it."""

    messages: int = 4000
    payload_bytes: int = 8 * 1024 * 1024


def should_pause(load: Load, marks: Marks, *, paused: bool) -> bool:
    """Return whether reading should rest, given whether it rests now."""
    if paused:
        return load.messages > marks.messages // 4 or load.payload_bytes > marks.payload_bytes // 4
    return load.messages >= marks.messages or load.payload_bytes >= marks.payload_bytes
