"""When a device asks for its next certificate: by itself, long before the present one ends, and never by a wrong clock.

The wall clock may say 1970, or nothing that can be trusted. Then nothing is asked for: the one thing that counts
without a clock is the broker's own word that the certificate has ended.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from metrica_agent.decisions.value import Value
from metrica_fleet.enrolment import renewal_due

LOOK_S: Final = 3600.0
"""Between looks at the certificate, whatever is in it."""
AGAIN_BASE_S: Final = 300.0
AGAIN_CAP_S: Final = 86_400.0

Refused = Literal["expired", "revoked"]
"""What the broker said of the certificate."""


class Papers(Value, frozen=True, kw_only=True):
    """The certificate that the device has."""

    serial: str
    not_before: datetime
    not_after: datetime


class Facts(Value, frozen=True, kw_only=True):
    """What is known when it is decided."""

    now_s: float
    wall: datetime | None
    """``None``: the clock is not synchronised."""
    papers: Papers | None
    """``None``: there is no certificate, or none that can be read."""
    has_next: bool
    """Whether another certificate is here that the broker has not seen yet; connections try both in turns."""
    linked: bool
    """Whether the bus is connected."""
    refused: Refused | None
    chance: float
    """From [0, 1); the same for one certificate, however often it is looked at."""
    attempts: int
    """In vain so far, to get the next one or to connect with it."""
    tried_s: float | None
    """When the last one was."""


class Rest(Value, frozen=True, kw_only=True):
    """Nothing is to be done until then."""

    until_s: float
    why: Literal["no-certificate", "just-tried", "not-connected", "revoked", "no-clock", "not-yet-valid", "good"]


class Ask(Value, frozen=True, kw_only=True):
    """Ask the hub for the next certificate."""

    why: str


class Prove(Value, frozen=True, kw_only=True):
    """Connect with the next certificate: when the broker takes it, it is the present one."""


def decide(facts: Facts) -> Rest | Ask | Prove:
    """Return the one thing to do."""
    later_s = facts.now_s + LOOK_S
    if facts.papers is None:
        return Rest(until_s=later_s, why="no-certificate")
    if facts.tried_s is not None and facts.attempts > 0:
        again_s = facts.tried_s + pause_s(facts.attempts, facts.chance)
        if facts.now_s < again_s:
            return Rest(until_s=min(again_s, later_s), why="just-tried")
    if facts.has_next and facts.linked:
        return Prove()
    if facts.refused == "revoked":
        return Rest(until_s=later_s, why="revoked")
    if facts.refused == "expired":
        return Ask(why="the broker says that the certificate has ended")
    if facts.has_next:
        return Rest(until_s=later_s, why="not-connected")
    return _by_the_clock(facts, facts.papers)


def _by_the_clock(facts: Facts, papers: Papers) -> Rest | Ask:
    later_s = facts.now_s + LOOK_S
    if facts.wall is None:
        return Rest(until_s=later_s, why="no-clock")
    if facts.wall < papers.not_before:
        return Rest(until_s=later_s, why="not-yet-valid")
    due = renewal_due(papers.not_before, papers.not_after, facts.chance)
    if facts.wall >= due:
        return Ask(why=f"the certificate ends at {papers.not_after.isoformat(timespec='seconds')}")
    return Rest(until_s=facts.now_s + min(LOOK_S, (due - facts.wall).total_seconds()), why="good")


def pause_s(attempts: int, chance: float) -> float:
    """Return how long to wait after so many attempts in vain."""
    return min(AGAIN_CAP_S, AGAIN_BASE_S * 2.0 ** min(attempts - 1, 32)) * (0.75 + chance / 2)
