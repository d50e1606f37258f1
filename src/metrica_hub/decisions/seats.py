"""How many requests may be under way at once: of one who asks, and of all. A live view is one for as long as it lasts.

Each costs an open file and some memory. Whoever has a token could hold so many that no browser, no connection to
Postgres and no webhook had a file left.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

OF_ONE: Final = 1024
OF_ALL: Final = 4096
"""Half of the files that the hub's unit and container allow."""


class Seats:
    """Who has how many under way."""

    def __init__(self, *, of_one: int = OF_ONE, of_all: int = OF_ALL) -> None:
        self._of_one = of_one
        self._of_all = of_all
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many are under way."""
        return self._taken.total()

    def take(self, who: str) -> bool:
        """Whether ``who`` may have one more; it is taken then, until ``leave``."""
        if self._taken.get(who, 0) >= self._of_one or len(self) >= self._of_all:
            return False
        self._taken[who] += 1
        return True

    def leave(self, who: str) -> None:
        """Give one back."""
        self._taken[who] -= 1
        if not self._taken[who]:
            del self._taken[who]  # nobody is remembered who has none
