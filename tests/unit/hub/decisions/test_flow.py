"""When to stop reading."""

from __future__ import annotations

import pytest

from metrica_hub.decisions.flow import Load, Marks, should_pause

MARKS = Marks(messages=100, payload_bytes=1000)


@pytest.mark.parametrize(
    ("messages", "payload_bytes", "paused", "expected"),
    [
        (99, 999, False, False),
        (100, 0, False, True),
        (0, 1000, False, True),
        (99, 999, True, True),
        (26, 0, True, True),
        (0, 251, True, True),
        (25, 250, True, False),
        (0, 0, True, False),
    ],
)
def test_it_pauses_at_either_mark_and_goes_on_below_a_quarter_of_both(
    messages: int,
    payload_bytes: int,
    paused: bool,  # noqa: FBT001 - a table
    expected: bool,  # noqa: FBT001
) -> None:
    assert should_pause(Load(messages, payload_bytes), MARKS, paused=paused) is expected
