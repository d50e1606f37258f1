"""``/api/v1/openapi.json``: the API as an OpenAPI 3.1 document, made from the route table and the types."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from metrica_fleet.identity import DeviceName
from metrica_hub.web.answers import json
from metrica_hub.web.problem import REQUEST_ID, Problem
from metrica_hub.web.repeats import HEADER
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiohttp import web

    from metrica_hub.web.routing import Sent

Json = dict[str, Any]

Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
IN_PATHS: Final[dict[str, Any]] = {"device": DeviceName, "id": Number, "rollout": Number}
"""What stands between braces in a path."""
ABOUT_STATUS: Final = {
    400: "The request can't be understood.",
    401: "No token, or none that is good.",
    403: "It takes another role.",
    404: "There is no such thing.",
    408: "The body does not come.",
    409: "What is there does not allow it.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    422: "The body is not of the kind that is asked for.",
    429: "Too many wrong tokens came from this address, or too many requests are under way at once.",
    503: "The database can't be asked now.",
}

_REF: Final = "#/components/schemas/{name}"
_IN_BRACES: Final = re.compile(r"\{(\w+)\}")
_SECURITY: Final[list[dict[str, list[str]]]] = [{"token": []}, {"session": []}]


class OpenApi:
    """The resource."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._document: Json = {}

    def describe(self, routes: Iterable[Route]) -> None:
        """Make the document of ``routes``, once they are all known."""
        self._document = document(list(routes), self._version)

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "This document."
        return (Route("GET", "/api/v1/openapi.json", "getOpenApi", self.get, about, role=None, answers=dict[str, Any]),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the document."""
        del request
        return json(self._document)


def document(routes: Sequence[Route], version: str) -> Json:
    """Return the document of those of ``routes`` that are for programs."""
    shown = [route for route in routes if is_for_programs(route)]
    kinds = _Kinds(shown)
    paths: dict[str, Json] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, kinds)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Metrica Fleet",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Lists have cursors, errors are problem+json, x-role is the least role that may."
            " Of text/event-stream the schema is that of each event, an object of its fields.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": kinds.components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "mtr_…, as metrica-hub token makes it"},
                "session": {"type": "apiKey", "in": "cookie", "name": "__Host-metrica"},
            },
        },
    }


def is_for_programs(route: Route) -> bool:
    """Whether ``route`` is part of the API: not of the pages, which may be as they please."""
    return route.path.startswith("/api/") or route.path in {"/healthz", "/readyz", "/metrics"}


class _Kinds:
    """The schemas of all types that the routes name; one component for each Struct."""

    def __init__(self, routes: Iterable[Route]) -> None:
        kinds: list[Any] = [Problem]
        for route in routes:
            kinds += [one.kind for one in route.query]
            kinds += [IN_PATHS[name] for name in _IN_BRACES.findall(route.path)]
            kinds += [kind for kind in (route.takes, route.answers) if kind is not None]
            kinds += [one.data for one in route.sends]
        schemas, self.components = msgspec.json.schema_components(kinds, ref_template=_REF)
        self._schemas = list(zip(kinds, schemas, strict=True))

    def of(self, kind: Any) -> Json:  # noqa: ANN401 - a type, of any form
        """Return the schema of ``kind``."""
        return next(schema for one, schema in self._schemas if one is kind)


def _operation(route: Route, kinds: _Kinds) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.about,
        "x-role": route.role,
        "security": [] if route.role is None else _SECURITY,
        "responses": _responses(route, kinds),
    }
    if parameters := _parameters(route, kinds):
        operation["parameters"] = parameters
    if route.takes is not None:
        content = {route.takes_as: {"schema": kinds.of(route.takes)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(route: Route, kinds: _Kinds) -> list[Json]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": kinds.of(IN_PATHS[name])}
        for name in _IN_BRACES.findall(route.path)
    ]
    in_query = [
        {"name": one.name, "in": "query", "description": one.about, "schema": kinds.of(one.kind)} for one in route.query
    ]
    in_header: list[Json] = []
    if route.method == "POST" and route.role is not None:
        schema = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}
        about = "What comes again with the same key within a day is not done again, and answered alike."
        in_header = [{"name": HEADER, "in": "header", "description": about, "schema": schema}]
    return in_path + in_query + in_header


def _responses(route: Route, kinds: _Kinds) -> Json:
    good: Json = {
        "description": HTTPStatus(route.status).phrase,
        "headers": {REQUEST_ID: _header("its id, in the log too")},
    }
    if route.answers is not None:
        good["content"] = {route.answers_as: {"schema": kinds.of(route.answers)}}
    if route.sends:
        good["content"] = {"text/event-stream": {"schema": _one_of([_event(one, kinds) for one in route.sends])}}
    if route.status in {201, 202}:
        good["headers"]["Location"] = _header("where it is")
    responses: Json = {str(route.status): good}
    if route.ends:
        responses["204"] = {"description": "All of it was sent before: a browser comes back no more."}
    if route.versioned:
        responses["304"] = {"description": "The version that If-None-Match names is the one that is there."}
    content = {"application/problem+json": {"schema": kinds.of(Problem)}}
    for status in sorted(statuses(route)):
        responses[str(status)] = {"description": ABOUT_STATUS[status], "content": content}
    return responses


def _event(sent: Sent, kinds: _Kinds) -> Json:
    """Return the schema of an event, as OpenAPI 3.2 has it in ``itemSchema``; 3.1 has no word for it."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": kinds.of(sent.data)}
    return {
        "type": "object",
        "required": ["event", "data", *(["id"] if sent.has_id else [])],
        "properties": {
            "event": {"type": "string"} if sent.name is None else {"const": sent.name},
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "data": data,
        },
    }


def _one_of(schemas: Sequence[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"oneOf": list(schemas)}


def statuses(route: Route) -> set[int]:
    """Return the problems that ``route`` may answer with."""
    found = set(route.problems)
    if route.path != "/healthz":
        found.add(503)
    if route.role is not None:
        found |= {400, 401, 429}
    if route.role not in {None, "viewer"}:
        found.add(403)
    if route.method == "POST":
        found.add(409)
    if "{" in route.path:
        found |= {400, 404}
    if route.takes is not None:
        found |= {400, 408, 413, 415, 422}
    return found


def _header(about: str) -> Json:
    return {"description": about, "schema": {"type": "string"}}
