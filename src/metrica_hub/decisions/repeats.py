"""Requests that come again because their answer was lost: done once, answered alike (``Idempotency-Key``)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

KEY: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request that came before."""

    fingerprint: bytes
    status: int | None
    """``None``: nobody knows yet what came of it."""
    location: str | None
    body: bytes | None


def digest_of(who: int, path: str, key: str) -> bytes:
    """Return under what a request is kept: a key is its sender's own, and of one path."""
    return hashlib.sha256(f"{who}\n{path}\n{key}".encode()).digest()


def fingerprint_of(query: str, body: bytes) -> bytes:
    """Return by what it is seen that a key is used for another request."""
    return hashlib.sha256(query.encode("utf-8", "surrogateescape") + b"\n" + body).digest()
