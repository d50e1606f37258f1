"""How a commit goes through the fleet: the stages of a fleet, and what the hub's leader does next. Pure.

    planned(policy, commit, devices)     once: who is in which stage
    Course()                             nothing is open yet
    advance(plan, course, seen, now_s)   again and again: one change at a time, until there is none
    paused, resumed, aborted             a person's word; a pause by hand stops all that a halt does
    gate_of(course, ...)                 what the devices are told (metrica_fleet/gate.py)

Who is where. The devices are those of the commit. A device that stages name belongs to the first that does; of all
others a share takes ``ceil(share * others)``, those of earlier shares included, in the order of their buckets: 10 %
of 5 is one. A newer commit supersedes: its rollout begins anew, the older one is over, and a halted commit stays
halted.

What counts. Of each device the hub knows one state (``Seen``). Of a stage five counts follow, and one that counts for
nothing:

- waiting: it has not started: offline, in safe mode, out of its window. In no denominator, for as long as it takes.
  ``DUE`` is one that waits for nothing, so that it is about to start; ``deadline_s`` after the stage opened it only
  waits.
- started: on trial.
- confirmed.
- refused: a failure, whether it was found before the switch or after.
- silent: started, and nothing more for ``deadline_s``: a failure. It is none any more when the device speaks again.
- unchanged: the commit means what the device runs already. That proves nothing: it is in no denominator.

When it halts. In any stage that is open, for as long as the rollout lasts, more devices failed than
``floor(failure_share * those that have started or are due)``. So in a stage of fewer than ``1 / failure_share`` any
failure halts, in a named canary stage above all. A stage also halts that has nobody left to wait for and fewer than
``minimum_healthy`` confirmed; no more can be asked for than there are that could be reached.

When a stage passes. Nobody in it is on trial who began before ``waiting_s`` was over; nobody waits, or ``waiting_s``
is over since it opened; enough are confirmed; and ``soak_s`` has gone by since the last confirmation that was needed:
the last one before ``waiting_s`` was over, or the one that made ``minimum_healthy``. A stage without members passes
at once, one whose members are all offline when ``waiting_s`` is over. So every stage ends: it passes, halts, or waits
for a person.

What a person does. A stage with ``pause`` pauses when it has passed. ``resumed`` goes on: after a planned pause with
the next stage; after a halt, or a pause by order, with what has failed by then forgiven (those devices count for
nothing any more), and ``waiting_s`` begins anew. A pause and a halt stop further starts; what is on trial goes on to
its verdict, and is judged: a paused rollout can halt. ``aborted`` is final.

Times are seconds of one clock, the hub's; the devices' own are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import ceil, floor
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec.structs import replace

from metrica_fleet.gate import EVERYBODY, Gate, bucket, named_stage
from metrica_fleet.identity import CommitId, DeviceId, FleetId
from metrica_fleet.policies import RolloutPolicy

if TYPE_CHECKING:
    from datetime import datetime

PLANNED: Final = "planned-pause"
ORDERED: Final = "ordered"
FAILURES: Final = "failures"
TOO_FEW: Final = "too-few-healthy"
CourseState = Literal["open", "paused", "halted", "aborted", "done", "superseded"]
_FINAL: Final = frozenset({"aborted", "done", "superseded"})


# --- the fleet in stages --------------------------------------------------------------------------------------


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True):
    """Who is in one stage."""

    name: str
    members: tuple[DeviceId, ...]
    """In no other stage; sorted."""
    threshold: int
    """Of the gate when this stage is open; no less than before."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet in the stages of one commit: all that is settled when its rollout begins."""

    policy: RolloutPolicy
    commit: CommitId
    stages: tuple[PlannedStage, ...]

    def places(self) -> dict[DeviceId, int]:
        """Return in which stage each device is."""
        return {device: at for at, stage in enumerate(self.stages) for device in stage.members}


def planned(policy: RolloutPolicy, commit: CommitId, devices: Mapping[DeviceId, tuple[str, ...]]) -> Plan:
    """Return who of ``devices``, each with its tags, is in which stage of ``commit``."""
    named = {device: named_stage(policy, device, tags) for device, tags in devices.items()}
    others = sorted(bucket(commit, device) for device, at in named.items() if at is None)
    thresholds: list[int] = []
    for stage in policy.stages:
        before = thresholds[-1] if thresholds else 0
        thresholds.append(before if stage.share is None else max(before, _threshold(others, stage.share)))
    members: list[list[DeviceId]] = [[] for _ in policy.stages]
    for device, at in sorted(named.items()):
        place = bucket(commit, device)
        first = at if at is not None else next(at for at, bound in enumerate(thresholds) if place < bound)
        members[first].append(device)
    stages = (
        PlannedStage(name=stage.name, members=tuple(ids), threshold=bound)
        for stage, ids, bound in zip(policy.stages, members, thresholds, strict=True)
    )
    return Plan(policy=policy, commit=commit, stages=tuple(stages))


def _threshold(buckets: list[int], share: float) -> int:
    """Return what the first ``share`` of sorted ``buckets``, rounded up, are below, and no other is."""
    taken = ceil(_exact(share * len(buckets)))
    return buckets[taken] if taken < len(buckets) and share < 1 else EVERYBODY


def _exact(product: float) -> float:
    """Return what a share of a number would be without the error of binary fractions: 29 % of 100 is 29."""
    return round(product, 9)


# --- what is known, and what it comes to -----------------------------------------------------------------------


class DeviceState(StrEnum):
    """How far a device has come with a commit."""

    WAITING = "waiting"
    DUE = "due"
    """Its gate is open and nothing else is in its way."""
    STARTED = "started"
    CONFIRMED = "confirmed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Seen(msgspec.Struct, frozen=True):
    """How far one device is now. Who was not heard of waits, and who was taken off its trial without a verdict.

    A device that is on the commit already when its rollout begins is ``UNCHANGED``.
    """

    state: DeviceState
    since_s: float


_UNHEARD: Final = Seen(DeviceState.WAITING, 0.0)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a stage are how far: the five, those that are due, and those for whom nothing changes."""

    waiting: int = 0
    due: int = 0
    started: int = 0
    confirmed: int = 0
    refused: int = 0
    silent: int = 0
    unchanged: int = 0
    forgiven: int = 0

    @property
    def failed(self) -> int:
        """How many failed."""
        return self.refused + self.silent

    @property
    def reached(self) -> int:
        """How many have started, whatever became of it."""
        return self.started + self.confirmed + self.failed

    def allowed(self, policy: RolloutPolicy) -> int:
        """Return how many may fail; one more halts."""
        return floor(_exact(policy.failure_share * (self.reached + self.due)))


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rollout stands: all that the hub has to keep of it beside plan and policy."""

    stage: int = -1
    """The last stage that is open; -1: none."""
    opened_s: float = 0.0
    """When it was opened, or a person said go on."""
    threshold: int = 0
    state: CourseState = "open"
    reason: str = ""
    """A slug: why it is not open."""
    message: str = ""
    """The same for people."""
    revert: bool = False
    cleared: int = -1
    """The last stage whose planned pause a person has ended."""
    forgiven: tuple[DeviceId, ...] = ()
    """Devices that had failed when a person said go on."""

    @property
    def is_over(self) -> bool:
        """Whether nothing changes it any more."""
        return self.state in _FINAL


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What ``advance`` found."""

    course: Course
    """The same as before when nothing is to be done."""
    why: str
    """In words: what was done, or what is waited for."""
    until_s: float | None = None
    """When time alone may change it; ``None``: only news or a person does."""


def counted(plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], now_s: float) -> tuple[Counts, ...]:
    """Return the counts of each stage, those that are not open included."""
    return tuple(_counts(plan, course, seen, at, now_s) for at in range(len(plan.stages)))


def _counts(plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], at: int, now_s: float) -> Counts:
    forgiven, deadline_s = frozenset(course.forgiven), plan.policy.deadline_s
    counts = dict.fromkeys(DeviceState, 0)
    silent = 0
    members = [device for device in plan.stages[at].members if device not in forgiven]
    for device in members:
        one = seen.get(device, _UNHEARD)
        if one.state is DeviceState.STARTED and now_s >= one.since_s + deadline_s:
            silent += 1
        elif one.state is DeviceState.DUE and now_s >= course.opened_s + deadline_s:
            counts[DeviceState.WAITING] += 1
        else:
            counts[one.state] += 1
    return Counts(
        waiting=counts[DeviceState.WAITING],
        due=counts[DeviceState.DUE],
        started=counts[DeviceState.STARTED],
        confirmed=counts[DeviceState.CONFIRMED],
        refused=counts[DeviceState.REFUSED],
        silent=silent,
        unchanged=counts[DeviceState.UNCHANGED],
        forgiven=len(plan.stages[at].members) - len(members),
    )


# --- what is done next ----------------------------------------------------------------------------------------


def advance(plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], now_s: float) -> Verdict:
    """Return the one next change of ``course``; asked again and again until there is none, whatever happens.

    The same answer comes from the same facts, so another hub that takes over goes on where this one stood.
    """
    if course.is_over:
        return Verdict(course=course, why=f"it is {course.state}")
    counts = counted(plan, course, seen, now_s)
    halting = _past_the_limit(plan, course, counts)
    if halting is not None:
        return _changed(replace(course, state="halted", reason=FAILURES, message=halting))
    silence_s = _next_silence_s(plan, course, seen, now_s)
    if course.state != "open":
        return Verdict(course=course, why=course.message or f"it is {course.state}", until_s=silence_s)
    if course.stage < 0:
        return _opened(plan, course, 0, now_s)
    found = _judged(_Stage(plan, course, seen, now_s))
    if isinstance(found, _Hold):
        return Verdict(course=course, why=found.why, until_s=_earlier(found.until_s, silence_s))
    if found is not None:
        return _changed(replace(course, state="halted", reason=TOO_FEW, message=found))
    if plan.policy.stages[course.stage].pause and course.cleared < course.stage:
        message = f'after stage "{plan.stages[course.stage].name}" a person is to say go on'
        return _changed(replace(course, state="paused", reason=PLANNED, message=message))
    if course.stage + 1 < len(plan.stages):
        return _opened(plan, course, course.stage + 1, now_s)
    return _changed(replace(course, state="done", threshold=EVERYBODY, reason="", message="every stage has passed"))


def soaks_until_s(plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], now_s: float) -> float | None:
    """Return when the soak of the last open stage ends, by the rule by which it passes; ``None``: none is going on."""
    if course.state != "open" or course.stage < 0 or not plan.policy.stages[course.stage].soak_s:
        return None
    stage = _Stage(plan, course, seen, now_s)
    if stage.holds() is not None or stage.is_too_ill():
        return None
    return stage.soaked_s() or None


def _past_the_limit(plan: Plan, course: Course, counts: tuple[Counts, ...]) -> str | None:
    """Return where more failed than may, in words; ``None``: nowhere, or it is known."""
    if course.state == "halted":
        return None
    for stage, count in list(zip(plan.stages, counts, strict=True))[: course.stage + 1]:
        allowed = count.allowed(plan.policy)
        if count.failed > allowed:
            return f'in stage "{stage.name}" {count.failed} of {count.reached} failed, and {allowed} may'
    return None


class _Hold(msgspec.Struct, frozen=True):
    why: str
    until_s: float | None


class _Stage:
    """The last open stage, as it is now."""

    def __init__(self, plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], now_s: float) -> None:
        self.name = plan.stages[course.stage].name
        self.counts = _counts(plan, course, seen, course.stage, now_s)
        self.needed = min(plan.policy.minimum_healthy, self.counts.reached)
        self.now_s = now_s
        self._deadline_s = plan.policy.deadline_s
        self._soak_s = plan.policy.stages[course.stage].soak_s
        self._patient_until_s = course.opened_s + plan.policy.waiting_s
        forgiven = frozenset(course.forgiven)
        members = (device for device in plan.stages[course.stage].members if device not in forgiven)
        self._seen = [seen[device] for device in members if device in seen]

    def holds(self) -> _Hold | None:
        """Return who is waited for; ``None``: nobody any more."""
        on_trial = [one for one in self._since(DeviceState.STARTED) if self.now_s < one + self._deadline_s]
        # Who began only after the others were given up is not needed, or a stage could go on for ever.
        needed = [since_s for since_s in on_trial if since_s <= self._patient_until_s]
        if needed or (on_trial and not self._is_enough()):
            why = f'in stage "{self.name}" {len(on_trial)} are on trial'
            return _Hold(why, min(needed or on_trial) + self._deadline_s)
        waiting = self.counts.waiting + self.counts.due
        if waiting and self.now_s < self._patient_until_s:
            return _Hold(f'in stage "{self.name}" {waiting} have not started', self._patient_until_s)
        return None

    def is_too_ill(self) -> bool:
        """Whether fewer are confirmed than must be."""
        return not self._is_enough()

    def soaked_s(self) -> float:
        """Return when the soak ends that began with the last confirmation that was needed."""
        confirmed = sorted(self._since(DeviceState.CONFIRMED))
        timely = [since_s for since_s in confirmed if since_s <= self._patient_until_s]
        last_needed = max(len(timely), self.needed)
        return confirmed[last_needed - 1] + self._soak_s if last_needed else 0.0

    def _is_enough(self) -> bool:
        return self.counts.confirmed >= self.needed

    def _since(self, state: DeviceState) -> list[float]:
        return [one.since_s for one in self._seen if one.state is state]


def _judged(stage: _Stage) -> _Hold | str | None:
    """Return what a stage waits for, or why it halts; ``None``: it has passed."""
    holds = stage.holds()
    if holds is not None:
        return holds
    if stage.is_too_ill():
        return (
            f'in stage "{stage.name}" {stage.counts.confirmed} are confirmed, {stage.needed} must be, '
            "and there is nobody left to wait for"
        )
    soaked_s = stage.soaked_s()
    return None if stage.now_s >= soaked_s else _Hold(f'stage "{stage.name}" has come through and soaks', soaked_s)


def _opened(plan: Plan, course: Course, at: int, now_s: float) -> Verdict:
    stage = plan.stages[at]
    threshold = max(course.threshold, stage.threshold)
    message = f'stage "{stage.name}" is open to {len(stage.members)} more'
    after = replace(course, stage=at, opened_s=now_s, threshold=threshold, state="open", reason="", message=message)
    return _changed(after)


def _changed(course: Course) -> Verdict:
    return Verdict(course=course, why=course.message)


def _next_silence_s(plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], now_s: float) -> float | None:
    """Return when the next device on trial will be held to be silent, or one that is due only to wait."""
    deadline_s = plan.policy.deadline_s
    members = (device for stage in plan.stages[: course.stage + 1] for device in stage.members)
    ends: set[float] = set()
    for one in (seen[device] for device in members if device in seen):
        if one.state is DeviceState.STARTED:
            ends.add(one.since_s + deadline_s)
        elif one.state is DeviceState.DUE:
            ends.add(course.opened_s + deadline_s)
    return min((end for end in ends if end > now_s), default=None)


def _earlier(one: float | None, other: float | None) -> float | None:
    times = [time for time in (one, other) if time is not None]
    return min(times, default=None)


# --- a person's word ------------------------------------------------------------------------------------------


def paused(course: Course, message: str) -> Course:
    """Nobody starts any more until ``resumed``; what does not go on anyway stays as it is."""
    if course.state != "open":
        return course
    return replace(course, state="paused", reason=ORDERED, message=message)


def resumed(plan: Plan, course: Course, seen: Mapping[DeviceId, Seen], now_s: float, message: str) -> Course:
    """Go on: after a planned pause with the next stage, else where it stood, with what has failed by now forgiven."""
    if course.state not in {"paused", "halted"}:
        return course
    if course.reason == PLANNED:
        return replace(course, state="open", reason="", message=message, cleared=course.stage)
    failed = {device for device, one in seen.items() if _has_failed(plan.policy, one, now_s)}
    open_to = {device for stage in plan.stages[: course.stage + 1] for device in stage.members}
    forgiven = tuple(sorted({*course.forgiven, *(failed & open_to)}))
    return replace(course, state="open", reason="", message=message, forgiven=forgiven, opened_s=now_s)


def aborted(course: Course, message: str, *, revert: bool) -> Course:
    """It is over: nobody starts the commit any more; with ``revert`` who runs it goes back."""
    if course.is_over:
        return course
    return replace(course, state="aborted", reason=ORDERED, message=message, revert=revert)


def superseded(course: Course, commit: CommitId) -> Course:
    """A newer commit is there: this one is over."""
    if course.is_over:
        return course
    return replace(course, state="superseded", reason="superseded", message=f"commit {commit[:8]} supersedes it")


def _has_failed(policy: RolloutPolicy, one: Seen, now_s: float) -> bool:
    silent = one.state is DeviceState.STARTED and now_s >= one.since_s + policy.deadline_s
    return silent or one.state is DeviceState.REFUSED


# --- what is said ---------------------------------------------------------------------------------------------


def gate_of(
    course: Course, *, fleet: FleetId, commit: CommitId, previous: CommitId | None, number: int, issued_at: datetime
) -> Gate | None:
    """Return the gate that says ``course``; ``None`` of one that is superseded: the newer commit's is said."""
    if course.state == "superseded":
        return None
    return Gate(
        fleet=fleet,
        number=number,
        issued_at=issued_at,
        commit=commit,
        previous=previous,
        stage=course.stage,
        threshold=course.threshold,
        state=course.state,
        revert=course.revert,
        reason=course.message if course.state in {"paused", "halted", "aborted"} else "",
    )
