"""Which of the tests that take long a whole run has: an eighth of them, another eighth for another commit.

A test is long (``@pytest.mark.long``) when it takes a whole run more than 20 s and what it holds is held by quicker
ones, too, for the most part: one more way to die, one more thing that is slow.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS: Final = 8
WHOLE_RUN: Final = "METRICA_WHOLE_RUN"
"""Set by ``./scripts/test`` without arguments; ``--every``, or the name of a file, runs all of them."""


def of_this_commit(names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that are for now: the same in each process, and all within a few commits.

    Neighbours in the alphabet are for different commits, so that something of each file is there in every run.
    """
    if WHOLE_RUN not in os.environ:
        return list(names)
    return sorted(names)[_part() :: PARTS]


def share(of: int) -> int:
    """Return which of ``of`` shares this commit has, from 0 on: where a test is one sweep, too long for any run."""
    return _number() // PARTS % of  # of a test whose own turn it is, too, all shares come


def _part() -> int:
    return _number() % PARTS


@cache
def _number() -> int:
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout
    return int(head[:8], 16)
