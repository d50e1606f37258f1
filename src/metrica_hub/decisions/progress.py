"""How far a rollout is: what Postgres has of it, and what the hub that leads makes of that.

The rules are the language's (``metrica_fleet.rollout``); here they meet what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.policies import RolloutPolicy
from metrica_fleet.rollout import (
    Counts,
    Course,
    DeviceState,
    Plan,
    PlannedStage,
    Seen,
    advance,
    counted,
)
from metrica_hub.decisions.outcome import Outcome, Said, obstacle, outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

FIVE_AND_MORE: Final = ("waiting", "due", "started", "confirmed", "refused", "silent", "unchanged", "forgiven")
"""The counts of a stage, as ``Counts`` has them."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, without its members."""

    name: str
    threshold: int
    counts: Counts = Counts()
    """As they were last."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it stands in the database."""

    id: int
    commit: CommitId
    previous: CommitId | None
    policy: RolloutPolicy
    stages: tuple[Stage, ...]
    course: Course
    number: int
    """Of its gate."""
    begun_at: datetime
    changed_at: datetime
    ended_at: datetime | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a rollout, as it stands in the database."""

    device: DeviceId
    stage: int
    release_before: str | None
    outcome: Outcome
    since_s: float


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What a device that changed says now."""

    device: DeviceId
    change: int
    said: Said


class Progress(NamedTuple):
    """What becomes of a rollout."""

    course: Course
    counts: tuple[Counts, ...]
    """Of each stage."""
    again_s: float | None
    """In so many seconds time alone may change it."""


class Devices:
    """The devices of one rollout, in the memory of the hub that leads: what Postgres has, and who is about to begin."""

    def __init__(self, rollout: Rollout, entries: Iterable[Entry]) -> None:
        self.cursor = 0
        """Up to which change the devices' words are taken in."""
        self._commit = rollout.commit
        self._entries = {entry.device: entry for entry in entries}
        self._plan = plan_of(rollout, self._entries.values())
        self._seen = seen_of(self._entries.values())

    def heard(self, moved: Iterable[Moved], news: dict[DeviceId, Outcome]) -> None:
        """Take in what devices say now; ``news`` becomes what is to be written down of those for whom it is news."""
        for one in moved:
            self.cursor = one.change
            entry = self._entries.get(one.device)
            if entry is None:
                continue
            now = outcome(self._commit, one.said, release_before=entry.release_before)
            news.pop(one.device, None)
            if now != entry.outcome:
                news[one.device] = now
            if now.state is DeviceState.WAITING:
                self._waits(one.device, is_due=obstacle(self._commit, one.said) is None)

    def written(self, news: Mapping[DeviceId, Outcome], now_s: float) -> None:
        """Take in what is written down as of ``now_s``."""
        for device, now in news.items():
            entry = self._entries[device]
            since_s = entry.since_s if now.state is entry.outcome.state else now_s
            self._entries[device] = msgspec.structs.replace(entry, outcome=now, since_s=since_s)
            if now.state is not DeviceState.WAITING:
                self._seen[device] = Seen(now.state, since_s)

    def moved_on(self, course: Course, now_s: float, *, listens: bool) -> Progress:
        """Return what becomes of ``course`` now.

        A hub that was away, or does not hear the devices, takes none of them for silent (``listens``).
        """
        seen = self._seen if listens else _none_silent(self._seen, now_s)
        verdict = advance(self._plan, course, seen, now_s)
        while verdict.course != course:
            course = verdict.course
            verdict = advance(self._plan, course, seen, now_s)
        again_s = None if verdict.until_s is None else max(0.0, verdict.until_s - now_s)
        return Progress(course, counted(self._plan, course, seen, now_s), again_s)

    def _waits(self, device: DeviceId, *, is_due: bool) -> None:
        if is_due:
            self._seen[device] = Seen(DeviceState.DUE, 0.0)
        else:
            self._seen.pop(device, None)


def plan_of(rollout: Rollout, entries: Iterable[Entry]) -> Plan:
    """Return the plan as it was made when the rollout began."""
    members: list[list[DeviceId]] = [[] for _ in rollout.stages]
    for entry in entries:
        members[entry.stage].append(entry.device)
    stages = (
        PlannedStage(name=stage.name, members=tuple(sorted(ids)), threshold=stage.threshold)
        for stage, ids in zip(rollout.stages, members, strict=True)
    )
    return Plan(policy=rollout.policy, commit=rollout.commit, stages=tuple(stages))


def seen_of(entries: Iterable[Entry]) -> dict[DeviceId, Seen]:
    """Return what is written down of devices, but for those that wait."""
    return {
        entry.device: Seen(entry.outcome.state, entry.since_s)
        for entry in entries
        if entry.outcome.state is not DeviceState.WAITING
    }


def _none_silent(seen: Mapping[DeviceId, Seen], now_s: float) -> dict[DeviceId, Seen]:
    """Return ``seen`` as if those on trial had begun now."""
    return {device: Seen(one.state, now_s) if one.state is DeviceState.STARTED else one for device, one in seen.items()}
