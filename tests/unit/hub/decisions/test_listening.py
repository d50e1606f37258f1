"""Whether a hub listens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metrica_hub.decisions.listening import LOOK_S, Look, listens

BEFORE = Look(at_s=100.0, leads=True, connected=True, waiting=7, braked=False, batches=40)
NOW = Look(at_s=100.0 + LOOK_S, leads=True, connected=True, waiting=7, braked=False, batches=41)


@pytest.mark.parametrize(
    ("about", "before", "now", "expected"),
    [
        ("all is well", BEFORE, NOW, True),
        ("it is quiet", replace(BEFORE, waiting=0), replace(NOW, waiting=0, batches=40), True),
        ("something has just come", replace(BEFORE, waiting=0), replace(NOW, batches=40), True),
        ("nothing is stored of what waits: the database is away", BEFORE, replace(NOW, batches=40), False),
        ("it does not lead, or does not know", BEFORE, replace(NOW, leads=False), False),
        ("it has no broker", BEFORE, replace(NOW, connected=False), False),
        ("it is busy", BEFORE, replace(NOW, waiting=3999), True),
        ("it is behind", BEFORE, replace(NOW, waiting=1500, braked=True), False),
        ("the look is somewhat late", BEFORE, replace(NOW, at_s=109.0), True),
        ("the process was frozen", BEFORE, replace(NOW, at_s=111.0), False),
    ],
)
def test_when_it_listens(about: str, before: Look, now: Look, expected: bool) -> None:  # noqa: FBT001 - a table
    assert listens(before, now) is expected, about
