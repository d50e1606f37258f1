"""Rows and columns for people: no borders, two spaces apart, cut to the terminal, never wrapped."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple, TextIO

_GAP: Final = "  "
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_CODES: Final = {"good": "32", "busy": "36", "warn": "33", "bad": "31", "faint": "2", "strong": "1"}


class Cell(NamedTuple):
    """A text and how it looks: ``good``, ``busy``, ``warn``, ``bad``, ``faint``, ``strong``, or as it is."""

    text: str
    style: str = ""


Row = Sequence[str | Cell]


def table(heads: Sequence[str], rows: Sequence[Row], *, width: int | None = None) -> str:
    """Return ``rows`` under ``heads``, the last column as wide as it likes up to ``width``; no heads, no head line."""
    lines = [[_cell(cell) for cell in row] for row in ([heads, *rows] if heads else rows)]
    if not lines:
        return ""
    widths = [max(_width(line[at].text) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(_line(line, widths, width) for line in lines)


def painted(cell: Cell) -> str:
    """Return the text of ``cell`` in its colour."""
    return f"\x1b[{_CODES[cell.style]}m{cell.text}\x1b[0m" if cell.style and cell.text else cell.text


def terminal_width() -> int | None:
    """Return the width to cut to; ``None`` where the output is no terminal: a program reads it."""
    return terminal_width_of(sys.stdout)


def terminal_width_of(stream: TextIO) -> int | None:
    """Return the width of the terminal that ``stream`` is; ``None`` where it is none."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None


def cut(text: str, width: int | None) -> str:
    """Return ``text``, at most ``width`` wide."""
    if width is None or _width(text) <= width:
        return text
    end = "…" if speaks_unicode() else "~"
    while text and _width(text) + 1 > width:
        text = text[:-1]
    return text + end


def age(since: str | None, now: datetime) -> str:
    """Return how long ago RFC 3339 ``since`` was: ``42s``, ``3m``, ``5h``, ``2d4h``; ``-`` for never."""
    then = instant(since)
    if then is None:
        return "-"
    return span((now - then).total_seconds())


def ahead(until: str | None, now: datetime) -> str:
    """Return how long it is until RFC 3339 ``until``; ``-`` for never, ``over`` for what is past."""
    then = instant(until)
    if then is None:
        return "-"
    left_s = (then - now).total_seconds()
    return f"in {span(left_s)}" if left_s > 0 else "over"


def span(length_s: float) -> str:
    """Return a length of time in one or two units."""
    seconds = max(0, int(length_s))
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h"
    days, hours = divmod(seconds // _HOUR, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"


def instant(text: str | None) -> datetime | None:
    """Return the time that ``text`` is, ``None`` where it is none."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def speaks_unicode() -> bool:
    """Tell whether the terminal can show more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def clean(text: str) -> str:
    """Return ``text`` on one line, and without what would steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _cell(cell: str | Cell) -> Cell:
    return Cell(clean(cell.text), cell.style) if isinstance(cell, Cell) else Cell(clean(cell))


def _line(line: Sequence[Cell], widths: Sequence[int], width: int | None) -> str:
    """Return one line; what is cut off is cut by what is seen, not by what colours it."""
    padded = [_padded(cell.text, widths[at]) for at, cell in enumerate(line)]
    whole = _GAP.join(padded).rstrip()
    seen = cut(whole, width)
    shown: list[str] = []
    place = 0
    for cell, text in zip(line, padded, strict=True):
        shown += [
            painted(Cell(seen[place : place + len(cell.text)], cell.style)),
            seen[place + len(cell.text) :][: _gap(cell, text)],
        ]
        place += len(text) + len(_GAP)
    return "".join(shown)


def _gap(cell: Cell, padded: str) -> int:
    return len(padded) - len(cell.text) + len(_GAP)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in text)
