"""Who may do what: roles in their order, what a token looks like, and what is kept of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import datetime
from typing import Annotated, Final, Literal, get_args

import msgspec

Role = Literal["viewer", "operator", "admin"]
"""Each may do what those before it may."""
Via = Literal["token", "session", "anonymous", "command-line", "enrolment", "certificate"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
SECRET_BYTES: Final = 32
LONGEST_DAYS: Final = 3660

_PREFIX: Final = "mtr_"
_TOKEN: Final = re.compile(r"mtr_[A-Za-z0-9_-]{43}")
_CSRF: Final = b"metrica csrf"
_PATH: Final = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)

_NAME: Final = r"^[a-z0-9]([a-z0-9._@-]{0,61}[a-z0-9])?$(?!\n)"
TokenName = Annotated[str, msgspec.Meta(pattern=_NAME, max_length=63)]
Days = Annotated[int, msgspec.Meta(ge=1, le=LONGEST_DAYS)]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a token; not its text."""

    id: int
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the hour."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    name: str
    role: Role
    via: Via
    token: int | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a secret stands for; one that is not good any more stands for nobody, but was given out."""

    token: int
    name: str
    role: Role
    is_good: bool


ANONYMOUS: Final = Principal(name="anonymous", role="viewer", via="anonymous")


def reaches(role: Role, wanted: Role) -> bool:
    """Whether ``role`` may do what ``wanted`` may."""
    return ROLES.index(role) >= ROLES.index(wanted)


def token_of(secret: bytes) -> str:
    """Return the text of a token with this chance in it."""
    return _PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def is_token(text: str) -> bool:
    """Whether ``text`` can be a token at all."""
    return _TOKEN.fullmatch(text) is not None


def is_token_name(text: str) -> bool:
    """Whether a token may be called so."""
    return re.search(_NAME, text) is not None


def digest_of(text: str) -> bytes:
    """Return what is kept of a token or a session. It has 256 bits of chance: a slow hash would add nothing."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def csrf_of(session: str) -> str:
    """Return what the forms of ``session`` carry: made from its secret, which no other site can read."""
    made = hmac.digest(session.encode("utf-8", "surrogateescape"), _CSRF, "sha256")
    return base64.urlsafe_b64encode(made).decode().rstrip("=")


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def way_back(asked: str) -> str:
    """Return where to go after signing in: a path of this hub, whatever was asked."""
    return asked if _PATH.fullmatch(asked) else "/"


def is_loopback(host: str) -> bool:
    """Whether a browser that asks ``host`` (a Host header) asks its own machine, where plain http can be trusted."""
    return _LOOPBACK.fullmatch(host) is not None
