"""What is stored of a stream: held against a plain set of numbers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import event

from metrica_fleet.records import advanced
from metrica_hub.decisions.coverage import MOST_SPANS, Coverage, Span, Tracker, from_words, in_words

NUMBERS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=60)


def grown(numbers: list[tuple[int, int]], before: Coverage | None = None) -> Coverage:
    tracker = Tracker(before or Coverage())
    for seq, prev in numbers:
        tracker.cover(seq, prev)
    return tracker.coverage


@given(NUMBERS)
def test_a_record_covers_all_from_behind_the_one_it_follows_up_to_itself(numbers: list[tuple[int, int]]) -> None:
    known = {one for seq, prev in numbers for one in range(min(prev, seq - 1) + 1, seq + 1)}
    coverage = grown(numbers)
    tracker = Tracker(coverage)
    assert {seq for seq in range(1, 50) if tracker.covers(seq)} == known
    assert coverage.stored == next(seq for seq in range(50) if seq + 1 not in known)
    edges = [coverage.stored, *(edge for span in coverage.ahead for edge in span)]
    assert edges == sorted(edges)
    assert len(set(edges)) == len(edges), "spans that touch are one"


@given(NUMBERS, st.integers())
def test_the_order_in_which_records_come_does_not_matter(numbers: list[tuple[int, int]], seed: int) -> None:
    shuffled = random.Random(seed).sample(numbers, len(numbers))
    assert grown(shuffled) == grown(numbers)
    middle = len(numbers) // 2
    assert grown(numbers[middle:], grown(numbers[:middle])) == grown(numbers)


@given(NUMBERS)
def test_record_by_record_the_watermark_moves_at_least_as_the_contract_says(numbers: list[tuple[int, int]]) -> None:
    tracker, watermark = Tracker(Coverage()), 0
    for seq, prev in numbers:
        tracker.cover(seq, prev)
        watermark = advanced(watermark, event(seq, prev=min(prev, seq - 1)))
        assert tracker.coverage.stored >= watermark
        watermark = tracker.coverage.stored


@given(NUMBERS)
def test_what_is_written_down_reads_the_same(numbers: list[tuple[int, int]]) -> None:
    ahead = grown(numbers).ahead
    assert from_words(in_words(ahead)) == ahead


@pytest.mark.parametrize(
    ("ahead", "words"),
    [((), "{}"), ((Span(2, 3),), "{[3,4)}"), ((Span(2, 3), Span(7, 9)), "{[3,4),[8,10)}")],
)
def test_as_postgres_writes_it(ahead: tuple[Span, ...], words: str) -> None:
    assert in_words(ahead) == words
    assert from_words(words) == ahead


def test_there_is_room_for_a_record_that_begins_no_gap_too_many() -> None:
    full = Tracker(Coverage(0, tuple(Span(3 * number, 3 * number + 1) for number in range(1, MOST_SPANS + 1))))
    last = 3 * MOST_SPANS + 1
    assert not full.has_room(last + 3, last + 2)
    assert full.has_room(last + 1, last)
    assert full.has_room(1, 0)
    assert full.has_room(3, 2), "it touches the first span"
    assert Tracker(Coverage(5)).has_room(9, 8)
