"""Bytes of a log to lines, and lines to parts of an answer: whatever is written, each is bounded."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.decisions.value import Value
from metrica_fleet.commands import PART_BYTES
from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LINE_BYTES: Final = 8 * 1024
"""Of a line; what is beyond is left out, and that is told at its end."""
_CUT: Final = " [cut]"


class LogsAsked(Value, frozen=True, kw_only=True):
    """Which lines of a log."""

    tail: int = 100
    since_s: float | None = None
    follow: bool = False
    timestamps: bool = False


def only_service(names: Sequence[str]) -> str:
    """Return of which service a log is when nobody says.

    Raises:
        Unusable: ``unknown-service``: there are several, which the message names, or none.
    """
    if len(names) != 1:
        message = f"say of which service; the release has {', '.join(sorted(names)) or 'none'}"
        raise Unusable(message, reason="unknown-service")
    return names[0]


class Cutter:
    """Takes bytes as they come, and gives lines."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._too_long = False

    def fed(self, data: bytes) -> tuple[str, ...]:
        """Return the lines that end in ``data``."""
        *ended, begun = data.split(b"\n")
        found: list[str] = []
        for one in ended:
            self._keep(one)
            found += self.rest(ended=True)
        self._keep(begun)
        return tuple(found)

    def rest(self, *, ended: bool = False) -> tuple[str, ...]:
        """Return the line that was begun; none when there is none."""
        if not (self._begun or ended):
            return ()
        text = self._begun.decode("utf-8", "replace").rstrip("\r").replace("\0", "\N{REPLACEMENT CHARACTER}")
        text += _CUT if self._too_long else ""
        self._begun.clear()
        self._too_long = False
        return (text,)

    def _keep(self, data: bytes) -> None:
        room = LINE_BYTES - len(self._begun)
        self._begun += data[:room]
        self._too_long |= len(data) > room


def cost(line: str) -> int:
    """Return what a line takes in an answer."""
    return len(msgspec.json.encode(line)) + 1


def in_parts(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield ``lines`` in parts that the bus carries."""
    part: list[str] = []
    taken = 0
    for line in lines:
        taken += cost(line)
        if part and taken > PART_BYTES:
            yield tuple(part)
            part, taken = [], cost(line)
        part.append(line)
    if part:
        yield tuple(part)


class Newest:
    """The last lines of many, up to a bound in bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._taken = 0
        self.lines: deque[str] = deque()
        self.dropped = 0
        """How many lines before them are left out."""

    def add(self, lines: Iterable[str]) -> None:
        """Take more lines; the oldest go."""
        for line in lines:
            self.lines.append(line)
            self._taken += cost(line)
            while self._taken > self._most:
                self._taken -= cost(self.lines.popleft())
                self.dropped += 1
