"""What the demo prints: steps with their seconds, plainly where the terminal is plain."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

_WORDS = {"✔": "ok", "✖": "FAILED", "●": "*", "…": "...", "—": "-", "→": "->", "·": "-"}
_COLOURS = {"✔": "32", "✖": "31", "●": "36"}


@dataclass(slots=True)
class Console:
    """Where lines go, and how fine they may be."""

    out: TextIO
    environment: Mapping[str, str]
    _live: bool = field(init=False)
    _colour: bool = field(init=False)
    _plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self._live = self.out.isatty() and self.environment.get("TERM") != "dumb"
        self._colour = self._live and not self.environment.get("NO_COLOR")
        self._plain = "utf" not in (self.out.encoding or "").lower()

    @classmethod
    def of_this_process(cls) -> Console:
        """Return the console that stdout is."""
        return cls(sys.stdout, os.environ)

    @property
    def is_terminal(self) -> bool:
        """Whether a person is there to be asked."""
        return self.out.isatty() and sys.stdin.isatty()

    def say(self, line: str = "") -> None:
        """Print a line."""
        self._clear()
        self.out.write(self._suited(line) + "\n")
        self.out.flush()

    def done(self, what: str, seconds: float) -> None:
        """Print that something is done, and how long it took."""
        self.say(f"✔ {what} ({seconds:.1f} s)")

    def failed(self, what: str) -> None:
        """Print that something is not as it should be."""
        self.say(f"✖ {what}")

    def progress(self, line: str) -> None:
        """Show what is going on, on a terminal only; the next line takes its place."""
        if self._live:
            self._clear()
            self.out.write(self._suited(f"  … {line}"))
            self.out.flush()

    @contextmanager
    def step(self, what: str) -> Generator[None]:
        """Show ``what`` while it goes on, and its seconds when it is done."""
        began_s = time.monotonic()
        self.progress(what)
        yield
        self.done(what, time.monotonic() - began_s)

    def _clear(self) -> None:
        if self._live:
            self.out.write("\r\x1b[K")

    def _suited(self, line: str) -> str:
        if self._plain:
            for sign, word in _WORDS.items():
                line = line.replace(sign, word)
            return line.encode("ascii", "replace").decode("ascii")
        if self._colour:
            for sign, colour in _COLOURS.items():
                line = line.replace(sign, f"\x1b[{colour}m{sign}\x1b[0m")
        return line
