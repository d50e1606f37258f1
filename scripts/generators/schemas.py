"""JSON Schema as msgspec makes it, in words and tables for people: what the pages of the bus and of the API share."""

from __future__ import annotations

from typing import Any, Final, cast

from metrica_fleet.identity import (
    COMMIT_PATTERN,
    DIGEST_PATTERN,
    NAME_PATTERN,
    SLUG_PATTERN,
    STREAM_PATTERN,
)

Json = dict[str, Any]

REF: Final = "#/components/schemas/"
_PATTERNS: Final = {
    NAME_PATTERN: "name",
    COMMIT_PATTERN: "commit, 40 hexadecimal digits",
    DIGEST_PATTERN: "digest, 64 hexadecimal digits",
    STREAM_PATTERN: "stream, 32 hexadecimal digits",
    SLUG_PATTERN: "slug",
}
_PLAIN: Final = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "null": "null",
    "object": "object",
    "array": "list",
}
_FORMATS: Final = {"date-time": "time", "byte": "base64"}


def words(schema: Json) -> str:
    """Return what ``schema`` asks for, with links to the types that it names."""
    match schema:
        case {"$ref": str(reference)}:
            name = reference.removeprefix(REF)
            return f"[{title(name)}](#{anchor(name)})"
        case {"anyOf": options}:
            return " or ".join(words(one) for one in cast("list[Json]", options))
        case {"enum": values}:
            return " or ".join("null" if one is None else f"`{one}`" for one in cast("list[object]", values))
        case {"const": value}:
            return f"`{value}`"
        case _:
            return _plain(schema)


def _plain(schema: Json) -> str:
    if (known := _PATTERNS.get(schema.get("pattern", ""))) is not None:
        return known
    if (known := _FORMATS.get(schema.get("format", schema.get("contentEncoding", "")))) is not None:
        return known
    kind = schema.get("type", "")
    if kind == "array" and "items" in schema and schema["items"]:
        return f"list of {words(schema['items'])}"
    if kind == "object" and schema.get("additionalProperties"):
        return f"object, each value {words(schema['additionalProperties'])}"
    return _PLAIN.get(kind, "anything") + _bounds(schema)


def _bounds(schema: Json) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and high < 2**53 - 1:
        return f", {low} to {high}"
    return ""


def fields(schema: Json, meanings: dict[str, str]) -> str:
    """Return the table of an object's fields; ``meanings``: what is known of them beyond the schema."""
    required = set(cast("list[str]", schema.get("required", [])))
    rows = [
        f"| `{name}` | {words(one).replace('|', chr(92) + '|')} | {'' if name in required else 'may be absent'} |"
        f" {one.get('description') or meanings.get(name, '')} |"
        for name, one in cast("dict[str, Json]", schema.get("properties", {})).items()
    ]
    return "\n".join(["| field | type | | meaning |", "| --- | --- | --- | --- |", *rows])


def title(name: str) -> str:
    """Return a type's name as people read it: msgspec writes ``Page[Token]`` as ``Page_Token_``."""
    outer, bracket, inner = name.partition("_")
    return f"{outer} of {inner.rstrip('_')}" if bracket else name


def anchor(name: str) -> str:
    """Return the fragment of the heading "Type" and ``title(name)``."""
    return f"type-{title(name).lower().replace(' ', '-')}"


def documented(schema: Json) -> str:
    """Return the docstring of a type, as Markdown."""
    return " ".join(str(schema.get("description", "")).replace("``", "`").split())
