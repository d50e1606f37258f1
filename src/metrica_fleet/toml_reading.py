"""TOML tables to frozen values, key by key: what is wrong is noted with its line, and reading goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast, get_args, get_origin

import msgspec
from msgspec import inspect

from metrica_fleet.identity import NAME_PATTERN
from metrica_fleet.problems import Problem, listed, nearest, shown, suggestion
from metrica_fleet.toml_lines import Document, NotTomlError, Path, Table, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T", bound=msgspec.Struct)

NAME_WORDS: Final = '1 to 63 of a-z, 0-9 and "-", beginning and ending with a letter or digit'
_SHOWN_BELOW: Final = 10**20
_UNITS: Final = {"_s": " of seconds", "_bytes": " of bytes", "_files": " of files"}


class Reader:
    """One TOML file being read. What is wrong with it goes to ``problems``."""

    def __init__(self, file: str, content: bytes, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        self._meant: set[Path] = set()
        """What was misspelt: it is told once, and not as missing as well."""
        self._document = Document(b"")
        try:
            self._document = Document(content)
            self.broken = False
        except NotTomlError as error:
            self.broken = True
            problems.append(Problem(file, error.line, "", error.text, "fleet-syntax"))

    @property
    def table(self) -> Table:
        """The whole file; empty when it is no TOML."""
        return self._document.table

    def as_written(self) -> Table:
        """The whole file with each float as the text that was written."""
        return self._document.as_written()

    def line_of(self, path: Path) -> int:
        """Return the line where ``path`` begins, or else what is above it."""
        return self._document.line_of(path)

    def complain(self, path: Path, text: str, reason: str) -> None:
        """Write down that something is wrong with what is at ``path``."""
        place = (self.file, self._document.line_of(path), dotted(path)[:200])
        self.problems.append(Problem(*place, text, reason))

    def only(self, path: Path, keys: Iterable[str], known: Iterable[str]) -> None:
        """Complain about each of ``keys``, found at ``path``, that is not ``known``."""
        names = tuple(known)
        for key in keys:
            if key not in names:
                text = f"unknown key {shown(key)}{suggestion(key, names)}"
                self.complain((*path, key), text, "unknown-key")
                self._meant.add((*path, nearest(key, names) or ""))

    def section(self, key: str) -> Table:
        """Return the table at ``key``; an empty one when it is not there or, which is told, no table."""
        value = self.table.get(key, {})
        if isinstance(value, dict):
            return cast("Table", value)
        self.complain((key,), f"{key} must be a table, [{key}], {_not(value)}", "wrong-type")
        return {}

    def value(self, path: Path, value: object, kind: object) -> Any:  # noqa: ANN401 - of type `kind`
        """Return ``value`` as a ``kind``, or ``None`` after a complaint."""
        if not _is(value, kind):
            self._explain(path, value, kind)
            return None
        texts = cast("list[object]", value) if isinstance(value, list) else [value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            self.complain(path, f"{dotted(path)} holds a NUL character; no program can be given one", "wrong-type")
            return None
        return msgspec.convert(value, cast("Any", kind))

    def required(self, key: str, kind: object, *, example: str) -> Any:  # noqa: ANN401 - of type `kind`
        """Return the value of a key of the file that must be there, or ``None`` after a complaint."""
        if key in self.table:
            return self.value((key,), self.table[key], kind)
        if not self.broken and (key,) not in self._meant:
            self.complain((), f'missing key "{key}"; add {key} = {example}', "missing-key")
        return None

    def fields(self, path: Path, table: Mapping[str, object], kind: type[T], *, also: tuple[str, ...] = ()) -> Table:
        """Return the fields of ``kind`` that ``table`` gives rightly; unknown keys but ``also`` are told."""
        known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        self.only(path, table, (*also, *known))
        read = {key: self.value((*path, key), value, known[key]) for key, value in table.items() if key in known}
        return {key: value for key, value in read.items() if value is not None}

    def overlaid(self, key: str, base: T) -> T:
        """Return ``base`` with what the table at ``key`` says instead, key by key."""
        return msgspec.structs.replace(base, **self.fields((key,), self.section(key), type(base)))

    def complete(
        self, path: Path, table: Mapping[str, object], kind: type[T], *, also: tuple[str, ...] = ()
    ) -> T | None:
        """Return the ``kind`` that ``table`` is, or ``None`` after complaints."""
        before = len(self.problems)
        given = self.fields(path, table, kind, also=also)
        required = [field.name for field in msgspec.structs.fields(kind) if field.required]
        missing = [name for name in required if name not in table and (*path, name) not in self._meant]
        if missing:
            self.complain(path, f"{dotted(path)} lacks {listed(missing)}; add it", "missing-key")
        return kind(**given) if len(self.problems) == before else None

    def _explain(self, path: Path, value: object, kind: object) -> None:
        wrong, item = _not(value), _item_kind(kind)
        items = cast("list[object]", value) if item is not None and isinstance(value, list) else []
        for at, one in enumerate(items):
            if not _is(one, item):
                self._explain((*path, at), one, item)
                return
        key = next((one for one in reversed(path) if isinstance(one, str)), "")
        if isinstance(value, str) and isinstance(choices := inspect.type_info(kind), inspect.LiteralType):
            wrong += suggestion(value, [str(one) for one in choices.values])
        reason = "bad-name" if NAME_WORDS in words_for(kind) and isinstance(value, str) else "wrong-type"
        self.complain(path, f"{dotted(path)} must be {words_for(kind, key)}, {wrong}", reason)


def _is(value: object, kind: object) -> bool:
    try:
        msgspec.convert(value, cast("Any", kind))
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def _item_kind(kind: object) -> object | None:
    """Return of what a list holds, when ``kind`` is a tuple of any length."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(bare)[0] if get_origin(bare) is tuple else None


# --- words --------------------------------------------------------------------------------------------------


def words_for(kind: object, key: str = "") -> str:
    """Return what an operator has to write for a ``kind``; the unit is in the ``key``."""
    return _described(inspect.type_info(kind), key)


def _described(info: inspect.Type, key: str) -> str:
    if isinstance(info, inspect.Metadata):
        schema = cast("Table", info.extra_json_schema or {})
        return str(schema.get("description") or _words(info.type, key))
    return _words(info, key)


def _words(info: inspect.Type, key: str) -> str:
    match info:
        case inspect.IntType():
            words = f"a whole number{_unit(key)}{_range(info)}"
        case inspect.FloatType():
            words = f"a number{_unit(key)}{_range(info)}"
        case inspect.BoolType():
            words = "true or false"
        case inspect.LiteralType(values=values):
            words = listed([str(one) for one in values], "or")
        case inspect.StrType(pattern=pattern):
            words = f"a name of {NAME_WORDS}" if pattern == NAME_PATTERN else 'text in quotes, "..."'
        case inspect.VarTupleType():
            words = 'a list of texts, ["...", "..."]'
        case inspect.UnionType(types=types):
            words = " or ".join(_described(one, key) for one in types if not isinstance(one, inspect.NoneType))
        case _:
            words = "something else"
    return words


def _unit(key: str) -> str:
    return next((unit for suffix, unit in _UNITS.items() if key.endswith(suffix)), "")


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    """Return the bounds in words; numbers of the format are bounded below."""
    if info.gt is not None:
        return f" above {info.gt:g}" + (f", at most {_plain(info.le)}" if info.le is not None else "")
    if info.ge is not None and info.le is not None:
        return f" from {_plain(info.ge)} to {_plain(info.le)}"
    return f" of at least {_plain(info.ge)}" if info.ge is not None else ""


def _plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else str(number)


def _not(value: object) -> str:
    """Return ``not "x"``, short and on one line."""
    match value:
        case bool():
            words = str(value).lower()
        case str():
            words = shown(value, 40)
        case int() if abs(value) >= _SHOWN_BELOW:
            words = "a number as large"
        case int() | float():
            words = str(value)
        case list():
            words = "such a list" if value else "an empty list"
        case dict():
            words = "a table"
        case _:
            words = "a date or time"
    return f"not {words}"
