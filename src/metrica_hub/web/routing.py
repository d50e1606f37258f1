"""A route as a value: the aiohttp routes are made from a table of them, the OpenAPI document will be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path."""

    method: Literal["GET"]
    path: str
    name: str
    """Its operation id."""
    handler: Handler
    about: str
