from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from metrica_fleet.records import EVENT_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[2] / "src"
SAYERS = {"Saying", "Event"}


def test_every_kind_of_event_that_is_said_is_registered_and_the_other_way_round() -> None:
    said = {kind for kind, _ in _said()}
    unregistered = {f"{kind} in {place}" for kind, place in _said() if kind not in EVENT_KINDS}
    assert not unregistered, "add it to EVENT_KINDS of metrica_fleet.records"
    assert not set(EVENT_KINDS) - said - _mentioned(), "nobody says it: take it out of EVENT_KINDS"


def _said() -> Iterator[tuple[str, str]]:
    """Yield each literal ``kind`` of a ``Saying`` or ``Event``, and where."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or _name(node.func) not in SAYERS:
                continue
            for keyword in node.keywords:
                match keyword:
                    case ast.keyword(arg="kind", value=ast.Constant(value=str(kind))):
                        yield kind, f"{path.relative_to(SOURCE)}:{node.lineno}"
                    case _:
                        pass


def _mentioned() -> set[str]:
    """Return every literal outside of the register: some kinds are chosen before they are said."""
    found: set[str] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name != "records.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""
