"""docs/reference/commands.md: every command with its arguments, from ``metrica_fleet.commands``."""

from __future__ import annotations

from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import msgspec

from metrica_fleet.commands import ANSWER_BYTES, FOLLOWED_S, LONGEST_S, VERBS, Task

_HEAD = f"""\
# Commands

Made from `VERBS` in src/metrica_fleet/commands.py by `scripts/reference`; do not edit.

    curl -X POST -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
        -d '{{"verb": "logs", "arguments": {{"service": "web", "tail": 20}}}}' \\
        http://127.0.0.1:8080/api/v1/devices/pi-07/commands

*role*: who may give it, and every role above. *changes*: such commands go one after the other on a device, and are
refused (`stopped`) while a stop is in force there. *time-out*: when the request has no `timeout_s` (up to
{LONGEST_S:g}); a log that is followed ends after {FOLLOWED_S:g} s. An answer has up to {ANSWER_BYTES // 1024} KiB.
How commands travel, wait and end: [how-to/commands.md](../how-to/commands.md).

| verb | what it does | role | changes | time-out |
| --- | --- | --- | --- | --- |
"""


def commands() -> str:
    """Return the page."""
    rows = [
        f"| `{name}` | {verb.about} | {verb.role} | {'yes' if verb.changes else ''} | {verb.timeout_s:g} s |"
        for name, verb in VERBS.items()
    ]
    parts = [_HEAD + "\n".join(rows) + "\n"]
    for name, verb in VERBS.items():
        if arguments := _arguments(verb.task):
            parts.append(
                f"## {name}\n\n| argument | type | default | meaning |\n| --- | --- | --- | --- |\n{arguments}"
            )
    return "\n".join(parts)


def _arguments(task: type[Task]) -> str:
    hints = get_type_hints(task, include_extras=True)
    return "".join(
        f"| `{field.name}` | {_kind(hints[field.name])} | {_default(field)} | {_about(hints[field.name])} |\n"
        for field in msgspec.structs.fields(task)
    )


def _kind(hint: object) -> str:
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    if parts := get_args(hint):
        return " or ".join("null" if part is type(None) else _kind(part) for part in parts)
    supertype: Any = getattr(hint, "__supertype__", None)
    if supertype is not None:
        return _kind(supertype)
    return {str: "text", bool: "true or false", int: "whole number"}.get(cast("type", hint), "number")


def _default(field: msgspec.structs.FieldInfo) -> str:
    return "" if field.required else f"`{msgspec.json.encode(field.default).decode()}`"


def _about(hint: object) -> str:
    metas = [one for one in get_args(hint)[1:] if isinstance(one, msgspec.Meta)]
    return next((one.description for one in reversed(metas) if one.description), "")
