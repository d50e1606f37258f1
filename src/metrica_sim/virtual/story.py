"""What happened in a world, in its own time; and the first promise that did not hold."""

from __future__ import annotations

import hashlib
import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

KEPT: Final = 200_000
"""Lines; a story that is longer loses its beginning."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened."""

    at_s: float
    who: str
    what: str

    def __str__(self) -> str:
        hours, rest = divmod(self.at_s, 3600)
        minutes, seconds = divmod(rest, 60)
        return f"{int(hours):4d}:{int(minutes):02d}:{seconds:06.3f}  {self.who:9} {self.what}"


@dataclass(slots=True)
class Story:
    """Kept in memory; printed when a promise is broken."""

    now_s: Callable[[], float]
    lines: list[Line] = field(default_factory=list[Line])
    broken: Line | None = None
    on_broken: Callable[[], None] = field(default=lambda: None)
    _digest: str = ""

    def tell(self, who: str, what: str) -> None:
        """Write down that ``what`` happened to ``who``."""
        if self.broken is not None:
            return
        line = Line(self.now_s(), who, what)
        self._digest = hashlib.sha256(f"{self._digest}\n{line}".encode()).hexdigest()
        self.lines.append(line)
        if len(self.lines) > KEPT:
            del self.lines[: KEPT // 10]

    def breach(self, who: str, what: str) -> None:
        """Write down that a promise did not hold. Only the first counts: what follows may follow from it."""
        if self.broken is not None:
            return
        self.tell(who, f"BROKEN: {what}")
        self.broken = self.lines[-1]
        self.on_broken()

    def end(self) -> None:
        """Let go of the world, so that the story can be handed to another process."""
        self.now_s, self.on_broken = _no_time, _nobody

    def digest(self) -> str:
        """Return a digest of every line so far: two runs that give the same one took the same course."""
        return self._digest


def _no_time() -> float:
    return 0.0


def _nobody() -> None:
    """Nobody is told any more."""


STORY: ContextVar[Story | None] = ContextVar("story", default=None)
"""Of the world that runs."""


def quiet_logs() -> None:
    """Let the program's log lines go nowhere, but for those that tell of a promise of its own that it broke."""
    structlog.configure(
        processors=[_overheard],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=True,
    )


def _overheard(_logger: object, _method: str, event: MutableMapping[str, object]) -> str:
    story = STORY.get()
    if story is not None and event.get("event") == "promise_broken":
        story.breach("agent", f"{event.get('event')}: {event.get('reason', '')} {event.get('error', '')}")
    raise structlog.DropEvent
