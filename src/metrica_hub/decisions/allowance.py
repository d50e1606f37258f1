"""How many messages that can't be used are kept: enough to see what their sender does, too few to fill a disk.

Only those without a number of their own. One that has a number is kept whatever it costs, for its device forgets it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

WINDOW_S: Final = 60.0
OF_ONE: Final = 60
"""In a window, of one name."""
OF_ALL: Final = 600
"""In a window, whoever they are of: who sends them may invent as many names as it likes."""


class Allowance:
    """What may be kept in the present window."""

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._kept: Counter[str] = Counter()
        self._all = 0

    def takes(self, name: str, now_s: float) -> bool:
        """Return whether one more of ``name`` is kept; it is counted then."""
        if now_s - self._began_s >= WINDOW_S:
            self._began_s = now_s
            self._kept.clear()
            self._all = 0
        if self._all >= OF_ALL or self._kept[name] >= OF_ONE:
            return False
        self._kept[name] += 1
        self._all += 1
        return True
