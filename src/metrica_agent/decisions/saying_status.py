"""When the status is said: when it changed, when records are held up, and every ten minutes all the same.

While records flow a heartbeat brings all of it that changes with time, so a status beside each would say it twice: half
of what a device at rest sends to the bus (ADR 0042).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_fleet.messages import Status
from metrica_fleet.records import Vitals

AT_LEAST_EVERY_S: Final = 600.0
"""So old are at most the vitals of the retained message that somebody new on the bus sees, and a heartbeat more."""


class Said(Value, frozen=True, kw_only=True):
    """What was said last over a connection, and how far the records were when a heartbeat was looked at last."""

    standing: Status
    """Without what a heartbeat brings as well."""
    at_s: float
    """By the boot clock."""
    beats: int
    """How many heartbeats were written by then."""
    last_seq: int
    """The newest record then; by the next heartbeat the hub is to have it."""


def heeded(said: Said | None, status: Status, *, beats: int, stored: int, now_s: float) -> tuple[bool, Said]:
    """Return whether ``status`` is to be said now, and what is remembered then.

    Args:
        said: what is remembered of this connection; ``None``: nothing was said over it.
        status: what there is to say.
        beats: how many heartbeats were written so far.
        stored: up to which record the hub is known to have all.
        now_s: of the boot clock.
    """
    standing = replace(status, at=None, uptime_s=0.0, last_seq=0, vitals=Vitals())
    now = Said(standing=standing, at_s=now_s, beats=beats, last_seq=status.last_seq)
    if said is None or said.standing != standing:
        return True, now
    if said.beats == beats:
        return False, said
    if stored < said.last_seq or now_s - said.at_s >= AT_LEAST_EVERY_S:
        return True, now
    return False, replace(now, at_s=said.at_s)
