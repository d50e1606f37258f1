"""Who is named as loud."""

from __future__ import annotations

from metrica_hub.decisions.loudness import LOUD_PER_S, MOST_LOUD, MOST_NAMES, OTHERS, WINDOW_S, Loudness


def test_who_floods_is_named_with_its_rate_once_the_window_is_over() -> None:
    loudness = Loudness(now_s=100.0)
    for second in range(10):
        loudness.heard(["pi-01"] * 1000 + ["pi-02", "pi-03"], 100.0 + second)
    assert loudness.loud(105.0) == ()
    assert loudness.loud(100.0 + WINDOW_S) == (("pi-01", 1000.0),)


def test_a_device_that_drains_a_backlog_is_not_loud() -> None:
    loudness = Loudness(now_s=0.0)
    loudness.heard(["pi-01"] * int(LOUD_PER_S * WINDOW_S - 1), 5.0)
    assert loudness.loud(WINDOW_S) == ()


def test_who_has_fallen_silent_is_loud_no_more() -> None:
    loudness = Loudness(now_s=0.0)
    loudness.heard(["pi-01"] * 100_000, 5.0)
    assert loudness.loud(WINDOW_S)
    assert loudness.loud(2 * WINDOW_S) == ()


def test_a_window_that_nobody_ended_in_time_is_counted_over_the_time_it_took() -> None:
    loudness = Loudness(now_s=0.0)
    loudness.heard(["pi-01"] * 2000, 5.0)
    assert loudness.loud(1000.0) == ()


def test_the_loudest_are_named_and_no_more_of_them_than_a_label_may_have() -> None:
    loudness = Loudness(now_s=0.0)
    for number in range(2 * MOST_LOUD):
        loudness.heard([f"pi-{number:02d}"] * (2000 + number), 5.0)
    named = [name for name, _ in loudness.loud(WINDOW_S)]
    assert named == [f"pi-{number:02d}" for number in range(2 * MOST_LOUD - 1, MOST_LOUD - 1, -1)]


def test_invented_names_do_not_grow_the_memory_and_are_loud_together() -> None:
    loudness = Loudness(now_s=0.0)
    loudness.heard((f"invented-{number}" for number in range(MOST_NAMES)), 1.0)
    loudness.heard((f"more-{number}" for number in range(5 * MOST_NAMES)), 2.0)
    loudness.heard(["invented-7"] * 3000, 3.0)
    assert loudness.loud(WINDOW_S) == ((OTHERS, MOST_NAMES / 2), ("invented-7", 300.1))
