"""Which other files the Compose file of an exported folder names, found without asking Compose.

The files are hostile until shown otherwise. They are read event by event, at the cost of their size: an alias stands
for the one node that it names, and what a file would come to expanded is only counted.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from metrica_agent.decisions.references import Reference, located, refusal
from metrica_fleet.errors import Unusable

COMPOSE_FILE: Final = "compose.yaml"
MOST_BYTES: Final = 1024 * 1024
"""Of one file."""
MOST_NODES: Final = 200_000
"""Of one file, aliases expanded."""
MOST_DEEP: Final = 64
MOST_FILES: Final = 100
"""That extend and include each other."""
_MERGE: Final = "<<"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: twenty times as fast."""


@dataclass(frozen=True, slots=True)
class _Scalar:
    text: str
    line: int
    size: int = 1


@dataclass(slots=True)
class _List:
    items: list[_Node] = field(default_factory=list["_Node"])
    size: int = 1


@dataclass(slots=True)
class _Map:
    pairs: list[tuple[_Node, _Node]] = field(default_factory=list["tuple[_Node, _Node]"])
    size: int = 1
    key: _Node | None = None
    """While it is read: the key whose value is next."""


_Node = _Scalar | _List | _Map


@dataclass(frozen=True, slots=True)
class _Place:
    """A Compose file, and the folder that paths in it are relative to; both in the role's folder."""

    file: str
    base: str


def found(folder: Path) -> tuple[Reference, ...]:
    """Return every path that ``compose.yaml`` of ``folder``, and what it includes and extends, gives to Compose.

    A folder without ``compose.yaml`` names nothing: that is refused where the file is used.

    Raises:
        Unusable: ``compose-invalid``, ``compose-too-large``, ``reads-outside`` (of a file that must be followed).
    """
    references: list[Reference] = []
    waiting = [_Place(COMPOSE_FILE, "")]
    seen = set(waiting)
    while waiting:
        place = waiting.pop()
        for reference, further in _named_in(folder, place):
            references.append(reference)
            if further is None or further in seen:
                continue
            seen.add(further)
            waiting.append(further)
            if len(seen) > MOST_FILES:
                raise _too_large(COMPOSE_FILE, f"more than {MOST_FILES} files include and extend each other")
    return tuple(references)


def _named_in(folder: Path, place: _Place) -> Iterator[tuple[Reference, _Place | None]]:
    for root in _documents(folder / place.file, place.file):
        for value in _values(root, "include"):
            for entry in value.items if isinstance(value, _List) else (value,):
                yield from _included(entry, place)
        for services in _values(root, "services"):
            for service in (one for _, one in services.pairs) if isinstance(services, _Map) else ():
                yield from _of_service(service, place)


def _of_service(service: _Node, place: _Place) -> Iterator[tuple[Reference, _Place | None]]:
    for key in ("env_file", "label_file"):
        for value in _values(service, key):
            for path in _paths(value, "path"):
                yield _reference(place, key, path), None
    for value in _values(service, "extends"):
        for path in _paths(value, "file") if isinstance(value, _Map) else ():
            reference = _reference(place, "extends", path)
            file = _followed(reference)
            yield reference, _Place(file, posixpath.dirname(file))


def _included(entry: _Node, place: _Place) -> Iterator[tuple[Reference, _Place | None]]:
    base: str | None = None
    for value in _values(entry, "project_directory"):
        for path in _paths(value, ""):
            reference = _reference(place, "include", path)
            base = _followed(reference)
            yield reference, None
    for path in _paths(entry, "path"):
        reference = _reference(place, "include", path)
        file = _followed(reference)
        base = posixpath.dirname(file) if base is None else base
        yield reference, _Place(file, base)
    for value in _values(entry, "env_file"):
        for path in _paths(value, "path"):
            yield _reference(place, "include", path), None


def _reference(place: _Place, key: str, path: _Scalar) -> Reference:
    return Reference(file=place.file, line=path.line, key=key, path=path.text, base=place.base)


def _followed(reference: Reference) -> str:
    """Return where a file is that has to be read as well; its path must say so by itself."""
    file = None if "$" in reference.path else located(reference.base, reference.path)
    if file is None:
        why = "is not in the role's folder, or depends on variables; put the file there and name it plainly"
        raise refusal(reference, f'"{reference.path}" {why}')
    return file


# --- looking at nodes -------------------------------------------------------------------------------------------


def _values(node: _Node, key: str) -> Iterator[_Node]:
    """Give every value that ``key`` may have in a mapping, those that are merged in from others included."""
    waiting, seen = [node], set[int]()
    while waiting:
        mapping = waiting.pop()
        if not isinstance(mapping, _Map) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        for name, value in mapping.pairs:
            if not isinstance(name, _Scalar):
                continue
            if name.text == key:
                yield value
            elif name.text == _MERGE:
                waiting += value.items if isinstance(value, _List) else [value]


def _paths(value: _Node, key: str) -> Iterator[_Scalar]:
    """Give the paths of ``path``, ``[path, …]``, ``{key: path}`` or ``[{key: path}, …]``."""
    for entry in value.items if isinstance(value, _List) else (value,):
        if isinstance(entry, _Scalar):
            yield entry
        elif key:
            for named in _values(entry, key):
                yield from _paths(named, "")


# --- reading nodes ----------------------------------------------------------------------------------------------


def _documents(path: Path, name: str) -> Sequence[_Node]:
    """Return the root of every document of a file; none when there is no such file: Compose says that better."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ()
    if len(content) > MOST_BYTES:
        raise _too_large(name, f"it has more than {MOST_BYTES} bytes")
    try:
        return _Reading(name).roots(content)
    except (yaml.YAMLError, ValueError) as error:
        raise Unusable(f"{name}: {' '.join(str(error).split())}", reason="compose-invalid") from error


class _Reading:
    """One file, from events to nodes, with a stack of its own: what is nested deeply must not end the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._roots: list[_Node] = []
        self._open: list[tuple[_List | _Map, str | None]] = []
        self._anchors: dict[str, _Node | None] = {}

    def roots(self, content: bytes) -> Sequence[_Node]:
        """Return the roots of its documents."""
        for event in yaml.parse(content, _LOADER):
            match event:
                case yaml.DocumentStartEvent():
                    self._anchors = {}
                case yaml.ScalarEvent():
                    line = event.start_mark.line + 1 if event.start_mark else 0
                    self._add(_Scalar(event.value, line), event.anchor)
                case yaml.AliasEvent():
                    self._add(self._named(event.anchor or ""), None)
                case yaml.SequenceStartEvent():
                    self._begin(_List(), event.anchor)
                case yaml.MappingStartEvent():
                    self._begin(_Map(), event.anchor)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._add(*self._open.pop())
                case _:
                    pass
        return self._roots

    def _begin(self, node: _List | _Map, anchor: str | None) -> None:
        if len(self._open) >= MOST_DEEP:
            raise _too_large(self._name, f"it is nested deeper than {MOST_DEEP} levels")
        if anchor is not None:
            self._anchors[anchor] = None
        self._open.append((node, anchor))

    def _named(self, anchor: str) -> _Node:
        node = self._anchors.get(anchor)
        if node is None:
            message = f'{self._name}: the alias "*{anchor}" names nothing, or what it is itself in'
            raise Unusable(message, reason="compose-invalid")
        return node

    def _add(self, node: _Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self._roots.append(node)
            return
        outer, _ = self._open[-1]
        outer.size += node.size
        if outer.size > MOST_NODES:
            raise _too_large(self._name, f"it comes to more than {MOST_NODES} values")
        if isinstance(outer, _List):
            outer.items.append(node)
        elif outer.key is None:
            outer.key = node
        else:
            outer.pairs.append((outer.key, node))
            outer.key = None


def _too_large(name: str, what: str) -> Unusable:
    return Unusable(f"{name}: {what}; make it smaller", reason="compose-too-large")
