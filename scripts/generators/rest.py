"""docs/reference/rest.md: the API for people, from the same route table as the hub's own OpenAPI document."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final, cast

from scripts.generators.schemas import Json, documented, fields, title, words

from metrica_hub.assembling import assembled
from metrica_hub.settings import Database, Settings
from metrica_hub.web.openapi import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metrica_hub.adapters.store.pool import Pool

_HEAD: Final = """\
# REST

Made from the hub's route table by `scripts/reference`; do not edit. For programs: `GET /api/v1/openapi.json`, OpenAPI
3.1, which the hub serves to anybody.

    curl -H "Authorization: Bearer $TOKEN" https://hub.example.org/api/v1/devices

- *Role*: the least that may; each may do what those before it may: viewer, operator, admin.
  [Who may what](../how-to/access.md).
- Lists are pages: `items`, and `next`, the cursor to give as `after` for the part behind it, and a
  `Link: rel="next"`.
- Errors are `application/problem+json`: [Problem](#type-problem). Every answer has an `X-Request-Id`; 429 and 503
  have `Retry-After`.
- A `POST` may carry an `Idempotency-Key`: what comes again with it within a day is not done again, and answered
  alike.
- Streams are server-sent events, their data JSON; `Last-Event-ID` resumes.

More of it in words: [the hub](hub.md#http).

| request | role | what |
| --- | --- | --- |
"""


def rest() -> str:
    """Return the page."""
    described = openapi()
    operations = list(_operations(described))
    rows = [
        f"| [`{method} {path}`](#{one['operationId'].lower()}) | {one['x-role'] or 'anybody'} | {one['summary']} |"
        for path, method, one in operations
    ]
    parts = [_HEAD + "\n".join(rows) + "\n"]
    for group, members in groupby(operations, key=lambda operation: _group(operation[0])):
        parts.append(f"## About {group}\n")
        parts += [_operation(path, method, one) for path, method, one in members]
    parts.append("## Types\n")
    parts += [
        f"### Type {title(name)}\n\n{_described(schema)}\n"
        for name, schema in sorted(described["components"]["schemas"].items())
    ]
    return "\n".join(parts)


def openapi() -> Json:
    """Return the OpenAPI document of a hub that has everything; nothing of it is started, no database is asked."""
    nobody = cast("Pool", None)
    hub = assembled(Settings(fleet="home", database=Database(url="postgresql://nowhere")), nobody, nobody)
    return document(hub.routes, "")


def _operations(described: Json) -> Iterator[tuple[str, str, Json]]:
    paths = cast("dict[str, dict[str, Json]]", described["paths"])
    for path, methods in sorted(paths.items(), key=lambda item: (_group(item[0]), item[0])):
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _group(path: str) -> str:
    """Return the first word behind the version: what the path is about."""
    return path.removeprefix("/api/v1/").split("/")[0] if path.startswith("/api/") else "the process"


def _operation(path: str, method: str, one: Json) -> str:
    lines = [f"### {one['operationId']}", "", f"`{method} {path}`: {one['summary']} Role: {one['x-role'] or 'none'}."]
    parameters = [each for each in one.get("parameters", []) if each["in"] == "query"]
    if parameters:
        lines += ["", "| query | type | meaning |", "| --- | --- | --- |"]
        lines += [
            f"| `{each['name']}` | {words(each['schema']).replace('|', chr(92) + '|')} | {each['description']} |"
            for each in parameters
        ]
    if (body := one.get("requestBody")) is not None:
        lines += ["", f"Takes {_content(body['content'])}."]
    lines += ["", _answers(one["responses"])]
    return "\n".join([*lines, ""])


def _content(content: Json) -> str:
    media, what = next(iter(content.items()))
    if media == "text/event-stream":
        return f"server-sent events: {', '.join(_event(one) for one in what['schema'].get('oneOf', [what['schema']]))}"
    shown = words(what["schema"])
    return shown if media == "application/json" else f"{shown} as `{media}`"


def _event(schema: Json) -> str:
    named, data = schema["properties"]["event"], schema["properties"]["data"]["contentSchema"]
    name = f"`{named['const']}`" if "const" in named else "each by its kind"
    return f"{name} with {words(data)}"


def _answers(responses: Json) -> str:
    status = next(code for code in responses if code.startswith("2"))
    good = responses[status]
    said = f"Answers {status}" + (f" with {_content(good['content'])}" if "content" in good else "")
    problems = [code for code in responses if code not in {status, "204", "304"}]
    versioned = ", or 304 to an `If-None-Match`" if "304" in responses else ""
    ended = ", or 204 where all of it was sent" if "204" in responses and status != "204" else ""
    return f"{said}{versioned}{ended}." + (f" Problems: {', '.join(problems)}." if problems else "")


def _described(schema: Json) -> str:
    about = documented(schema)
    if schema.get("properties"):
        return f"{about}\n\n{fields(schema, {})}".strip()
    return f"{about} {words(schema)}.".strip()
