from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.decisions.worlds import OLD, init, release, sample, silence, trial, web

from metrica_agent.decisions.trial import (
    Ailments,
    Healthy,
    Interrupted,
    Undecided,
    Unhealthy,
    Watch,
    ailing,
    judge,
    noticed,
    watched,
)
from metrica_agent.decisions.world import CheckResult, Container, Release, Sample, Trial
from metrica_fleet.definition import HealthPolicy, TcpCheck

CHECK = TcpCheck(name="port", port=80, failures_allowed=2)


def fold(samples: Iterable[Sample], on: Trial | None = None, of: Release | None = None) -> Watch:
    watch = Watch()
    for one in samples:
        watch = watched(watch, on or trial(), of or release(), one)
    return watch


def verdict_at(now_s: float, samples: Iterable[Sample], on: Trial | None = None, of: Release | None = None) -> object:
    return judge(on or trial(), of or release(), fold(samples, on, of), now_s)


def reason_at(now_s: float, samples: Iterable[Sample], on: Trial | None = None, of: Release | None = None) -> str:
    verdict = verdict_at(now_s, samples, on, of)
    assert isinstance(verdict, Unhealthy), verdict
    return verdict.reason


def every_second(start: int, stop: int, **changes: Any) -> list[Sample]:
    return [sample(at, web(**changes), init()) for at in range(start, stop)]


def test_all_well_through_the_soak_is_healthy() -> None:
    assert verdict_at(11, every_second(1, 12)) == Healthy()


def test_nothing_is_healthy_before_a_sample_at_the_end_of_the_soak() -> None:
    assert isinstance(verdict_at(60, every_second(1, 11)), Undecided)


def test_a_finished_one_shot_is_done_and_a_failed_one_is_not() -> None:
    assert verdict_at(11, every_second(1, 12)) == Healthy()
    assert reason_at(2, [sample(1, web(), init(exit_code=3))]) == "exited"


def test_a_container_that_dies_in_its_soak_is_refused_at_once() -> None:
    dead = sample(5, web(state="restarting", health=None, exit_code=1, restarts=1), init())
    assert reason_at(5, [*every_second(1, 5), dead]) == "restarted-in-soak"


def test_a_crash_loop_that_is_up_whenever_one_looks_is_seen_by_its_restarts() -> None:
    looks = [sample(at, web(restarts=at // 3, started_at=f"t{at // 3}"), init()) for at in range(1, 8)]
    assert reason_at(8, looks) == "restarted-in-soak"


def test_a_container_replaced_under_the_soak_counts_as_missing_or_restarted() -> None:
    assert reason_at(5, [*every_second(1, 5), sample(5, web(started_at="t1"), init())]) == "restarted-in-soak"


@pytest.mark.parametrize(
    "changes",
    [
        {"started_at": "t1"},
        {"state": "exited", "exit_code": 0, "health": None},
        {"started_at": "t1", "health": "starting"},
    ],
)
def test_what_an_engine_that_was_restarted_took_along_is_not_held_against_the_release(changes: dict[str, Any]) -> None:
    after = sample(5, web(**changes), init(), outages=3)
    before = [sample(at, outages=2) for at in range(1, 5)]
    assert verdict_at(5, [*before, after]) == Interrupted()


def test_an_engine_that_hangs_up_and_takes_nothing_along_interrupts_nothing() -> None:
    looks = [sample(at, outages=at) for at in range(1, 12)]
    assert verdict_at(11, looks) == Healthy()


def test_an_engine_that_was_restarted_before_the_trial_excuses_nothing() -> None:
    looks = [sample(at, outages=2) for at in range(1, 5)]
    assert reason_at(5, [*looks, sample(5, web(started_at="t1"), init(), outages=2)]) == "restarted-in-soak"


def test_what_still_runs_the_old_inputs_is_not_the_release() -> None:
    looks = [sample(at, web(OLD), init()) for at in range(1, 31)]
    assert reason_at(31, looks) == "missing-at-deadline"


def test_starting_for_ever_ends_at_the_deadline() -> None:
    looks = every_second(1, 30, health="starting")
    assert isinstance(verdict_at(29, looks), Undecided)
    assert reason_at(30, looks) == "starting-at-deadline"


def test_unhealthy_by_its_own_check_is_refused_at_once() -> None:
    assert reason_at(2, every_second(1, 2, health="unhealthy")) == "unhealthy"


def test_a_long_start_then_health_is_healthy() -> None:
    looks = [*every_second(1, 25, health="starting"), *every_second(25, 36)]
    assert verdict_at(36, looks) == Healthy()


def test_what_was_broken_before_is_not_held_against_it() -> None:
    on = trial(excused=("web",))
    looks = [sample(at, web(state="restarting", health=None, restarts=at, exit_code=1), init()) for at in range(1, 12)]
    assert verdict_at(12, looks, on) == Healthy()


def test_ailing_names_services_and_checks() -> None:
    of = release(OLD, checks=(CHECK,))
    seen = sample(1, web(OLD, health="unhealthy"), init(OLD), checks=(CheckResult(name="port", passed=False),))
    assert set(ailing(of, seen)) == {"web", "check:port"}


def test_a_crash_loop_is_ailing_also_while_it_is_up() -> None:
    ailments = Ailments()
    for at in range(0, 120, 3):
        up = web(OLD) if at % 2 else web(OLD, state="restarting", health=None, exit_code=1)
        ailments = noticed(ailments, release(OLD), sample(at, up, init(OLD)))
    assert ailments.since_s == {"web": 0}
    for at in range(120, 160, 3):
        ailments = noticed(ailments, release(OLD), sample(at, web(OLD), init(OLD)))
    assert ailments == Ailments()


@pytest.mark.parametrize(("failures", "bad"), [(1, False), (2, False), (3, True)])
def test_a_check_may_fail_a_few_times_in_a_row_in_the_soak(failures: int, *, bad: bool) -> None:
    of = release(checks=(CHECK,))
    well, ill = CheckResult(name="port", passed=True), CheckResult(name="port", passed=False, message="refused")
    looks = [sample(1, checks=(well,))]
    looks += [sample(2 + at, checks=(ill,)) for at in range(failures)]
    looks += [sample(at, checks=(well,)) for at in range(10, 13)]
    verdict = verdict_at(13, looks, of=of)
    assert verdict == (Healthy() if not bad else verdict)
    assert isinstance(verdict, Unhealthy) is bad


def test_a_check_that_never_passes_ends_at_the_deadline() -> None:
    of = release(checks=(CHECK,))
    ill = CheckResult(name="port", passed=False, message="refused")
    assert reason_at(31, [sample(at, checks=(ill,)) for at in range(1, 31)], of=of) == "check-failed-at-deadline"


def test_an_engine_that_goes_away_asks_for_another_application() -> None:
    assert isinstance(verdict_at(500, [*every_second(1, 5), silence(5)]), Undecided)
    assert verdict_at(500, [*every_second(1, 5), silence(5), sample(499)]) == Interrupted()


def test_samples_from_before_the_application_count_nothing() -> None:
    on = trial(applied_s=100)
    assert fold(every_second(1, 50), on) == Watch()


def test_a_restart_that_the_role_allows_starts_the_soak_over() -> None:
    of = release(health=HealthPolicy(start_deadline_s=30, soak_s=10, restarts_allowed=1))
    looks = [
        *every_second(1, 5),
        sample(5, web(state="restarting", health=None, restarts=1, started_at="t1"), init()),
        *every_second(6, 17, restarts=1, started_at="t1"),
    ]
    assert isinstance(verdict_at(15, looks[:-2], of=of), Undecided)
    assert verdict_at(17, looks, of=of) == Healthy()


FATES = st.sampled_from(
    [
        web(),
        web(health="starting"),
        web(state="restarting", health=None, exit_code=1),
        web(state="created", health=None),
        web(restarts=1, started_at="t1"),
    ]
)


@given(st.integers(0, 20), st.floats(0, 200))
def test_an_undecided_verdict_never_waits_for_a_time_that_has_passed(seen: int, now_s: float) -> None:
    verdict = verdict_at(now_s, every_second(1, seen))
    assert not isinstance(verdict, Undecided) or verdict.until_s > now_s


@given(st.lists(FATES, min_size=120, max_size=120), st.integers(0, 3))
def test_every_trial_ends(fates: list[Container], allowed: int) -> None:
    of = release(health=HealthPolicy(start_deadline_s=30, soak_s=10, restarts_allowed=allowed))
    looks = [sample(at + 1, fate, init()) for at, fate in enumerate(fates)]
    assert not isinstance(verdict_at(120, looks, of=of), Undecided)
