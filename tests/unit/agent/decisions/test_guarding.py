"""When a loop is late, when the event loop is blocked, and what is no fault of theirs."""

from __future__ import annotations

from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.adapters.compose import Engine
from metrica_agent.adapters.git.orders import Bounds
from metrica_agent.decisions import guarding
from metrica_agent.decisions.guarding import LOOK_S, SLACK_S, Promise, Stillness, Watching, late, looked, stillness

PROMISED_S = 40.0


def promise(number: int = 1, within_s: float | None = PROMISED_S) -> dict[str, Promise]:
    return {"sync": Promise(number=number, within_s=within_s, doing="asks a remote")}


def watched(gaps: list[float], within_s: float | None = PROMISED_S) -> Watching:
    """Look after each of these gaps at one promise that is never renewed."""
    now_s = 1000.0
    watching = looked(Watching(looked_s=now_s), promise(within_s=within_s), now_s)
    for gap_s in gaps:
        now_s += gap_s
        watching = looked(watching, promise(within_s=within_s), now_s)
    return watching


def test_a_broken_promise_is_told_once_its_time_and_the_slack_are_over() -> None:
    looks = int((PROMISED_S + SLACK_S) / LOOK_S)
    assert late(watched([LOOK_S] * looks)) == ()
    (found,) = late(watched([LOOK_S] * (looks + 1)))
    assert found.words == "task sync, which asks a remote, promised a sign within 40 s, 105 s ago"


def test_a_loop_that_says_something_else_each_time_is_never_late() -> None:
    watching, now_s = Watching(looked_s=0.0), 0.0
    for number in range(1000):
        now_s += PROMISED_S + SLACK_S
        watching = looked(watching, promise(number), now_s)
        assert late(watching) == ()


def test_a_loop_that_waits_for_somebody_else_is_never_late() -> None:
    assert late(watched([LOOK_S] * 10_000, within_s=None)) == ()


@given(st.lists(st.floats(min_value=60.0, max_value=86_400.0 * 400), max_size=5))
def test_no_stop_and_no_sleep_of_the_machine_makes_anybody_late(gaps: list[float]) -> None:
    """SIGSTOP for an hour, a lid closed for a year: of each gap two looks count."""
    assert late(watched([*gaps, LOOK_S])) == ()


@given(st.lists(st.floats(min_value=0.0, max_value=1000.0), max_size=400))
def test_a_watcher_never_counts_more_than_went_by(gaps: list[float]) -> None:
    assert watched(gaps).lived_s <= sum(gaps) + 1e-6


def blocked_after(looks: int, *, hindered_s: float = 0.0, elapsed_s: float = LOOK_S) -> float:
    known = Stillness(beats=7)
    for _ in range(looks):
        known = stillness(known, 7, elapsed_s=elapsed_s, hindered_s=hindered_s, look_s=LOOK_S)
    return known.still_s


@pytest.mark.parametrize(
    ("looks", "elapsed_s", "hindered_s", "still_s"),
    [
        (7, LOOK_S, 0.0, 35.0),
        (1, 7200.0, 0.0, 2 * LOOK_S),
        (1000, LOOK_S, LOOK_S, 0.0),
        (1000, 60.0, 59.0, 0.0),
        (7, LOOK_S, 2.0, 21.0),
        (7, LOOK_S, -3.0, 35.0),
    ],
    ids=["blocked", "stopped and continued", "starved or paging", "starved with its watcher", "half", "odd kernel"],
)
def test_what_counts_as_stillness_of_the_loop(looks: int, elapsed_s: float, hindered_s: float, still_s: float) -> None:
    assert blocked_after(looks, elapsed_s=elapsed_s, hindered_s=hindered_s) == still_s


def test_a_loop_that_came_round_is_not_still() -> None:
    before = Stillness(beats=7, still_s=29.0)
    assert stillness(before, 8, elapsed_s=LOOK_S, hindered_s=0.0, look_s=LOOK_S) == Stillness(beats=8)


def test_the_guard_waits_longer_than_what_it_waits_for() -> None:
    """The adapters end what they began by their own deadlines; the guard must know them."""
    bounds = Bounds()
    assert bounds.poll_s <= guarding.GIT_POLL_S
    assert bounds.fetch_s <= guarding.GIT_CALL_S
    assert signature(Engine).parameters["call_deadline_s"].default <= guarding.ENGINE_CALL_S
