from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.decisions.pace import Pace, take


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    pace = Pace(per_s=200.0, burst=20, tokens=20.0)
    waits: list[float] = []
    for _ in range(22):
        pace, wait_s = take(pace, 0.0)
        waits.append(wait_s)
    assert waits[:20] == [0.0] * 20
    assert waits[20:] == [0.005, 0.01]


def test_a_quiet_time_fills_the_burst_and_no_more() -> None:
    pace, _ = take(Pace(per_s=200.0, burst=20, tokens=0.0), 3600.0, count=20)
    assert pace.tokens == 0.0


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    pace, wait_s = take(Pace(per_s=1.0, burst=1, tokens=0.0, at_s=100.0), 50.0)
    assert (pace.tokens, wait_s) == (-1.0, 1.0)


@given(st.lists(st.floats(min_value=0, max_value=0.2), max_size=300))
def test_never_faster_than_burst_and_rate(pauses: list[float]) -> None:
    pace, now_s = Pace(per_s=200.0, burst=20, tokens=20.0), 0.0
    for sent, pause in enumerate(pauses, start=1):
        now_s += pause
        pace, wait_s = take(pace, now_s)
        now_s += wait_s
        assert sent <= 20 + now_s * 200 + 1e-6
