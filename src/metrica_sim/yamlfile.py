"""YAML as Compose reads it: "no" is a word, "22:22" a text, and a key that stands twice is an error."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from metrica_fleet.errors import Unusable

_MAX_CHARACTERS: Final = 1_000_000


class _Loader(yaml.SafeLoader):
    """PyYAML speaks YAML 1.1, where "no" is false and "22:22" is 1342; Compose does not."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


_RESOLVED: Final = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$", "-+0123456789"),
    ("float", r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.nan)$",
     "-+0123456789."),
    ("merge", r"^(?:<<)$", "<"),
    ("null", r"^(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
)  # fmt: skip

for _tag, _pattern, _first in _RESOLVED:
    _Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
    )


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f'line {line}: key "{key.value}" stands twice')
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parsed(text: str) -> object:
    """Return what ``text`` says.

    Raises:
        Unusable: ``compose-invalid``.
    """
    if len(text) > _MAX_CHARACTERS:
        raise Unusable("compose.yaml is larger than any Compose file should be", reason="compose-invalid")
    try:
        return yaml.load(text, _Loader)  # noqa: S506 # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        first_line = " ".join(str(error).split())[:300]
        raise Unusable(f"compose.yaml: {first_line}", reason="compose-invalid") from error
