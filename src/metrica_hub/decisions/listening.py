"""Whether a hub listens: only then does the silence of a device mean anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOOK_S: Final = 5.0
"""Between two looks."""
_LATE_S: Final = 5.0
"""A look that is so much later than it was due says that the process was frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the hub saw of itself."""

    at_s: float
    leads: bool
    connected: bool
    """To the broker."""
    waiting: int
    """Messages that were received and are not stored."""
    braked: bool
    """Whether it reads no more for now (``flow.py``): what it hears then was said some time ago."""
    batches: int
    """Stored so far."""


def listens(before: Look, now: Look) -> bool:
    """Whether the hub has heard, from the look before until now, what there was to hear."""
    is_stuck = now.waiting > 0 and before.waiting > 0 and now.batches == before.batches
    was_frozen = now.at_s - before.at_s > LOOK_S + _LATE_S
    return now.leads and now.connected and not is_stuck and not was_frozen and not now.braked
