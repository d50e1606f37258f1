"""Query parameters: opaque, versioned cursors, limits, names. What can't be understood is said, not guessed."""

from __future__ import annotations

import base64
import binascii
import difflib
from typing import TYPE_CHECKING, Final

from metrica_fleet.identity import is_name
from metrica_hub.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_MAX_CURSOR: Final = 2**63 - 1
_VERSION: Final = "1"


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
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(_MAX_CURSOR)) or int(text) > _MAX_CURSOR:
        raise _bad_cursor()
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


def only(request: web.Request, known: Sequence[str]) -> None:
    """Refuse parameters that would have no effect.

    Raises:
        BadRequest: with the nearest known one.
    """
    for name in request.query:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(known) or 'none'}"
            raise BadRequest(f'unknown parameter "{name[:40]}"; {hint}', parameter=name[:40])


def _bad_cursor() -> BadRequest:
    return BadRequest('this cursor is not one that this list gave out; begin without "after"', parameter="after")
