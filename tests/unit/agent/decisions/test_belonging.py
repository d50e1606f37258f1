"""Whether the ledger belongs to the machine that opened it."""

from __future__ import annotations

import pytest

from metrica_agent.decisions.belonging import belonging


@pytest.mark.parametrize(
    ("about", "known", "here", "machine", "moved"),
    [
        ("a new ledger", "", ["serial:a", "mac:x"], "serial:a", False),
        ("the same machine", "serial:a", ["serial:a", "mac:x"], "serial:a", False),
        ("another one", "serial:a", ["serial:b", "mac:x"], "serial:b", True),
        ("what was known is second here", "mac:x", ["serial:a", "mac:x"], "mac:x", False),
        ("and another's", "mac:x", ["serial:a", "mac:y"], "serial:a", True),
        ("it can't be compared", "serial:a", ["mac:x"], "serial:a", False),
        ("nothing is known of the machine", "serial:a", [], "serial:a", False),
        ("nothing is known at all", "", [], "", False),
    ],
)
def test_to_whom_it_belongs(about: str, known: str, here: list[str], machine: str, moved: bool) -> None:  # noqa: FBT001 - a table
    found = belonging(known, here)
    assert (found.machine, [saying.kind for saying in found.sayings]) == (machine, ["ledger.moved"] * moved), about
