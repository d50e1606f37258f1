from __future__ import annotations

from datetime import UTC, datetime

import pytest

from metrica_cli.table import age, clean, cut, table

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_columns_are_two_spaces_apart_and_the_last_is_not_padded() -> None:
    assert table(("A", "LONGER"), [("one", "x"), ("three", "")]) == "A      LONGER\none    x\nthree"


def test_a_wide_character_takes_two_places() -> None:
    assert table((), [("日本", "x"), ("abc", "y")]) == "日本  x\nabc   y"


def test_a_line_is_cut_to_the_terminal_and_never_wrapped() -> None:
    assert table((), [("abc", "defghi")], width=8) == "abc  de…"
    assert cut("abcdef", 6) == "abcdef"
    assert cut("日本語", 5) == "日本…"


def test_nothing_in_a_cell_can_steer_the_terminal() -> None:
    assert clean("a\nb\x1b[2Jc\x07") == "a b [2Jc "


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ("yesterday", "-"),
        ("2026-11-23T12:00:00", "-"),
        ("2026-11-23T11:59:18Z", "42s"),
        ("2026-11-23T12:00:30Z", "0s"),
        ("2026-11-23T11:57:00Z", "3m"),
        ("2026-11-23T08:10:00+01:00", "4h"),
        ("2026-11-21T08:00:00Z", "2d4h"),
        ("2026-11-20T12:30:00Z", "2d23h"),
        ("2026-11-20T12:00:00Z", "3d"),
    ],
)
def test_an_age_is_short(since: str | None, shown: str) -> None:
    assert age(since, NOW) == shown
