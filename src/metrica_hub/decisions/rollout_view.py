"""A rollout as people and programs see it: its stages, who waits and why, what failed and how often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from metrica_fleet.identity import short
from metrica_fleet.policies import RolloutPolicy
from metrica_fleet.rollout import Counts, CourseState, soaks_until_s
from metrica_hub.decisions.outcome import Said, obstacle
from metrica_hub.decisions.progress import plan_of, seen_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metrica_hub.decisions.progress import Entry, Rollout, Stage

State = Literal["waiting", "started", "confirmed", "unchanged", "refused", "silent"]

NOT_OPEN: Final = "gate-closed"
"""It waits for its stage, and for nothing else."""
ABOUT_TO: Final = "about-to-start"


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. Every device of it is in one of the counts."""

    name: str
    is_open: bool
    waiting: int
    started: int
    confirmed: int
    unchanged: int
    refused: int
    silent: int
    forgiven: int
    """Failed before a person said go on; counted nowhere else."""


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout in short."""

    id: int
    commit: str
    previous: str | None
    state: CourseState
    reason: str | None
    """Why it is not open; a slug."""
    message: str
    stage: int
    """The last one that is open, from 0; -1: none."""
    stages: tuple[StageView, ...]
    number: int
    """Of its gate."""
    begun_at: datetime
    changed_at: datetime
    ended_at: datetime | None


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """So many devices of a stage wait for the same reason."""

    stage: str
    why: str
    devices: int


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """So many devices of a stage failed for the same reason."""

    stage: str
    reason: str
    devices: int
    example: str
    """One of them."""
    message: str
    """Its words."""


class Abortion(msgspec.Struct, frozen=True, kw_only=True):
    """What an abort would do now, unless it says otherwise."""

    revert: bool
    devices: int
    """So many run the commit: they keep it, or go back."""


class RolloutDetail(RolloutView, frozen=True, kw_only=True):
    """A rollout in full."""

    policy: RolloutPolicy
    waits: tuple[Waits, ...]
    failures: tuple[Failures, ...]
    abort: Abortion
    soaks_until: datetime | None = None
    """When the soak of the last open stage ends, where nothing else is waited for."""


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a rollout."""

    device: str
    stage: str
    state: State
    why: str | None
    """Why it waits or failed."""
    message: str
    since: datetime


class HeadView(msgspec.Struct, frozen=True, kw_only=True):
    """The branch that the fleet follows, as the hub sees it."""

    branch: str
    commit: str
    seen_at: datetime
    read_commit: str | None
    """Up to which commit the hub has read what the fleet is."""
    problems: tuple[str, ...]
    """Why that can't be used; no rollout is begun for it, and devices refuse it."""
    is_believed: bool | None
    """Whether its allowed_signers has the hub's key, so that devices heed its gates; ``None``: not known."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """So many devices of a stage wait and say the same."""

    stage: int
    said: Said
    devices: int


def view_of(rollout: Rollout) -> RolloutView:
    """Return ``rollout`` in short."""
    course = rollout.course
    return RolloutView(
        id=rollout.id,
        commit=rollout.commit,
        previous=rollout.previous,
        state=course.state,
        reason=course.reason or None,
        message=course.message,
        stage=course.stage,
        stages=tuple(_stage(stage, is_open=at <= course.stage) for at, stage in enumerate(rollout.stages)),
        number=rollout.number,
        begun_at=in_ms(rollout.begun_at),
        changed_at=in_ms(rollout.changed_at),
        ended_at=None if rollout.ended_at is None else in_ms(rollout.ended_at),
    )


def doubts_of(head: HeadView) -> tuple[str, ...]:
    """Return, in sentences, why devices may not heed the hub, or not take the branch's commit."""
    doubts: list[str] = []
    if head.is_believed is False:
        what = f"allowed_signers of the fleet repository (commit {short(head.read_commit)}) lacks this hub's key"
        doubts.append(f"{what}: devices heed none of its gates and commands; metrica key prints the line to commit")
    doubts += (f"commit {short(head.read_commit)} can't be used: {problem}" for problem in head.problems)
    return tuple(doubts)


def in_ms(at: datetime) -> datetime:
    """Return ``at`` as it is shown outside: with milliseconds and no less (CONVENTIONS 3.1, 2)."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def detail_of(
    rollout: Rollout, groups: Iterable[Group], failures: Iterable[Failures], entries: Sequence[Entry], now: datetime
) -> RolloutDetail:
    """Return ``rollout`` in full; ``entries``: the devices of the last open stage, as they are ``now``."""
    on_it = sum(stage.counts.confirmed for stage in rollout.stages)
    return RolloutDetail(
        **msgspec.structs.asdict(view_of(rollout)),
        policy=rollout.policy,
        waits=_waits(rollout, groups),
        failures=tuple(failures),
        abort=Abortion(revert=rollout.policy.abort == "revert", devices=on_it),
        soaks_until=_soaks_until(rollout, entries, now),
    )


def why_waiting(rollout: Rollout, stage: int, said: Said) -> str:
    """Return why a device of a stage has not begun."""
    found = obstacle(rollout.commit, said)
    state = rollout.course.state
    if found is None and state in {"paused", "halted", "aborted"}:
        found = f"rollout-{state}"
    is_open = stage <= rollout.course.stage or state == "done"
    return found or (ABOUT_TO if is_open else NOT_OPEN)


def _soaks_until(rollout: Rollout, entries: Sequence[Entry], now: datetime) -> datetime | None:
    until_s = soaks_until_s(plan_of(rollout, entries), rollout.course, seen_of(entries), now.timestamp())
    return None if until_s is None else in_ms(datetime.fromtimestamp(until_s, UTC))


def _waits(rollout: Rollout, groups: Iterable[Group]) -> tuple[Waits, ...]:
    counts: dict[tuple[int, str], int] = {}
    for group in groups:
        key = group.stage, why_waiting(rollout, group.stage, group.said)
        counts[key] = counts.get(key, 0) + group.devices
    return tuple(
        Waits(stage=rollout.stages[stage].name, why=why, devices=devices)
        for (stage, why), devices in sorted(counts.items())
    )


def _stage(stage: Stage, *, is_open: bool) -> StageView:
    counts: Counts = stage.counts
    return StageView(
        name=stage.name,
        is_open=is_open,
        waiting=counts.waiting + counts.due,
        started=counts.started,
        confirmed=counts.confirmed,
        unchanged=counts.unchanged,
        refused=counts.refused,
        silent=counts.silent,
        forgiven=counts.forgiven,
    )
