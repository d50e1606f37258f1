"""Query parameters: opaque, versioned cursors, limits, names. What can't be understood is said, not guessed."""

from __future__ import annotations

import base64
import binascii
import difflib
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec

from metrica_fleet.identity import is_name
from metrica_hub.errors import BadRequest
from metrica_hub.web.routing import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

T = TypeVar("T")

NEWEST: Final = 2**63 - 1
"""Where a list begins that is told newest first: behind everything."""
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_MAX_CURSOR: Final = NEWEST
_VERSION: Final = "1"

LIMIT: Final = Parameter("limit", "how many at most; 100 by default", Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)])
AFTER: Final = Parameter("after", "the cursor of the part before, its next", str)


def to_cursor(kind: str, value: str | int) -> str:
    """Return an opaque cursor; ``kind`` keeps one list's cursor from being read in another."""
    return base64.urlsafe_b64encode(f"{_VERSION}:{kind}:{value}".encode()).decode().rstrip("=")


def from_cursor(kind: str, cursor: str) -> str:
    """Return what ``to_cursor`` was given.

    Raises:
        BadRequest: it is not one of ours, or of another list.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError) as error:
        raise _bad_cursor() from error
    version, _, rest = text.partition(":")
    found, _, value = rest.partition(":")
    if (version, found) != (_VERSION, kind):
        raise _bad_cursor()
    return value


def number(text: str) -> int:
    """Return the number that a cursor holds.

    Raises:
        BadRequest: it is none.
    """
    found = whole_number(text)
    if found is None:
        raise _bad_cursor()
    return found


def start_of(request: web.Request, kind: str, beginning: int) -> int:
    """Return the number behind which a list goes on; ``beginning`` where no cursor is given.

    Raises:
        BadRequest: the cursor is not one of this list.
    """
    if "after" not in request.query:
        return beginning
    return number(from_cursor(kind, request.query["after"]))


def device_start_of(request: web.Request, kind: str) -> str:
    """Return the device behind which a list of devices goes on; empty where no cursor is given.

    Raises:
        BadRequest: the cursor is not one of this list, or names no device.
    """
    if "after" not in request.query:
        return ""
    after = from_cursor(kind, request.query["after"])
    if not is_name(after):
        raise BadRequest("this cursor names no device", parameter="after")
    return after


def part_of(kind: str, found: Sequence[T], limit: int, place: Callable[[T], str | int]) -> tuple[list[T], str | None]:
    """Return a part of a list, and the cursor of the one behind it; ``found``: one more than ``limit``, if there is."""
    return list(found[:limit]), to_cursor(kind, place(found[limit - 1])) if len(found) > limit else None


def whole_number(text: str) -> int | None:
    """Return the number that ``text`` is, if it is one that the database could hold."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(_MAX_CURSOR)) or int(text) > _MAX_CURSOR:
        return None
    return int(text)


def limit_of(request: web.Request) -> int:
    """Return the number of items asked for.

    Raises:
        BadRequest: no whole number between 1 and ``MAX_LIMIT``.
    """
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f'limit "{text[:40]}" is no whole number from 1 to {MAX_LIMIT}', parameter="limit")
    return limit


def device_of(request: web.Request) -> str:
    """Return the device named in the path.

    Raises:
        BadRequest: it can't be a device's name.
    """
    name = request.match_info["device"]
    if not is_name(name):
        raise BadRequest(
            f'"{name[:80]}" can\'t be a device; names have 1 to 63 of a-z, 0-9 and "-"', parameter="device"
        )
    return name


def id_of(request: web.Request) -> int:
    """Return the number in the path.

    Raises:
        BadRequest: it is none, or 0.
    """
    text = request.match_info["id"]
    found = whole_number(text)
    if not found:
        raise BadRequest(f'"{text[:40]}" is no number of anything here', parameter="id")
    return found


def text_of(request: web.Request, name: str, most: int = 200) -> str | None:
    """Return the text of a parameter, if it is given.

    Raises:
        BadRequest: it is empty, too long, or holds what the database can't.
    """
    text = request.query.get(name)
    if text is not None and (not 1 <= len(text) <= most or "\0" in text):
        raise BadRequest(f"{name} has to be 1 to {most} characters", parameter=name)
    return text


def only(request: web.Request, known: Sequence[str]) -> None:
    """Refuse parameters that would have no effect.

    Raises:
        BadRequest: with the nearest known one; or one is given twice.
    """
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise BadRequest(f'"{name[:40]}" is given more than once', parameter=name[:40])
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(known) or 'none'}"
            raise BadRequest(f'unknown parameter "{name[:40]}"; {hint}', parameter=name[:40])


def _bad_cursor() -> BadRequest:
    return BadRequest('this cursor is not one that this list gave out; begin without "after"', parameter="after")
