from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.retry import backed_off, full_jitter, spread

CHANCE = st.floats(min_value=0, max_value=1, exclude_max=True)
ATTEMPT = st.integers(min_value=0, max_value=100_000)


@given(ATTEMPT, CHANCE)
def test_full_jitter_stays_between_nothing_and_the_cap(attempt: int, chance: float) -> None:
    assert 0 <= full_jitter(attempt, chance, 1.0, 120.0) <= 120.0


@given(ATTEMPT, CHANCE)
def test_full_jitter_is_the_drawn_share_of_its_bound(attempt: int, chance: float) -> None:
    bound = full_jitter(attempt, 1.0, 1.0, 120.0)
    assert full_jitter(attempt, chance, 1.0, 120.0) == chance * bound


def test_the_bound_doubles_up_to_the_cap() -> None:
    assert [full_jitter(attempt, 1.0, 1.0, 120.0) for attempt in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]


def test_a_negative_attempt_is_the_first() -> None:
    assert full_jitter(-1, 1.0, 1.0, 120.0) == 1.0


@given(CHANCE)
def test_spread_is_a_tenth_around_the_interval(chance: float) -> None:
    assert 54.0 <= spread(60.0, chance) <= 66.0


def test_spread_reaches_both_ends() -> None:
    assert spread(60.0, 0.0) == 54.0
    assert spread(60.0, 0.5) == 60.0


@given(ATTEMPT, CHANCE)
def test_backed_off_never_passes_the_cap_by_more_than_its_jitter(attempt: int, chance: float) -> None:
    assert 0.75 * 30.0 <= backed_off(attempt, chance, 30.0, 600.0) <= 1.25 * 600.0


def test_backed_off_grows() -> None:
    waits = [backed_off(attempt, 0.5, 30.0, 600.0) for attempt in range(7)]
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert all(before <= after for before, after in pairwise(waits))
