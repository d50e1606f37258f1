"""What is shown again and again: a table in place on a terminal, at most four times a second; else nothing animates."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Final, Self, TypeVar

from metrica_cli.output import tell

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_PAUSE_S: Final = 0.25
_AGES_S: Final = 1.0
"""How often ages are told anew where nothing else changes."""
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_TOP: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST: Final = "\x1b[J"

T = TypeVar("T")


class Screen:
    """The whole terminal, given back as it was. What was there last stays in sight when it ends."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> Self:
        sys.stdout.write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.write(f"{_LEAVE}{self._last}\n")
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Show ``text``, as far as there are lines for it."""
        self._last = text
        lines = text.split("\n")[: max(1, _height() - 1)]
        sys.stdout.write(_TOP + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _REST)
        sys.stdout.flush()


async def redrawn(screen: Screen, render: Callable[[], str], changed: asyncio.Event) -> None:
    """Show what ``render`` gives, whenever something changed, without end."""
    while True:
        screen.show(render())
        changed.clear()
        await asyncio.sleep(_PAUSE_S)
        try:
            async with asyncio.timeout(_AGES_S):
                await changed.wait()
        except TimeoutError:
            continue


async def each(source: AsyncGenerator[T], take: Callable[[T], None]) -> None:
    """Hand every item of ``source`` to ``take``."""
    async for item in source:
        take(item)


class Breaks:
    """Tells once that a stream is away, not at each attempt, and nothing on the screen that is watched."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.why = ""
        self._quiet = quiet

    def broken(self, why: str) -> None:
        """Note it."""
        if not self.why and not self._quiet:
            tell(f"the stream broke off ({why}); it is asked to go on")
        self.why = why

    def mended(self) -> None:
        """It goes on."""
        self.why = ""


def _height() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except OSError:
        return 24
