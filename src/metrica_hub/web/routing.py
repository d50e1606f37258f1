"""A route as a value: the aiohttp routes, the table of who may what, and the OpenAPI document are made of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from metrica_hub.decisions.access import Role

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Method = Literal["GET", "POST", "DELETE"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """What may stand in the query."""

    name: str
    about: str
    kind: Any = str
    """A type that msgspec knows."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One kind of server-sent event."""

    name: str | None
    """Its ``event``; ``None``: what it tells says which."""
    data: Any
    """The type of its data, which are JSON."""
    has_id: bool = True
    """Whether it is a place to come back to."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path."""

    method: Method
    path: str
    name: str
    """Its operation id."""
    handler: Handler
    about: str
    role: Role | None = "viewer"
    """What one must be; ``None``: anybody, and nobody is asked."""
    query: tuple[Parameter, ...] = ()
    takes: Any = None
    """The type of the body, as ``bodies.body_of`` reads it."""
    takes_as: str = "application/json"
    answers: Any = None
    """The type of what is answered; ``None``: nothing that has one."""
    answers_as: str = "application/json"
    sends: tuple[Sent, ...] = ()
    """The server-sent events that it answers with, in the place of ``answers``."""
    status: int = 200
    """Of an answer that is none of the problems."""
    problems: tuple[int, ...] = ()
    """Which it has beside those that its role, its path and its body bring."""
    versioned: bool = False
    """Whether it knows ``If-None-Match``."""
    ends: bool = False
    """Whether it is a stream that ends: who has all of it and comes back is answered 204."""
    unnoted: bool = False
    """Whether a POST changes nothing, so that the trail need not have it."""
    shown_once: bool = False
    """Whether what it answers is a secret, to be kept nowhere."""

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"
