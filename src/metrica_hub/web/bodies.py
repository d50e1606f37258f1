"""What comes in the body of a request: its media type, its bound, its type."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec
from aiohttp import web

from metrica_hub.errors import BadRequest, Invalid

if TYPE_CHECKING:
    from collections.abc import Collection

T = TypeVar("T")

MAX_BODY: Final = 64 * 1024
BODY_WITHIN_S: Final = 10.0
"""A body of ``MAX_BODY`` at 52 kbit/s. Whoever sends one byte now and then holds a connection no longer."""
FORM: Final = "application/x-www-form-urlencoded"

_AT: Final = re.compile(r" - at `\$(.*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


async def body_of(request: web.Request, kind: type[T]) -> T:
    """Return the body of ``request``, JSON of this kind.

    Raises:
        BadRequest: it is no JSON.
        Invalid: it is JSON of another kind.
        web.HTTPException: 415, it is said to be something else; 413, it is too large; 408, it does not come.
    """
    content = await raw_body_of(request, ("application/json",))
    try:
        return msgspec.convert(_whole(msgspec.json.decode(content)), kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON ({error})", parameter="body") from error


def _whole(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return ``value`` with 1.0 as 1: to JSON they are the same, and to its schemas."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _whole(one) for key, one in cast("dict[str, Any]", value).items()}
        case list():
            return [_whole(one) for one in cast("list[Any]", value)]
        case _:
            return value


async def raw_body_of(request: web.Request, media_types: Collection[str]) -> bytes:
    """Return the bytes of the body.

    Raises:
        web.HTTPException: 415, it is of none of ``media_types``; 413, it is too large; 408, it does not come.
    """
    if request.content_type not in media_types or request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(text=f"The body has to be {' or '.join(media_types)}, and not encoded.")
    return await whole(request)


async def whole(request: web.Request) -> bytes:
    """Return the body, once all of it is there; it is kept for whoever asks again.

    Raises:
        web.HTTPException: 413, it is too large; 408, it does not come within ``BODY_WITHIN_S``.
    """
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"The body did not come within {BODY_WITHIN_S:g} s.") from error


def invalid(error: msgspec.ValidationError) -> Invalid:
    """Return what msgspec found, with a pointer to where."""
    said = str(error)
    found = _AT.search(said)
    steps = _STEP.findall(found[1]) if found else []
    pointer = "".join(f"/{name or index}" for name, index in steps)
    return Invalid(_AT.sub("", said).replace("`", '"'), pointer=pointer)
