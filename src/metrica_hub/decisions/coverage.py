"""Which numbers of a stream are stored: all up to ``stored``, and spans beyond gaps.

A record says with ``prev`` which number it follows (``metrica_fleet.records``), so storing it covers everything from
behind ``prev`` up to itself: what is in between was thinned on the device on purpose. What is covered is never
written again; so nothing is stored twice, whatever order a batch has and however often it comes, and the tables need
no unique index for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_SPANS: Final = 256
"""Beyond the watermark of one stream. A record that would begin one more is left: its device sends it again."""


class Span(NamedTuple):
    """The numbers ``after + 1`` up to ``upto``."""

    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is stored of one stream."""

    stored: int = 0
    """The watermark: everything up to here."""
    ahead: tuple[Span, ...] = ()
    """Beyond the watermark, in order; neither touching each other nor it."""


class Tracker:
    """A coverage that grows."""

    def __init__(self, before: Coverage) -> None:
        self._stored = before.stored
        self._ahead = list(before.ahead)

    @property
    def coverage(self) -> Coverage:
        """What is covered now."""
        return Coverage(self._stored, tuple(self._ahead))

    def covers(self, seq: int) -> bool:
        """Whether ``seq`` is stored, or was left out on purpose."""
        if seq <= self._stored or not self._ahead:
            return seq <= self._stored
        place = bisect_right(self._ahead, seq - 1, key=_after)
        return place > 0 and seq <= self._ahead[place - 1].upto

    def has_room(self, seq: int, prev: int) -> bool:
        """Whether the record ``seq`` that follows ``prev`` may be stored."""
        return len(self._ahead) < MOST_SPANS or self._joins(seq, prev)

    def cover(self, seq: int, prev: int) -> None:
        """The record ``seq`` that follows ``prev`` is stored."""
        after, upto = min(prev, seq - 1), seq
        if after == self._stored and not self._ahead:
            self._stored = upto  # as nearly always
            return
        if after <= self._stored:
            self._stored = max(self._stored, upto)
        else:
            first = bisect_left(self._ahead, after, key=_upto)
            last = bisect_right(self._ahead, upto, key=_after)
            touched = self._ahead[first:last]
            span = Span(min([after, *map(_after, touched)]), max([upto, *map(_upto, touched)]))
            self._ahead[first:last] = [span]
        while self._ahead and self._ahead[0].after <= self._stored:
            self._stored = max(self._stored, self._ahead.pop(0).upto)

    def _joins(self, seq: int, prev: int) -> bool:
        after = min(prev, seq - 1)
        first = bisect_left(self._ahead, after, key=_upto)
        return after <= self._stored or first < bisect_right(self._ahead, seq, key=_after)


def in_words(ahead: Iterable[Span]) -> str:
    """Return ``ahead`` as Postgres writes an ``int8multirange``."""
    return "{" + ",".join(f"[{span.after + 1},{span.upto + 1})" for span in ahead) + "}"


def from_words(text: str) -> tuple[Span, ...]:
    """Return what ``in_words`` wrote, as Postgres gives it back."""
    inner = text.strip("{}")
    if not inner:
        return ()
    ranges = (part.strip("[)").split(",") for part in inner.split("),"))
    return tuple(Span(int(first) - 1, int(behind) - 1) for first, behind in ranges)


def _after(span: Span) -> int:
    return span.after


def _upto(span: Span) -> int:
    return span.upto
