from __future__ import annotations

import pytest

from metrica_cli.look import Color, Look, look_for
from metrica_cli.table import Cell, table


@pytest.mark.parametrize(
    ("color", "environment", "coloured"),
    [
        ("auto", {}, False),  # a test is no terminal
        ("auto", {"FORCE_COLOR": "1"}, True),
        ("auto", {"FORCE_COLOR": "0"}, False),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ("always", {"NO_COLOR": "1"}, True),
        ("always", {"TERM": "dumb"}, True),
        ("never", {"FORCE_COLOR": "1"}, False),
    ],
)
def test_who_decides_about_colour(color: Color, environment: dict[str, str], coloured: bool) -> None:  # noqa: FBT001
    assert look_for(color, environment=environment).colour is coloured


def test_a_state_is_a_word_whatever_else_shows_it() -> None:
    assert Look().marked("refused") == Cell("refused")
    assert Look(shapes=True).marked("refused") == Cell("✖ refused")
    assert Look(colour=True, shapes=True).marked("refused") == Cell("✖ refused", "bad")
    assert Look(colour=True, shapes=True).marked("what") == Cell("what")


def test_colour_takes_no_room_and_is_closed_where_a_line_is_cut() -> None:
    rows = [(Cell("ab", "bad"), Cell("cdef", "good"), "g"), ("x", "", "y")]
    assert table((), rows) == "\x1b[31mab\x1b[0m  \x1b[32mcdef\x1b[0m  g\nx         y"
    assert table((), rows, width=6) == "\x1b[31mab\x1b[0m  \x1b[32mc…\x1b[0m\nx    …"
