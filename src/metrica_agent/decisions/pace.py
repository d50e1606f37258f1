"""How fast a backlog may be sent: 500 devices that return at once send no more than a hub can store."""

from __future__ import annotations

from metrica_agent.decisions.value import Value


class Pace(Value, frozen=True, kw_only=True):
    """So many at once, then so many a second: a bucket of tokens that fills by time.

    A value: ``take`` returns the next one beside how long to wait first.
    """

    per_s: float = 20.0
    """500 devices together half of what one hub stores (docs/reference/performance.md); 30 days take 36 minutes."""
    burst: int = 20
    """How many may go without waiting after a quiet time."""
    tokens: float = 20.0
    """How many may go now, as of ``at_s``; below zero when some are already promised."""
    at_s: float = 0.0


def take(pace: Pace, now_s: float, count: int = 1) -> tuple[Pace, float]:
    """Return the pace after ``count`` more were let go, and the seconds to wait before they go."""
    filled = min(float(pace.burst), pace.tokens + max(0.0, now_s - pace.at_s) * pace.per_s)
    left = filled - count
    after = Pace(per_s=pace.per_s, burst=pace.burst, tokens=left, at_s=now_s)
    return after, max(0.0, -left / pace.per_s)
