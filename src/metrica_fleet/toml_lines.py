"""TOML with line numbers: ``tomllib`` reads, and what it does not tell is found statement by statement.

A statement (``key = value`` or ``[table]``) that is complete parses on its own; one that goes on in the next
line does not. So the lines of a document are cut into statements by parsing each with ever more lines until
it does. That is linear in the size of the file, but for a statement over very many lines: there is a budget, and
past it a problem has the line of what is above it.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_BYTES: Final = 256 * 1024
Table = dict[str, Any]
Path = tuple[str | int, ...]
"""Keys, and places in lists from 0."""

_BUDGET_CHARS: Final = 1024 * 1024
_MAX_DEPTH: Final = 8
"""No key of a fleet repository is deeper; deeper ones have the line of the one above them."""
_MAX_DOT_COST: Final = 10_000_000
_CLOSINGS: Final = ("\n]", "\n]]", "\n]}", "\n]}]")
"""What completes a list that goes on in the next line."""
_AT_LINE: Final = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")
_AT_END: Final = "(at end of document)"
_ADVICE: Final = {
    "Invalid value": 'no TOML value; text stands in quotes: key = "text"',
    "Expected '=' after a key in a key/value pair": "no TOML; write key = value",
    "Cannot overwrite a value": "this key is here twice; keep one",
    "Unterminated string": "a text without its closing quotes; add them",
    "Expected newline or end of document after a statement": "too much on one line; begin a new one",
    "Unclosed array": "a list without its closing bracket; add ]",
}


class NotTomlError(ValueError):
    """The file can't be read as TOML."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.text = text
        self.line = line


class Document:
    """A TOML file: its ``table``, and in which line each part of it begins."""

    def __init__(self, content: bytes) -> None:
        """Read ``content``.

        Raises:
            NotTomlError: it is not TOML, or too large to be looked at.
        """
        self.text = _text(content)
        self.table = _parse(self.text)
        self._lines: dict[Path, int] | None = None

    def line_of(self, path: Path) -> int:
        """Return the line, from 1, where ``path`` begins, or else the nearest part above it."""
        if self._lines is None:
            self._lines = _positions(self.text.split("\n"))
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def as_written(self) -> Table:
        """Return the table with each float as the text that was written: ``1.10`` stays ``1.10``."""
        return tomllib.loads(self.text, parse_float=str)


def dotted(path: Path) -> str:
    """Return ``path`` as people write it: ``checks[0].url``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


# --- reading ------------------------------------------------------------------------------------------------


def _text(content: bytes) -> str:
    if len(content) > MAX_FILE_BYTES:
        msg = f"the file has {len(content)} bytes; at most {MAX_FILE_BYTES} are read"
        raise NotTomlError(msg, 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotTomlError("not UTF-8 text; save the file as UTF-8", line) from error
    text = text.replace("\r\n", "\n")
    for wrong, name in (("\0", "a NUL character"), ("\r", "a carriage return alone")):
        if wrong in text:
            line = text.count("\n", 0, text.index(wrong)) + 1
            raise NotTomlError(f"{name} is in the line; save the file as plain UTF-8 text", line)
    _refuse_endless_keys(text)
    return text


def _refuse_endless_keys(text: str) -> None:
    """Refuse what would keep ``tomllib`` busy for minutes: its work is the square of a dotted key's parts."""
    lines = text.split("\n")
    dots = [line.count(".") for line in lines]
    if sum(count * count for count in dots) + max(dots) * len(lines) > _MAX_DOT_COST:
        raise NotTomlError("too many dots in a line; split it", dots.index(max(dots)) + 1)


def _parse(text: str) -> Table:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise NotTomlError("brackets are nested too deeply; a fleet repository needs two levels", 1) from error
    except ValueError as error:
        raise _explained(text, str(error)) from error


def _explained(text: str, message: str) -> NotTomlError:
    """Return what ``tomllib`` says in words that help."""
    place = _AT_LINE.search(message)
    what = _AT_LINE.sub("", message).removesuffix(_AT_END).strip()
    line, column = 1, ""
    if place is not None:
        line, column = int(place[1]), f" (column {place[2]})"
    elif message.endswith(_AT_END):
        line, statement = _last_statement(text.split("\n"))
        what = "Unclosed array" if what == "Invalid value" and "[" in statement else what
    advice = _ADVICE.get(what) or f"no TOML: {what[:1].lower()}{what[1:]}"
    return NotTomlError(f"{advice}{column}", line)


def _last_statement(lines: list[str]) -> tuple[int, str]:
    """Return the line where the statement begins that the end of the file cuts off, and the statement."""
    start = max(begin for begin, _ in _statements(lines))
    return start + 1, "\n".join(lines[start:])


# --- positions ----------------------------------------------------------------------------------------------


def _positions(lines: list[str]) -> dict[Path, int]:
    """Return the line of every path of the document that ``lines`` are; the document is known to parse."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    """Of each array of tables so far: its length."""
    header: Path = ()
    for start, end in _statements(lines):
        parsed = _try("\n".join(lines[start:end]))
        if not parsed:
            continue
        if lines[start].lstrip(" \t").startswith("["):
            header = _header(parsed, counts)
            _note(found, header, start + 1)
            continue
        for within, line in _parts(lines, start, end):
            _note(found, header + within, line)
    return found


def _statements(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Yield first line and line after the last of each statement, from 0; empty lines are statements too."""
    budget = _BUDGET_CHARS
    start = 0
    while start < len(lines):
        end, size = start + 1, len(lines[start])
        while _try("\n".join(lines[start:end])) is None and end < len(lines):
            budget -= size
            if budget < 0:
                yield start, start
                return
            size += len(lines[end])
            end += 1
        yield start, end
        start = end


def _parts(lines: list[str], start: int, end: int) -> Iterator[tuple[Path, int]]:
    """Yield each path that a statement defines and its line; in a list over several lines, the item's own."""
    budget = _BUDGET_CHARS
    seen: set[Path] = set()
    begin = start
    stop = start + 1
    while stop <= end:
        text = "\n".join(lines[start:stop])
        closings = ("",) if stop == end else _CLOSINGS
        tries = (_try(text + closing) for closing in closings)
        parsed = next((table for table in tries if table is not None), None)
        if parsed is not None:
            new = [path for path in _paths(parsed) if path not in seen]
            seen.update(new)
            yield from ((path, begin + 1) for path in new)
            begin = stop
        budget -= len(text) * len(closings)
        stop = stop + 1 if budget > 0 or stop == end else end


def _header(parsed: Table, counts: dict[Path, int]) -> Path:
    """Return the path of the table that a ``[header]`` opens, with its places in arrays of tables."""
    path: Path = ()
    value: Any = parsed
    while isinstance(value, dict) and value:
        if path in counts:
            path += (counts[path] - 1,)
        key, value = next(iter(cast("Table", value).items()))
        path += (key,)
    if isinstance(value, list):
        counts[path] = counts.get(path, 0) + 1
    return (*path, counts[path] - 1) if path in counts else path


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:  # noqa: ANN401 - whatever TOML holds
    if path:
        yield path
    if len(path) >= _MAX_DEPTH:
        return
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(cast("Table", value).items())
    elif isinstance(value, list):
        items = list(enumerate(cast("list[Any]", value)))
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _note(found: dict[Path, int], path: Path, line: int) -> None:
    """Remember ``line`` for ``path``, and for what is above it where that has none yet."""
    for length in range(1, min(len(path), _MAX_DEPTH) + 1):
        found.setdefault(path[:length], line)


def _try(text: str) -> Table | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None
