"""Colours and shapes: what a terminal can show and its owner wants; never the only sign of anything."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from metrica_cli.table import Cell, speaks_unicode

if TYPE_CHECKING:
    from collections.abc import Mapping

Color = Literal["auto", "always", "never"]

_MARKS: Final = {
    "online": "●",
    "offline": "○",
    "flapping": "↯",
    "claimed": "⧉",
    "never-seen": "○",
    "reached": "●",
    "not-reached": "○",
    "trial": "◐",
    "confirmed": "✔",
    "obeyed": "✔",
    "done": "✔",
    "refused": "✖",
    "failed": "✖",
    "failing": "✖",
    "disabled": "■",
    "degraded": "▲",
    "paused": "▲",
    "halted": "■",
    "aborted": "■",
    "exited": "■",
    "dead": "■",
    "missing": "✖",
    "unhealthy": "✖",
    "restarting": "↺",
}
_STYLES: Final = {
    "online": "good",
    "confirmed": "good",
    "obeyed": "good",
    "done": "good",
    "trial": "busy",
    "rolling-back": "warn",
    "flapping": "warn",
    "degraded": "warn",
    "held": "warn",
    "paused": "warn",
    "claimed": "bad",
    "refused": "bad",
    "failed": "bad",
    "failing": "bad",
    "disabled": "bad",
    "safe": "bad",
    "halted": "bad",
    "aborted": "bad",
    "exited": "bad",
    "dead": "bad",
    "missing": "bad",
    "unhealthy": "bad",
    "restarting": "bad",
    "resting": "warn",
    "healthy": "good",
    "offline": "faint",
    "never-seen": "faint",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How output looks."""

    colour: bool = False
    shapes: bool = False

    def marked(self, word: str) -> Cell:
        """Return ``word`` with its shape before it, and in its colour."""
        mark = _MARKS.get(word) if self.shapes else None
        return Cell(f"{mark} {word}" if mark else word, _STYLES.get(word, "") if self.colour else "")


def look_for(color: Color, *, environment: Mapping[str, str] | None = None) -> Look:
    """Return the look that ``--color`` and the environment ask for."""
    return Look(colour=_coloured(color, os.environ if environment is None else environment), shapes=speaks_unicode())


def _coloured(color: Color, environment: Mapping[str, str]) -> bool:
    if color != "auto":
        return color == "always"
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return environment.get("TERM") != "dumb" and sys.stdout.isatty()
