"""Whether SECURITY.md says of everybody who could attack what it has to, and whether the tests it names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

HOUSE: Final = Path(__file__).resolve().parents[2]
PAGE: Final = HOUSE / "SECURITY.md"
WHO: Final = (
    *("A hostile device", "A hostile network", "A stolen card", "A compromised broker"),
    *("A compromised Git host or mirror", "A compromised hub", "A compromised token of an operator"),
)
TEST: Final = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def parts() -> dict[str, list[list[str]]]:
    """Return, by who attacks, the rows of his table, cell by cell."""
    found: dict[str, list[list[str]]] = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        found[title] = rows[2:]
    return found


def missing(text: str) -> set[str]:
    """Return the tests that are named and are not there."""
    gone: set[str] = set()
    for file, name in TEST.findall(text):
        path = HOUSE / file
        if not path.exists():
            gone.add(file)
        elif name:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            there = {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
            gone |= {f"{file}::{name}"} - {f"{file}::{one}" for one in there}
    return gone


def test_every_test_that_is_named_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(TEST.findall(text)) > 20
    assert missing(text) == set()


def test_a_test_that_is_not_there_would_be_found() -> None:
    own = "tests/architecture/test_security.py"
    assert missing(f"`{own}`, `{own}::test_every_test_that_is_named_is_there`") == set()
    assert missing(f"`{own}::test_nothing`, `tests/test_gone.py`") == {f"{own}::test_nothing", "tests/test_gone.py"}


def test_of_everybody_is_said_what_stops_him_what_he_can_do_and_what_shows_it() -> None:
    found = parts()
    assert set(WHO) <= set(found)
    for who in WHO:
        assert found[who], who
        assert all(row[0] and row[1] for row in found[who]), who
        assert any(len(row) > 2 and row[2] for row in found[who]), f"{who}: no blast radius"
        assert any(TEST.search(" ".join(row)) for row in found[who]), f"{who}: no test"
