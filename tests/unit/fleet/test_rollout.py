from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from metrica_fleet import rollout
from metrica_fleet.gate import EVERYBODY, bucket
from metrica_fleet.identity import CommitId, DeviceId, FleetId
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.rollout import Course, DeviceState, Plan, Seen, advance, counted, planned

C1, C2 = CommitId("1" * 40), CommitId("2" * 40)
WAITING, DUE, STARTED = DeviceState.WAITING, DeviceState.DUE, DeviceState.STARTED
CONFIRMED, UNCHANGED, REFUSED = DeviceState.CONFIRMED, DeviceState.UNCHANGED, DeviceState.REFUSED
CANARY = RolloutStage(name="canary", tags=("canary",), soak_s=100.0)
TENTH = RolloutStage(name="tenth", share=0.1, soak_s=100.0)
ALL = RolloutStage(name="all", share=1.0, soak_s=100.0)
POLICY = RolloutPolicy(deadline_s=600.0, waiting_s=5000.0, stages=(CANARY, TENTH, ALL))


def fleet(size: int, canaries: int = 0) -> dict[DeviceId, tuple[str, ...]]:
    return {DeviceId(f"pi-{number}"): ("canary",) if number < canaries else () for number in range(size)}


def only(members: int, policy: RolloutPolicy = POLICY) -> Plan:
    """Return a plan of one stage, with so many members."""
    return planned(replace(policy, stages=(ALL,)), C1, fleet(members))


def saw(plan: Plan, *counts: tuple[DeviceState, int, float]) -> dict[DeviceId, Seen]:
    """Return so many members of the first stage in each state, since then."""
    rest = list(plan.stages[0].members)
    return {rest.pop(): Seen(state, since_s) for state, count, since_s in counts for _ in range(count)}


OPEN = Course(stage=0, opened_s=0.0, threshold=EVERYBODY)


# --- who is in which stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "canaries", "sizes"),
    [
        (5, 0, [0, 1, 4]),
        (5, 1, [1, 1, 3]),
        (1, 0, [0, 1, 0]),
        (1, 1, [1, 0, 0]),
        (500, 0, [0, 50, 450]),
        (502, 2, [2, 50, 450]),
        (501, 0, [0, 51, 450]),
    ],
)
def test_a_share_is_rounded_up_of_those_that_no_stage_names(size: int, canaries: int, sizes: list[int]) -> None:
    plan = planned(POLICY, C1, fleet(size, canaries))
    assert [len(stage.members) for stage in plan.stages] == sizes


@given(st.integers(1, 100), st.integers(1, 600))
def test_every_share_takes_as_many_as_it_says_to_the_device(percent: int, size: int) -> None:
    stages = (RolloutStage(name="share", share=percent / 100), *(() if percent == 100 else (ALL,)))
    plan = planned(replace(POLICY, stages=stages), C1, fleet(size))
    assert len(plan.stages[0].members) == -(-percent * size // 100)


@given(st.integers(0, 600), st.integers(0, 10))
def test_every_device_is_in_one_stage_and_places_say_which(size: int, canaries: int) -> None:
    devices = fleet(size, canaries)
    plan = planned(POLICY, C1, devices)
    assert sorted(device for stage in plan.stages for device in stage.members) == sorted(devices)
    assert all(device in plan.stages[at].members for device, at in plan.places().items())


def test_who_is_named_later_waits_for_that_stage_whatever_its_bucket() -> None:
    last = RolloutStage(name="last", devices=(DeviceId("pi-3"),))
    plan = planned(replace(POLICY, stages=(ALL, last)), C1, fleet(9))
    assert [len(stage.members) for stage in plan.stages] == [8, 1]
    assert plan.stages[1].members == ("pi-3",)


@given(st.integers(1, 200), st.integers(0, 200))
def test_a_gate_closes_to_nobody_when_another_fleet_is_counted_in_the_middle(size: int, other: int) -> None:
    before, after = planned(POLICY, C1, fleet(size)), planned(POLICY, C1, fleet(other))
    course = Course(stage=1, threshold=before.stages[1].threshold, opened_s=-1e9)
    opened = advance(after, course, {}, 0.0).course
    assert (opened.stage, opened.threshold >= course.threshold) == (2, True)
    assert all(bucket(C1, device) < opened.threshold for stage in before.stages[:2] for device in stage.members)


def test_each_commit_has_another_order() -> None:
    assert planned(POLICY, C1, fleet(500)).stages[1] != planned(POLICY, C2, fleet(500)).stages[1]


# --- when it halts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "counts", "halts"),
    [
        # 5 % of 100: five may fail, the sixth halts.
        (100, [(REFUSED, 5, 1.0), (CONFIRMED, 95, 1.0)], False),
        (100, [(REFUSED, 6, 1.0), (CONFIRMED, 94, 1.0)], True),
        # Below 20 any failure halts.
        (19, [(REFUSED, 1, 1.0), (CONFIRMED, 18, 1.0)], True),
        (20, [(REFUSED, 1, 1.0), (CONFIRMED, 19, 1.0)], False),
        (1, [(REFUSED, 1, 1.0)], True),
        # Silence is a failure, past the deadline.
        (20, [(REFUSED, 1, 1.0), (STARTED, 1, 401.0), (CONFIRMED, 18, 1.0)], False),
        (20, [(REFUSED, 1, 1.0), (STARTED, 1, 400.0), (CONFIRMED, 18, 1.0)], True),
        # Who never started is in no denominator, nor is one for whom nothing changes.
        (100, [(REFUSED, 1, 1.0), (CONFIRMED, 18, 1.0), (WAITING, 80, 0.0)], True),
        (100, [(REFUSED, 1, 1.0), (CONFIRMED, 18, 1.0)], True),
        (100, [(REFUSED, 1, 1.0), (CONFIRMED, 18, 1.0), (UNCHANGED, 81, 0.0)], True),
        # Who is about to start is.
        (100, [(REFUSED, 1, 1.0), (DUE, 99, 0.0)], False),
        (100, [(REFUSED, 6, 1.0), (DUE, 94, 0.0)], True),
    ],
)
def test_a_stage_halts_past_its_limit(
    members: int, counts: list[tuple[DeviceState, int, float]], halts: object
) -> None:
    plan = only(members)
    verdict = advance(plan, replace(OPEN, opened_s=500.0), saw(plan, *counts), 1000.0)
    assert (verdict.course.state == "halted") == halts
    if halts:
        assert verdict.course.reason == rollout.FAILURES
        assert 'in stage "all"' in verdict.why


def test_who_is_due_for_too_long_only_waits() -> None:
    plan = only(100)
    seen = saw(plan, (REFUSED, 1, 1.0), (DUE, 99, 0.0))
    assert advance(plan, OPEN, seen, 599.0).course.state == "open"
    assert advance(plan, OPEN, seen, 600.0).course.state == "halted"


def test_a_stage_of_long_ago_halts_as_well() -> None:
    plan = planned(POLICY, C1, fleet(500, 3))
    course = Course(stage=2, opened_s=0.0, threshold=EVERYBODY)
    seen = {device: Seen(CONFIRMED, 0.0) for stage in plan.stages for device in stage.members}
    late = plan.stages[0].members[0]
    verdict = advance(plan, course, seen | {late: Seen(REFUSED, 10.0)}, 20.0)
    assert verdict.course.state == "halted"
    assert verdict.why == 'in stage "canary" 1 of 3 failed, and 0 may'


def test_too_few_confirmed_and_nobody_left_to_wait_for_halts() -> None:
    plan = only(4, replace(POLICY, failure_share=1.0, minimum_healthy=3))
    seen = saw(plan, (CONFIRMED, 2, 1.0), (REFUSED, 2, 1.0))
    verdict = advance(plan, OPEN, seen, 10.0)
    assert (verdict.course.state, verdict.course.reason) == ("halted", rollout.TOO_FEW)


def test_a_paused_rollout_halts_and_a_halted_one_stays_so() -> None:
    plan = only(5)
    seen = saw(plan, (REFUSED, 1, 1.0))
    halted = advance(plan, rollout.paused(OPEN, "wait"), seen, 10.0).course
    assert halted.state == "halted"
    assert advance(plan, halted, saw(plan, (CONFIRMED, 5, 1.0)), 9e9).course == halted


# --- when a stage passes --------------------------------------------------------------------------------------


def test_a_stage_passes_when_all_are_confirmed_and_soaked_since_the_last() -> None:
    plan = only(3)
    seen = saw(plan, (CONFIRMED, 2, 10.0), (CONFIRMED, 1, 50.0))
    soaking = advance(plan, OPEN, seen, 149.0)
    assert (soaking.course, soaking.until_s) == (OPEN, 150.0)
    assert advance(plan, OPEN, seen, 150.0).course.state == "done"


def test_it_waits_for_who_is_on_trial_and_says_until_when() -> None:
    plan = only(20)
    seen = saw(plan, (CONFIRMED, 19, 10.0), (STARTED, 1, 20.0))
    verdict = advance(plan, OPEN, seen, 300.0)
    assert (verdict.course, verdict.until_s) == (OPEN, 620.0)
    assert advance(plan, OPEN, seen, 620.0).course.state == "done"  # one silent of twenty may be


def test_it_passes_without_those_that_wait_after_a_while() -> None:
    plan = only(20)
    seen = saw(plan, (CONFIRMED, 5, 10.0))
    waits = advance(plan, OPEN, seen, 4999.0)
    assert (waits.course, waits.until_s) == (OPEN, 5000.0)
    assert advance(plan, OPEN, seen, 5000.0).course.state == "done"


def test_a_stage_whose_members_are_all_offline_blocks_nobody_for_ever() -> None:
    plan = only(20)
    assert advance(plan, OPEN, {}, 4999.0).course.state == "open"
    assert advance(plan, OPEN, {}, 5000.0).course.state == "done"


def test_who_comes_after_the_others_were_given_up_does_not_begin_the_soak_anew() -> None:
    plan = only(20)
    seen = saw(plan, (CONFIRMED, 5, 4950.0), (CONFIRMED, 1, 5040.0), (STARTED, 1, 5030.0))
    assert advance(plan, OPEN, seen, 5049.0).course.state == "open"
    assert advance(plan, OPEN, seen, 5050.0).course.state == "done"


def test_unless_it_is_needed() -> None:
    plan = only(20)
    trying = saw(plan, (STARTED, 1, 5030.0))
    assert advance(plan, OPEN, trying, 5040.0).course.state == "open"
    done = saw(plan, (CONFIRMED, 1, 5060.0))
    assert advance(plan, OPEN, done, 5159.0).course.state == "open"
    assert advance(plan, OPEN, done, 5160.0).course.state == "done"


def test_a_stage_without_members_and_one_for_whom_nothing_changes_pass_at_once() -> None:
    plan = planned(POLICY, C1, fleet(5))
    first = advance(plan, Course(), {}, 7.0).course
    assert (first.stage, first.threshold) == (0, 0)
    second = advance(plan, first, {}, 7.0).course
    assert (second.stage, second.threshold) == (1, plan.stages[1].threshold)
    seen = {device: Seen(UNCHANGED, 7.0) for device in plan.stages[1].members}
    assert advance(plan, second, seen, 7.0).course.stage == 2


def test_a_planned_pause_waits_for_a_person_and_then_the_next_stage_opens() -> None:
    stages = (replace(CANARY, pause=True), ALL)
    plan = planned(replace(POLICY, stages=stages), C1, fleet(5, 2))
    seen = {plan.stages[0].members[0]: Seen(CONFIRMED, 0.0)}
    paused = advance(plan, Course(stage=0), seen, 5000.0).course
    assert (paused.state, paused.reason) == ("paused", rollout.PLANNED)
    assert advance(plan, paused, seen, 9e9).course == paused
    resumed = rollout.resumed(plan, paused, seen, 6000.0, "it looks well")
    assert advance(plan, resumed, seen, 6000.0).course.stage == 1


# --- a person's word ------------------------------------------------------------------------------------------


def test_who_resumes_forgives_what_has_failed_and_nothing_after_it() -> None:
    plan = only(10)
    seen = saw(plan, (REFUSED, 1, 1.0), (STARTED, 1, 1.0), (CONFIRMED, 3, 1.0))
    halted = advance(plan, OPEN, seen, 700.0).course
    resumed = rollout.resumed(plan, halted, seen, 700.0, "known")
    assert advance(plan, resumed, seen, 700.0).course == resumed
    counts = counted(plan, resumed, seen, 700.0)[0]
    assert (counts.forgiven, counts.failed, counts.confirmed, counts.waiting) == (2, 0, 3, 5)
    fresh = dict.fromkeys(plan.stages[0].members[:5], Seen(REFUSED, 800.0))
    assert advance(plan, resumed, seen | fresh, 800.0).course.state == "halted"


def test_words_change_what_they_may_and_nothing_else() -> None:
    plan = only(3)
    for state in ("aborted", "done", "superseded"):
        over = replace(OPEN, state=state)
        assert rollout.paused(over, "") == over
        assert rollout.resumed(plan, over, {}, 0.0, "") == over
        assert rollout.aborted(over, "", revert=True) == over
        assert rollout.superseded(over, C2) == over
        assert advance(plan, over, saw(plan, (REFUSED, 3, 0.0)), 9e9).course == over
    halted = replace(OPEN, state="halted", reason=rollout.FAILURES, message="smoke")
    aborted = rollout.aborted(halted, "it leaks", revert=True)
    assert (aborted.state, aborted.revert, aborted.message) == ("aborted", True, "it leaks")
    assert rollout.resumed(plan, OPEN, {}, 0.0, "") == OPEN


def test_the_gate_says_where_the_course_stands_and_none_is_said_of_one_that_is_superseded() -> None:
    at = datetime(2027, 3, 1, tzinfo=UTC)
    halted = replace(OPEN, stage=1, state="halted", reason=rollout.FAILURES, message="smoke")

    def said(course: Course) -> object:
        name = FleetId("harbour")
        return rollout.gate_of(course, fleet=name, commit=C2, previous=C1, number=9, issued_at=at)

    gate = said(halted)
    assert isinstance(gate, rollout.Gate)
    assert (gate.commit, gate.previous, gate.number, gate.stage, gate.threshold) == (C2, C1, 9, 1, EVERYBODY)
    assert (gate.state, gate.reason) == ("halted", "smoke")
    assert said(rollout.superseded(halted, C2)) is None
