"""Whether a device that says no word of its end is gone: by the age of what was last heard of it.

A last will may never come: a broker was restarted without its disk, or never saw the device die; a hub was away. So
what counts is when the hub last heard the device, by the hub's own steady clock, and only while the hub was listening:
led, was connected to the broker and kept up with it. A device that was not heard since the listening began has one
grace: after a broker that was away, devices come back within a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from metrica_hub.decisions.flapping import HALF_LIFE_S

Hearing = Literal["silent", "heard"]
"""What the hub hears against the last word: nothing although it was "online", or a voice although it was "offline"."""

USUAL_HEARTBEAT_S: Final = 60.0
"""Of a device whose agent does not say."""
GRACE_S: Final = 75.0
"""An agent's longest pause before it connects again (45 s), a slow connection, and something to spare."""
_SPREAD: Final = 1.25
"""Heartbeats come up to a tenth later than their interval; and a busy device is no dead one."""
_SLACK_S: Final = 5.0
_LATE_S: Final = 10.0
"""What was said before an "offline" may come so much later than it, where several sessions share the load."""


@dataclass(frozen=True, slots=True)
class Ear:
    """How the hub listens."""

    since_s: float | None
    """From when on it has listened without a break; ``None`` while it does not."""
    grace_s: float = GRACE_S
    usual_heartbeat_s: float = USUAL_HEARTBEAT_S
    half_life_s: float = HALF_LIFE_S

    def is_settled(self, now_s: float) -> bool:
        """Whether it has listened for longer than devices may need to come back."""
        return self.since_s is not None and now_s - self.since_s >= self.grace_s


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a device, on the hub's steady clock; ``None``: not by this hub."""

    last_s: float | None
    """Anything that it said itself."""
    heartbeat_s: float | None
    """How often it said that it would be heard."""
    offline_s: float | None
    """When its last word was said, where that is "offline"."""


def allowance_s(heartbeat_s: float) -> float:
    """Return for how long a device may be silent that has a heartbeat every ``heartbeat_s``: 80 s at 60."""
    return _SPREAD * heartbeat_s + _SLACK_S


def hearing(heard: Heard, ear: Ear, judged: tuple[Hearing | None, float], now_s: float) -> Hearing | None:
    """Return what is to be held against the last word, given what was judged before, and when."""
    before, before_s = judged
    if heard.offline_s is not None:
        return "heard" if _is_contradicted(heard, heard.offline_s, ear, now_s, before=before) else None
    if before == "silent":
        return None if heard.last_s is not None and heard.last_s > before_s else "silent"
    return "silent" if _is_silent(heard, ear, now_s) else None


def _is_silent(heard: Heard, ear: Ear, now_s: float) -> bool:
    if ear.since_s is None:
        return False
    allowed_s = allowance_s(heard.heartbeat_s or ear.usual_heartbeat_s)
    if heard.last_s is not None and heard.last_s >= ear.since_s:
        return now_s - heard.last_s > allowed_s
    return now_s - ear.since_s > max(ear.grace_s, allowed_s)


def _is_contradicted(heard: Heard, offline_s: float, ear: Ear, now_s: float, *, before: Hearing | None) -> bool:
    if heard.last_s is None or heard.last_s <= offline_s + _LATE_S or _is_silent(heard, ear, now_s):
        return False
    # What a broker gives again to a hub that comes back was said before the end, too.
    return before == "heard" or ear.is_settled(now_s)
