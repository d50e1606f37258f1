"""The newest of a growing list, in memory, for readers who each have a cursor of their own.

In place of a queue for each reader: nobody can make it grow. A reader who is slower than the ring turns is told so,
and asks the database instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


class Notice:
    """Tells any number of readers that there is something new."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return what is set at the next change; get it *before* looking."""
        return self._next

    def give(self) -> None:
        """Wake everybody who waits."""
        self._next.set()
        self._next = asyncio.Event()


class Ring(Generic[T]):
    """Items with rising cursors."""

    def __init__(self, size: int, notice: Notice) -> None:
        self._items: deque[tuple[int, T]] = deque(maxlen=size)
        self._before = 0
        self._notice = notice

    @property
    def newest(self) -> int:
        """The cursor of the last item."""
        return self._items[-1][0] if self._items else self._before

    def begin(self, cursor: int) -> None:
        """Say that everything up to ``cursor`` was there before."""
        self._before = cursor

    def add(self, items: Iterable[tuple[int, T]]) -> None:
        """Append items and wake the readers."""
        for item in items:
            if len(self._items) == self._items.maxlen:
                self._before = self._items[0][0]
            self._items.append(item)
        self._notice.give()

    def after(self, cursor: int) -> list[tuple[int, T]] | None:
        """Return the items behind ``cursor``; ``None`` when some of them have left the ring."""
        if cursor < self._before:
            return None
        found: list[tuple[int, T]] = []
        for item in reversed(self._items):
            if item[0] <= cursor:
                break
            found.append(item)
        return found[::-1]
