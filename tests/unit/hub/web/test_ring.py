"""The newest of a growing list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.web.ring import Notice, Ring


def ring(size: int, *cursors: int) -> Ring[str]:
    made: Ring[str] = Ring(size, Notice())
    made.add((cursor, f"item {cursor}") for cursor in cursors)
    return made


def test_a_reader_gets_what_is_behind_its_cursor() -> None:
    assert ring(10, 2, 5, 9).after(4) == [(5, "item 5"), (9, "item 9")]
    assert ring(10, 2, 5, 9).after(9) == []
    assert ring(10).after(0) == []


def test_a_reader_who_is_slower_than_the_ring_turns_is_told_so() -> None:
    assert ring(2, 1, 2, 3, 4).after(1) is None
    assert ring(2, 1, 2, 3, 4).after(2) == [(3, "item 3"), (4, "item 4")]


def test_what_was_there_before_the_first_item_is_not_in_the_ring() -> None:
    made: Ring[str] = Ring(5, Notice())
    made.begin(100)
    assert made.newest == 100
    assert made.after(99) is None
    assert made.after(100) == []


@given(st.lists(st.integers(1, 1000), unique=True).map(sorted), st.integers(1, 20), st.integers(0, 1000))
def test_a_reader_gets_all_of_it_or_is_told(cursors: list[int], size: int, cursor: int) -> None:
    found = ring(size, *cursors).after(cursor)
    expected = [known for known in cursors if known > cursor]
    if found is None:
        assert len(cursors) > size
    else:
        assert [known for known, _ in found] == expected


def test_a_notice_wakes_whoever_looked_before_it_was_given() -> None:
    notice = Notice()
    early = notice.next()
    notice.give()
    assert early.is_set()
    assert not notice.next().is_set()
