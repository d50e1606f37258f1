"""``metrica`` on a terminal: a process of its own, what it shows, and what somebody types.

with Terminal("devices", "-w", "--hub", address) as terminal:
    terminal.shows("pi-02")
    terminal.types("\\x03")
"""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: Final = 80


class Terminal:
    """A terminal of 24 lines, and ``metrica`` on it."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.seen = ""
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "metrica_cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, "TERM": "xterm", "PYTHONUTF8": "1", **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def shows(self, text: str) -> None:
        """Wait until ``text`` was shown. Raises AssertionError where the process ends without."""
        while text not in self.seen:
            assert self._more(), self.seen

    def types(self, text: str) -> None:
        """Type it."""
        os.write(self._ours, text.encode())

    def interrupts(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(2)

    def ends(self) -> int:
        """Wait until the process has ended; return its exit code."""
        while self._more():
            pass
        return self._process.wait(20)

    def _more(self) -> bool:
        try:
            data = os.read(self._ours, 65_536)
        except OSError:
            return False  # the other side is closed
        self.seen += data.decode("utf-8", "replace")
        return bool(data)
