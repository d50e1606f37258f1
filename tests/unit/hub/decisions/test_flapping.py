"""When a device comes and goes too often, and when no more."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.flapping import Unrest, came, resumed, still


def after(times: list[float]) -> Unrest:
    """Return the unrest of a device that came at ``times``."""
    unrest = Unrest()
    for now_s in times:
        unrest = came(unrest, now_s)
    return unrest


@pytest.mark.parametrize(
    ("about", "times", "flaps"),
    [
        ("it came once", [0], False),
        ("an update and two reboots", [0, 60, 120], False),
        ("four within a minute and a half", [0, 30, 60, 90], True),
        ("four in six minutes", [0, 120, 240, 360], False),
        ("every two minutes, for a quarter of an hour", list(range(0, 901, 120)), True),
        ("every five minutes, for a day", list(range(0, 86_400, 300)), False),
    ],
)
def test_when_a_device_flaps(about: str, times: list[float], flaps: bool) -> None:  # noqa: FBT001 - a table
    assert after(times).flaps is flaps, about


@pytest.mark.parametrize(
    ("about", "times", "quiet_s", "flaps"),
    [
        ("five minutes of calm are not enough", [0, 1, 2, 3], 300, True),
        ("ten are", [0, 1, 2, 3], 620, False),
        ("after the wildest hour fifteen are", list(range(3600)), 901, False),
        ("less are not", list(range(3600)), 890, True),
    ],
)
def test_when_it_flaps_no_more(about: str, times: list[float], quiet_s: float, flaps: bool) -> None:  # noqa: FBT001 - a table
    assert still(after(times), times[-1] + quiet_s).flaps is flaps, about


def test_the_next_hub_waits_as_long_for_calm() -> None:
    assert still(resumed(1000.0), 1500.0).flaps
    assert not still(resumed(1000.0), 1550.0).flaps


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=60))
def test_the_verdict_does_not_flap(pauses: list[float]) -> None:
    unrest, now_s = Unrest(), 0.0
    changed: list[float] = []
    for pause_s in pauses:
        now_s += pause_s
        before = unrest
        unrest = came(still(unrest, now_s), now_s)
        if unrest.flaps != before.flaps:
            changed.append(now_s)
    # From 1 to 3.5 it takes three connections, and from 3.5 to 1 nine minutes.
    assert len(changed) <= 2 * len(pauses) / 3
    assert all(end - begin > 500 for begin, end in list(pairwise(changed))[::2])


@given(st.lists(st.floats(1, 100), min_size=8, max_size=40))
def test_who_comes_again_at_least_every_100_s_flaps_in_the_end_and_stays_so(pauses: list[float]) -> None:
    unrest, now_s = Unrest(), 0.0
    was = False
    for pause_s in pauses:
        now_s += pause_s
        unrest = came(still(unrest, now_s), now_s)
        assert unrest.flaps or not was
        was = unrest.flaps
    assert was
