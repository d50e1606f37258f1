"""Variables in a Compose file, as Compose fills them in: ``$VAR``, ``${VAR}``, defaults, errors and ``$$``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from metrica_fleet.errors import Unusable

_NAME = "[_a-zA-Z][_a-zA-Z0-9]*"
_PLACE = re.compile(rf"\$(?:(?P<escaped>\$)|(?P<plain>{_NAME})|\{{(?P<name>{_NAME})(?P<rest>[:?+-][^\n]*)?|(?P<bad>))")


def filled(node: object, variables: Mapping[str, str], where: str = "") -> object:
    """Return ``node`` of a parsed file with the variables filled into every text in it; keys stay as they are.

    Raises:
        Unusable: ``variable-unset`` or ``compose-invalid``; names the place in the file.
    """
    if isinstance(node, str):
        return fill(node, variables, where)
    if isinstance(node, list):
        items = cast("list[object]", node)
        return [filled(item, variables, f"{where}.[{index}]") for index, item in enumerate(items)]
    if isinstance(node, dict):
        entries = cast("dict[str, Any]", node)
        return {key: filled(item, variables, f"{where}.{key}".strip(".")) for key, item in entries.items()}
    return node


def fill(text: str, variables: Mapping[str, str], where: str = "") -> str:
    """Return ``text`` with the variables filled in.

    Raises:
        Unusable: ``variable-unset`` or ``compose-invalid``; names the place in the file.
    """
    done: list[str] = []
    position = 0
    while True:
        found = _PLACE.search(text, position)
        if found is None:
            return "".join((*done, text[position:]))
        done.append(text[position : found.start()])
        value, position = _value(text, found, variables, where)
        done.append(value)


def escaped(node: object) -> object:
    """Return ``node`` with every ``$`` doubled, as ``docker compose config`` prints it: to be read by Compose again."""
    if isinstance(node, str):
        return node.replace("$", "$$")
    if isinstance(node, list):
        return [escaped(item) for item in cast("list[object]", node)]
    if isinstance(node, dict):
        return {key: escaped(item) for key, item in cast("dict[str, Any]", node).items()}
    return node


def _value(text: str, found: re.Match[str], variables: Mapping[str, str], where: str) -> tuple[str, int]:
    if found["escaped"]:
        return "$", found.end()
    if found["plain"]:
        return _known(found["plain"], variables, where), found.end()
    if found["bad"] is not None:
        raise _malformed(text, where)
    end = _closing(text, found.end("name"))
    if end is None:
        raise _malformed(text, where)
    rest = text[found.end("name") : end]
    return _braced(found["name"], rest, variables, where), end + 1


def _closing(text: str, start: int) -> int | None:
    """Return where the brace opened before ``start`` closes, over braces inside of it."""
    depth = 1
    for index in range(start, len(text)):
        if text.startswith("${", index):
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    return None


def _braced(name: str, rest: str, variables: Mapping[str, str], where: str) -> str:
    if not rest:
        return _known(name, variables, where)
    empty_counts = rest.startswith(":")
    rest = rest.removeprefix(":")
    operator, operand = rest[:1], rest[1:]
    value = variables.get(name)
    absent = value is None or (empty_counts and value == "")
    match operator:
        case "-":
            return fill(operand, variables, where) if absent else value or ""
        case "+":
            return "" if absent else fill(operand, variables, where)
        case "?" if absent:
            message = f"error while interpolating {where}: required variable {name} is missing a value: {operand}"
            raise Unusable(message, reason="compose-invalid")
        case "?":
            return value or ""
        case _:
            raise _malformed(f"${{{name}{rest}}}", where)


def _known(name: str, variables: Mapping[str, str], where: str) -> str:
    if name in variables:
        return variables[name]
    message = f'compose.yaml: {where}: variable "{name}" is set neither for this device nor by a default'
    raise Unusable(message, reason="variable-unset")


def _malformed(text: str, where: str) -> Unusable:
    message = f"invalid interpolation format for {where}: {text}; a literal $ is written $$"
    return Unusable(message, reason="compose-invalid")
