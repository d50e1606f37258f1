"""Which planted faults a whole run looks for: a third of them, another third for another commit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS: Final = 3
WHOLE_RUN: Final = "METRICA_WHOLE_RUN"
"""Set by ``./scripts/test`` without arguments; with ``tests/faults/test_planted.py`` it looks for all of them."""


def of_this_run(names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that are looked for now: the same in each process, and all within a few commits."""
    if WHOLE_RUN not in os.environ:
        return list(names)
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout
    return sorted(names)[int(head[:8], 16) % PARTS :: PARTS]
