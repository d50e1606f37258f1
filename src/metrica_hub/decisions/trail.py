"""The trail of who did what, as a chain: each entry's seal covers its content and the seal before it.

So an entry that is changed, left out or put in between makes every seal from there on wrong. What was cut off at the
end leaves no gap: that is found by whoever kept an older seal, which is why each is told in the hub's log as well.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from metrica_hub.decisions.access import Role, Via

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST: Final = bytes(32)
"""What stands for the seal before the first."""


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody does, before it is written down."""

    actor: str
    role: Role
    via: Via
    token: int | None
    remote: str
    """The address that it came from; empty at the hub's own command line."""
    action: str
    """A slug, such as ``token.create``."""
    subject: str
    """On what, such as ``token/7``."""
    detail: str
    """A JSON object, as ``detail_of`` writes it."""
    request_id: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A deed in its place in the chain."""

    number: int
    at: datetime
    deed: Deed
    seal: bytes


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the chain: nothing up to there can be changed without changing ``value``."""

    number: int
    value: bytes


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain does not hold."""

    number: int
    """The first entry that is not what was written, or that is missing."""
    why: str


BEGINNING: Final = Seal(number=0, value=FIRST)

_ENCODER: Final = msgspec.json.Encoder()


def detail_of(facts: Mapping[str, Any]) -> str:
    """Return ``facts`` as one text: the same for the same facts."""
    return msgspec.json.encode(facts, order="sorted").decode()


def sealed(before: Seal, at: datetime, deed: Deed) -> Entry:
    """Return ``deed`` as the entry behind ``before``."""
    number = before.number + 1
    return Entry(number=number, at=at, deed=deed, seal=_seal(before.value, number, at, deed))


def verified(entries: Iterable[Entry], begin: Seal = BEGINNING) -> Seal | Broken:
    """Return the last seal of a chain that holds, or where it does not.

    ``entries`` are those behind ``begin`` in the order of their numbers, or the first of them: a long chain is
    verified part by part.
    """
    last = begin
    for entry in entries:
        if entry.number != last.number + 1:
            return Broken(number=last.number + 1, why=f"it is missing: {entry.number} comes after {last.number}")
        if entry.seal != _seal(last.value, entry.number, entry.at, entry.deed):
            return Broken(number=entry.number, why="it, or the seal before it, is not what was written")
        last = Seal(number=entry.number, value=entry.seal)
    return last


def _seal(before: bytes, number: int, at: datetime, deed: Deed) -> bytes:
    content = _ENCODER.encode([number, at, *msgspec.structs.astuple(deed)])
    return hashlib.sha256(before + content).digest()
