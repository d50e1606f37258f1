"""A device's last 24 hours, an hour a bit: in which it was heard, and in which something went wrong there."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

HOURS: Final = 24
TROUBLES: Final = (
    "agent.stuck",
    "commit.refused",
    "drift.contested",
    "engine.unresponsive",
    "release.refused",
    "rollback.failed",
    "safe_mode.entered",
    "task.failed",
)
"""Kinds of events by which an hour is one with trouble."""


Hour = Literal["heard", "troubled", "silent"]


class Day(msgspec.Struct, frozen=True):
    """Bit 0 is the hour that was 23 hours ago, bit 23 the one that goes on."""

    heard: int = 0
    troubled: int = 0

    def hours(self) -> tuple[Hour, ...]:
        """Return what each hour was like, the oldest first; trouble outweighs."""
        return tuple(self._word(hour) for hour in range(HOURS))

    def runs(self) -> tuple[tuple[Hour, int, int], ...]:
        """Return the day in pieces, without gaps: heard, troubled or silent, the first hour, how many of them."""
        pieces: list[tuple[Hour, int, int]] = []
        for hour, word in enumerate(self.hours()):
            if pieces and pieces[-1][0] == word:
                pieces[-1] = (word, pieces[-1][1], pieces[-1][2] + 1)
            else:
                pieces.append((word, hour, 1))
        return tuple(pieces)

    def words(self) -> str:
        """Return it for who does not see the bar."""
        troubled = f"; trouble in {self.troubled.bit_count()}" if self.troubled else ""
        return f"heard in {self.heard.bit_count()} of {HOURS} hours{troubled}"

    def _word(self, hour: int) -> Hour:
        if self.troubled >> hour & 1:
            return "troubled"
        return "heard" if self.heard >> hour & 1 else "silent"
