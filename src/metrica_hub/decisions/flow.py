"""How much to take at once: when to stop reading from the broker, and how long to rest between two reads.

Reading stops at one mark and goes on at another, so that the answer does not flutter. The upper mark can't be a hard
limit: one read of the socket may bring many messages at once. What is bounded is what waits beyond it: one read.

Each read wakes the hub, and what it brings wakes Postgres: for one record as for many. So when records come often but
singly, the hub reads when some will have come: soon where somebody waits for the answer, a tenth of a second
later where nobody does, for most of what a large fleet says is one heartbeat of a device at rest. When records come
seldom it reads each at once; when each read brings many, it does not rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TALKS_WITHIN_S: Final = 1.0
MOST_TALKERS: Final = 50_000
"""Topics that are remembered: who writes to the bus may invent as many."""
_HEARTBEAT: Final = b'{"type":"heartbeat"'


@dataclass(frozen=True, slots=True)
class Load:
    """What was received and not yet committed."""

    messages: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Stop at either figure, go on when both are at three quarters of it: so the next batch is there in time."""

    messages: int = 4000
    payload_bytes: int = 8 * 1024 * 1024


def should_pause(load: Load, marks: Marks, *, paused: bool) -> bool:
    """Return whether reading should rest, given whether it rests now."""
    if paused:
        return load.messages > marks.messages * 3 // 4 or load.payload_bytes > marks.payload_bytes * 3 // 4
    return load.messages >= marks.messages or load.payload_bytes >= marks.payload_bytes


@dataclass(frozen=True, slots=True)
class Pace:
    """How long records may wait for each other, and from how many in a read on they need not."""

    enough: int = 2
    many: int = 64
    shortest_s: float = 0.001
    longest_s: float = 0.008
    """Where somebody waits; and records that come more seldom than this do not wait at all."""
    idle_s: float = 0.1
    """Where nobody waits."""
    plenty: int = 500


def rest_s(records: int, since_last_s: float, pace: Pace, *, waited: bool) -> float:
    """Return how long not to read, after a read that brought ``records``, ``since_last_s`` after one that did.

    Args:
        records: at least one.
        since_last_s: on a steady clock.
        pace: the bounds.
        waited: whether somebody waits for one of them (``Talkers``).
    """
    interval_s = since_last_s / records
    if interval_s > pace.longest_s or records >= (pace.many if waited else pace.plenty):
        return 0.0
    if not waited:
        return pace.idle_s
    return min(max(pace.enough * interval_s, pace.shortest_s), pace.longest_s)


class Talkers:
    """Who has said something within the last second: it has more to say, and waits for its answer to go on.

    A device at rest says a heartbeat, and is answered whenever it is.
    """

    def __init__(self) -> None:
        self._spoke_s: dict[str, float] = {}

    def waits(self, topic: str, payload: bytes, now_s: float) -> bool:
        """Note a record; return whether somebody waits for it to be stored. Whoever watches waits for events."""
        before_s = self._spoke_s.get(topic)
        if before_s is None and len(self._spoke_s) >= MOST_TALKERS:
            self._spoke_s.clear()
        self._spoke_s[topic] = now_s
        return not payload.startswith(_HEARTBEAT) or (before_s is not None and now_s - before_s < TALKS_WITHIN_S)
