from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.identity import SLUG_PATTERN
from metrica_fleet.records import EVENT_KINDS, Event, advanced


def event(seq: int, prev: int) -> Event:
    return Event(
        stream="0" * 32,  # type: ignore[arg-type]
        seq=seq,
        prev=prev,
        at=None,
        boot_id="b",
        uptime_s=1.0,
        kind="agent.started",
    )


@pytest.mark.parametrize(
    ("stored", "seq", "prev", "watermark"),
    [
        (0, 1, 0, 1),
        (4, 5, 4, 5),
        (4, 9, 4, 9),
        (4, 9, 2, 9),
        (4, 6, 5, 4),
        (4, 4, 3, 4),
        (4, 2, 1, 4),
    ],
)
def test_a_watermark_moves_only_over_records_without_a_gap(stored: int, seq: int, prev: int, watermark: int) -> None:
    assert advanced(stored, event(seq, prev)) == watermark


@given(st.lists(st.integers(1, 30), unique=True, min_size=1).map(sorted), st.data())
def test_whatever_is_lost_twice_or_late_the_watermark_covers_only_what_was_stored(
    sequence: list[int], data: st.DataObject
) -> None:
    records = [event(seq, prev) for prev, seq in zip([0, *sequence], sequence, strict=False)]
    arriving = data.draw(st.lists(st.sampled_from(records), max_size=20))
    stored: set[int] = set()
    watermark = 0
    for record in arriving:
        stored.add(record.seq)
        watermark = advanced(watermark, record)
        assert all(seq in stored for seq in sequence if seq <= watermark)
    for record in records:
        watermark = advanced(watermark, record)
    assert watermark == sequence[-1]


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_a_kind_of_event_is_a_dotted_slug_and_explained(kind: str) -> None:
    assert re.search(SLUG_PATTERN, kind)
    assert "." in kind
    assert EVENT_KINDS[kind].endswith(".")
