"""The head of a bundle of ``git bundle``: what it has, and what it builds on. Bounded, and without dulwich.

dulwich's reader takes the pack into memory with it, and costs an agent that only asks for the branch 9 MB for ever.
"""

from __future__ import annotations

import re
from typing import IO, Final, NamedTuple

from metrica_fleet.identity import CommitId

_MOST_LINES: Final = 10_000
_LINE_BYTES: Final = 1024
_FIRST: Final = (b"# v2 git bundle\n", b"# v3 git bundle\n")
_SHA1: Final = b"@object-format=sha1\n"
_NEEDED: Final = re.compile(rb"-([0-9a-f]{40})( .*)?\n")
_HAS: Final = re.compile(rb"([0-9a-f]{40}) (refs/.*|HEAD)\n")


class Head(NamedTuple):
    """What stands ahead of the pack."""

    refs: dict[str, CommitId]
    needs: tuple[CommitId, ...]
    """Commits that whoever takes it must have."""


def read_head(file: IO[bytes]) -> Head:
    """Read up to where the pack begins.

    Raises:
        ValueError: it is no bundle that could be used here.
    """
    if file.readline(_LINE_BYTES) not in _FIRST:
        raise ValueError("it does not begin as a bundle")
    refs: dict[str, CommitId] = {}
    needs: list[CommitId] = []
    for _ in range(_MOST_LINES):
        line = file.readline(_LINE_BYTES)
        if line == b"\n":
            return Head(refs, tuple(needs))
        if needed := _NEEDED.fullmatch(line):
            needs.append(CommitId(needed[1].decode()))
        elif has := _HAS.fullmatch(line):
            refs[has[2].decode("utf-8", "replace")] = CommitId(has[1].decode())
        elif line != _SHA1:
            raise ValueError(f"its head says {line[:60]!r}")
    raise ValueError(f"its head has more than {_MOST_LINES} lines")
