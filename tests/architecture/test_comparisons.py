"""Secrets are compared in a time that does not tell where they differ, and no value that holds one shows it.

By ``hmac.compare_digest``, never by ``==``. Looked for by name. A digest of a file or a release is no secret: whoever
it is compared for knows it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUSE: Final = Path(__file__).resolve().parents[2]
WORDS: Final = re.compile(r"(^|_)(token|secret|password|csrf|cookie|hmac|mac|signature)s?($|_(text|digest)$)")
EXCEPT: Final = {
    ("src/metrica_cli/hub.py", "status == _UNKNOWN_TOKEN"): "a status of HTTP",
    ("src/metrica_hub/web/sessions.py", "name == COOKIE"): "the name of the cookie",
    ("src/metrica_hub/web/tokens.py", "token.id == request[PRINCIPAL].token"): "the token's number",
    ("stack/device/device_installer/steps.py", "path == secret"): "the path of the file with one",
}


def found(tree: ast.Module) -> Iterator[ast.Compare]:
    """Yield comparisons by ``==`` or ``!=`` of something that is called as secrets are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops) and any(map(is_secret, sides)):
                yield node


def is_secret(side: ast.expr) -> bool:
    match side:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return WORDS.search(name.lower()) is not None
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in {"encode", "strip", "decode"}:
            return isinstance(side.func, ast.Attribute) and is_secret(side.func.value)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return WORDS.search(name.lower()) is not None or (name.endswith("_of") and is_secret(ast.Name(name[:-3])))
        case _:
            return False


def test_no_secret_is_compared_by_a_plain_comparison() -> None:
    there: set[tuple[str, str]] = set()
    for folder in ("src", "stack", "scripts"):
        for path in sorted((HOUSE / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            there |= {(path.relative_to(HOUSE).as_posix(), ast.unparse(one)) for one in found(tree)}
    assert there - set(EXCEPT) == set()
    assert set(EXCEPT) <= there, "an exception that is not needed any more"


def test_what_would_be_wrong_is_found_and_what_is_not_is_left() -> None:
    wrong = (
        "given == token",
        "a.token_text != b",
        "form.password == x",
        "signature.strip() != known",
        "x == csrf_of(y)",
    )
    right = (
        "token.id == mine",
        "token is None",
        "len(token) == 3",
        "digest == release.digest",
        "kind == 'token'",
        "name in tokens",
    )
    for text in wrong:
        assert list(found(ast.parse(text))), text
    for text in right:
        assert not list(found(ast.parse(text))), text


# --- nor shown --------------------------------------------------------------------------------------------------------

HOLDS: Final = re.compile(r"(^|_)(token|secret|password)$|^tokens$")
"""``secrets`` are the names of some, or the folder where they are: the files of an age-sealed repository."""


def showing(tree: ast.Module) -> Iterator[str]:
    """Yield the classes with a field of text that is called as secrets are, and a repr that would show it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or any(
            isinstance(one, ast.FunctionDef) and one.name == "__repr__" for one in node.body
        ):
            continue
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_text = re.search(r"\b(str|bytes|Text)\b", ast.unparse(field.annotation)) is not None
                hidden = field.value is not None and "repr=False" in ast.unparse(field.value)
                if HOLDS.search(field.target.id) and is_text and not hidden:
                    yield f"{node.name}.{field.target.id}"


def test_no_value_that_holds_a_secret_shows_it() -> None:
    there = {
        (path.relative_to(HOUSE).as_posix(), one)
        for path in sorted((HOUSE / "src").rglob("*.py"))
        for one in showing(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert there == set()


def test_a_value_that_would_show_its_secret_is_found() -> None:
    shown = "class A:\n    bus_password: bytes | None = None\n"
    assert list(showing(ast.parse(shown))) == ["A.bus_password"]
    assert not list(showing(ast.parse(shown + "    def __repr__(self): ...")))
    assert not list(showing(ast.parse("class A:\n    token: str = field(repr=False)\n    tokens: float = 20.0")))
