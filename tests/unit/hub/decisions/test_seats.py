"""How many requests may be under way at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.seats import Seats


def test_one_has_so_many_and_leaves_the_others_theirs() -> None:
    seats = Seats(of_one=2, of_all=10)
    assert [seats.take("a") for _ in range(4)] == [True, True, False, False]
    assert seats.take("b")
    seats.leave("a")
    assert seats.take("a")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60))
def test_nobody_has_more_than_his_share_nor_all_more_than_there_are(steps: list[tuple[str, bool]]) -> None:
    seats, held = Seats(of_one=3, of_all=7), dict.fromkeys("abcde", 0)
    for who, comes in steps:
        if comes:
            free = held[who] < 3 and sum(held.values()) < 7
            assert seats.take(who) == free
            held[who] += free
        elif held[who]:
            seats.leave(who)
            held[who] -= 1
        assert len(seats) == sum(held.values())
