"""Rows and columns for people: no borders, two spaces apart, cut to the terminal, never wrapped."""

from __future__ import annotations

import os
import sys
import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP: Final = "  "
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Return ``rows`` under ``heads``, the last column as wide as it likes up to ``width``; no heads, no head line."""
    lines = [[clean(cell) for cell in row] for row in ([heads, *rows] if heads else rows)]
    if not lines:
        return ""
    widths = [max(_width(line[at]) for line in lines) for at in range(len(lines[0]))]
    text = [_GAP.join(_padded(cell, widths[at]) for at, cell in enumerate(line)).rstrip() for line in lines]
    return "\n".join(cut(line, width) for line in text)


def terminal_width() -> int | None:
    """Return the width to cut to; ``None`` where the output is no terminal: a program reads it."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
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
    seconds = max(0, int((now - then).total_seconds()))
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


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in text)
