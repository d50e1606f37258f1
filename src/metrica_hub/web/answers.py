"""Answers: JSON, pages of a list, one resource with its version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec
from aiohttp import ETag, web

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_ENCODER: Final = msgspec.json.Encoder()


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list; ``next`` is the cursor of the part behind it."""

    items: list[T]
    next: str | None


def json_text(value: object) -> str:
    """Return ``value`` as JSON."""
    return _ENCODER.encode(value).decode()


def json(value: object, status: int = 200) -> web.Response:
    """Return ``value`` as the answer."""
    response = web.Response(status=status, body=_ENCODER.encode(value), headers={"Cache-Control": "no-cache"})
    response.content_type = "application/json"
    response.charset = "utf-8"
    response.enable_compression()
    return response


def created(where: str, value: object, status: int = 201) -> web.Response:
    """Return what was made (202: is being made), and where it is from now on."""
    response = json(value, status)
    response.headers["Location"] = where
    return response


def page(request: web.Request, items: Sequence[T], following: str | None) -> web.Response:
    """Return a part of a list, with a link to the part behind it."""
    response = json(Page(list(items), following))
    if following is not None:
        url = request.rel_url.update_query(after=following)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return response


def versioned(request: web.Request, value: object, version: str) -> web.Response:
    """Return one resource, or 304 when the client has this version of it."""
    known = request.if_none_match or ()
    unchanged = any(tag.value in {version, "*"} for tag in known)
    response = web.Response(status=304) if unchanged else json(value)
    response.etag = ETag(version, is_weak=True)  # an age in it may be another one
    return response
