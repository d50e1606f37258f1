"""Settings files: TOML with sections one deep, single values overridden by the environment, into frozen values.

``[git] poll_s`` of ``agent.toml`` may also come from ``METRICA_AGENT_GIT_POLL_S``, or from the file that
``METRICA_AGENT_GIT_POLL_S_FILE`` names, which is how secrets should come.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args

import msgspec

from metrica_fleet.problems import DefinitionError, Problem, suggestion
from metrica_fleet.toml_lines import Document
from metrica_fleet.toml_reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T", bound=msgspec.Struct)
Place = tuple[str, ...]


class Configured(msgspec.Struct, Generic[T], frozen=True):
    """Settings, and where each value that was given came from: ``file:line`` or the variable's name."""

    settings: T
    origins: dict[Place, str]


def configured(
    file: str,
    content: bytes,
    kind: type[T],
    environment: Mapping[str, str],
    *,
    prefix: str,
    read_file: Callable[[str], str],
) -> Configured[T]:
    """Return the ``kind`` that ``content`` and ``environment`` describe.

    Args:
        file: what to call the file in complaints.
        content: its bytes; empty where there is none.
        kind: a frozen Struct; fields that are Structs are sections.
        environment: variables; those that begin with ``prefix`` must each name a key.
        prefix: of the variables, such as ``METRICA_AGENT_``.
        read_file: reads what a variable that ends in ``_FILE`` names.

    Raises:
        DefinitionError: ``file:line: what is wrong; what to do``.
    """
    problems: list[Problem] = []
    reader = Reader(file, content, problems)
    sections = sections_of(kind)
    given = _Environment(kind, prefix, read_file).given(environment, problems)
    reader.only((), reader.table, kind.__struct_fields__)
    values: dict[str, Any] = {}
    for key, section in sections.items():
        if key in reader.table or any(place[0] == key for place in given):
            values[key] = _section(reader, key, section, given)
    flat = {place[0]: value for place, value in given.items() if len(place) == 1}
    table = {key: value for key, value in reader.table.items() if key not in sections} | flat
    known = {key: value for key, value in table.items() if key in kind.__struct_fields__}
    values |= reader.fields((), known, kind)
    missing = [
        field.name for field in msgspec.structs.fields(kind) if field.required and field.name not in (known | values)
    ]
    if not reader.broken:
        problems.extend(_missing(file, prefix, (), name, section=name in sections) for name in missing)
    if problems:
        named = {".".join(place): variable(prefix, place) for place in given}
        raise DefinitionError([_blamed_rightly(problem, named) for problem in problems])
    origins = dict(_written(file, content, sections)) | {place: variable(prefix, place) for place in given}
    return Configured(kind(**values), origins)


def variable(prefix: str, place: Place) -> str:
    """Return the environment's name of a key."""
    return prefix + "_".join(place).upper()


def sections_of(kind: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """Return the fields of ``kind`` that are Structs, or a Struct or nothing."""
    found: dict[str, type[msgspec.Struct]] = {}
    for field in msgspec.structs.fields(kind):
        for option in get_args(field.type) or (field.type,):
            if isinstance(option, type) and issubclass(option, msgspec.Struct):
                found[field.name] = option
    return found


def _section(reader: Reader, key: str, kind: type[msgspec.Struct], given: Mapping[Place, object]) -> object:
    written = reader.section(key)
    table = written | {place[1]: value for place, value in given.items() if place[0] == key and len(place) > 1}
    return reader.complete((key,), table, kind)


class _Environment:
    """The variables that begin with a prefix, as values of a kind's keys."""

    def __init__(self, kind: type[msgspec.Struct], prefix: str, read_file: Callable[[str], str]) -> None:
        sections = sections_of(kind)
        kinds = {(one.name,): one.type for one in msgspec.structs.fields(kind) if one.name not in sections}
        for key, section in sections.items():
            kinds |= {(key, one.name): one.type for one in msgspec.structs.fields(section)}
        self._prefix = prefix
        self._read_file = read_file
        self._kinds: dict[Place, object] = kinds
        self._names = {variable(prefix, place): place for place in kinds}

    def given(self, environment: Mapping[str, str], problems: list[Problem]) -> dict[Place, object]:
        """Return the value of each key that ``environment`` gives; unknown variables go to ``problems``."""
        given: dict[Place, object] = {}
        for name in sorted(name for name in environment if name.startswith(self._prefix)):
            place = self._names.get(name) or self._names.get(name.removesuffix("_FILE"))
            if place is None:
                text = f"unknown variable {name}{suggestion(name, self._names)}"
                problems.append(Problem("environment", None, name, text, "unknown-key"))
                continue
            text = environment[name] if name in self._names else self._read_file(environment[name]).strip()
            given[place] = _value(text, self._kinds[place])
        return given


def _value(text: str, kind: object) -> object:
    """Return what ``text`` means for a ``kind``: numbers and truths as they are written, lists as in TOML."""
    for candidate in (text, _as_toml(text)):
        try:
            return msgspec.convert(candidate, cast("Any", kind), strict=False)
        except msgspec.ValidationError:
            continue
    return text


def _as_toml(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _blamed_rightly(problem: Problem, given: Mapping[str, str]) -> Problem:
    """Return ``problem`` told of the variable, where it was a variable that gave the value."""
    name = given.get(problem.key)
    return problem if name is None else msgspec.structs.replace(problem, file=name, line=None)


def _missing(file: str, prefix: str, above: Place, name: str, *, section: bool) -> Problem:
    what = f"missing section [{name}]; add it" if section else f'missing key "{name}"; add it'
    text = f"{what}, or set {variable(prefix, (*above, name))}{'_…' if section else ''}"
    return Problem(file, None, name, text, "missing-key")


def _written(file: str, content: bytes, sections: Mapping[str, object]) -> Iterator[tuple[Place, str]]:
    document = Document(content)
    for key, value in document.table.items():
        inner = cast("dict[str, object]", value) if key in sections and isinstance(value, dict) else None
        for place in [(key,)] if inner is None else [(key, name) for name in inner]:
            yield place, f"{file}:{document.line_of(place)}"
