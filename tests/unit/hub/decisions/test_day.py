from __future__ import annotations

from metrica_fleet.records import EVENT_KINDS
from metrica_hub.decisions.day import TROUBLES, Day


def test_a_day_is_told_in_pieces_without_gaps_the_worst_word_first() -> None:
    day = Day(heard=0b1111_1111_1111_0000_0000_1111, troubled=0b0000_0000_0000_0000_0001_0010)
    assert day.runs() == (
        ("heard", 0, 1),
        ("troubled", 1, 1),
        ("heard", 2, 2),
        ("troubled", 4, 1),
        ("silent", 5, 7),
        ("heard", 12, 12),
    )
    assert [day.hours()[hour] for hour in (0, 1, 5, 23)] == ["heard", "troubled", "silent", "heard"]
    assert day.words() == "heard in 16 of 24 hours; trouble in 2"
    assert Day().runs() == (("silent", 0, 24),)
    assert Day().words() == "heard in 0 of 24 hours"


def test_every_trouble_is_a_kind_of_event() -> None:
    assert set(TROUBLES) <= set(EVENT_KINDS)
