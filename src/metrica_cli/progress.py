"""How far something is: one line that changes on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from typing import Final

from metrica_cli.table import cut, terminal_width_of

_BACK: Final = "\r\x1b[K"


class Progress:
    """The line, on standard error."""

    def __init__(self, *, only_alive: bool = False) -> None:
        """``only_alive``: nothing of it is of use to who reads it later."""
        self._alive = sys.stderr.isatty()
        self._mute = only_alive and not self._alive
        self._last = ""

    def show(self, text: str) -> None:
        """Show how far it is now."""
        if text == self._last or self._mute:
            return
        self._last = text
        if self._alive:
            sys.stderr.write(f"{_BACK}{cut(text, terminal_width_of(sys.stderr))}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the last line where it is."""
        if self._alive and self._last:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._last = ""

    def clear(self) -> None:
        """Take the line away."""
        if self._alive and self._last:
            sys.stderr.write(_BACK)
            sys.stderr.flush()
        self._last = ""
