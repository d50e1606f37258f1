"""Events of a device -> one entry a release: what happened to it, how long each step took, how it ended, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metrica_hub.web.views import Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from metrica_hub.decisions.fleet_state import EventRow

_CONFIRMED: Final = Word("✔", "confirmed", "good")
_REFUSED: Final = Word("✖", "refused", "bad")
_UNDER_WAY: Final = Word("◐", "under way", "busy")
_ENDS: Final = {
    "release.confirmed": _CONFIRMED,
    "release.refused": _REFUSED,
    "commit.refused": _REFUSED,
    "rollback.finished": Word("↺", "back", "warn"),
    "rollback.failed": Word("✖", "no way back", "bad"),
}
_SUPERSEDED: Final = Word("·", "superseded", "off")
_STEPS: Final = {
    "commit.seen": "pushed",
    "commit.refused": "refused",
    "release.staged": "staged",
    "release.preflighted": "preflighted",
    "release.waiting": "waiting",
    "release.trial_started": "trial",
    "trial.rebooted": "rebooted",
    "release.confirmed": "confirmed",
    "release.refused": "refused",
    "rollback.started": "going back",
    "rollback.finished": "back",
    "rollback.failed": "no way back",
    "consent.overridden": "begins regardless",
}
MARKS: Final = frozenset(_ENDS) | {"release.trial_started", "safe_mode.entered", "safe_mode.left", "agent.started"}
"""What is marked on the time axis of plots."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a release."""

    word: str
    event: EventRow
    took: str
    """Since the step before; empty where nobody can tell."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A release, or a way back to one."""

    commit: str
    is_way_back: bool
    steps: tuple[Step, ...]
    outcome: Word
    reason: str
    took: str
    begun_at: datetime


def timeline_of(events: Sequence[EventRow]) -> list[Entry]:
    """Return the entries, newest first, of events that are oldest first."""
    groups: list[list[EventRow]] = []
    for event in events:
        if event.kind not in _STEPS:
            continue
        if groups and _belongs(event, groups[-1]):
            groups[-1].append(event)
        else:
            groups.append([event])
    newest = len(groups) - 1
    return [_entry(group, is_last=number == newest) for number, group in enumerate(groups)][::-1]


def moment_of(event: EventRow) -> datetime:
    """Return when it happened, as well as that is known."""
    return event.at or event.received_at


def in_words(seconds: float) -> str:
    """Return a duration as people say it, in two parts at most."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    minutes, left_s = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min {left_s} s" if left_s else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:  # noqa: PLR2004
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def _belongs(event: EventRow, group: Sequence[EventRow]) -> bool:
    """Whether ``event`` goes on with what ``group`` tells of."""
    first, last = group[0], group[-1]
    if _is_way_back(event) or _is_way_back(first):
        return _is_way_back(event) and _is_way_back(first) and last.kind not in _ENDS
    return event.commit == first.commit


def _is_way_back(event: EventRow) -> bool:
    return event.kind.startswith("rollback.")


def _entry(group: Sequence[EventRow], *, is_last: bool) -> Entry:
    last = group[-1]
    outcome = next((_ENDS[event.kind] for event in reversed(group) if event.kind in _ENDS), None)
    telling = next((event for event in reversed(group) if event.message or event.reason), last)
    return Entry(
        commit=(group[0].commit or "")[:8],
        is_way_back=_is_way_back(group[0]),
        steps=tuple(_steps(group)),
        outcome=outcome or (_UNDER_WAY if is_last else _SUPERSEDED),
        reason=telling.message or (telling.reason or "").replace("-", " "),
        took=_between(group[0], last),
        begun_at=moment_of(group[0]),
    )


def _steps(group: Iterable[EventRow]) -> Iterable[Step]:
    before: EventRow | None = None
    for event in group:
        yield Step(_STEPS[event.kind], event, "" if before is None else _between(before, event))
        before = event


def _between(first: EventRow, last: EventRow) -> str:
    """Return how long it was from one to the other: by the boot clock where it is one boot."""
    if first is last:
        return ""
    if first.boot_id == last.boot_id:
        return in_words(max(0.0, last.uptime_s - first.uptime_s))
    if first.at is None or last.at is None:
        return ""
    return in_words(max(0.0, (last.at - first.at).total_seconds()))
