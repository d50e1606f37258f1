"""What the agent asks of the child that opens secrets, and what that answers: one value each way, no plain text."""

from __future__ import annotations

import msgspec


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """One age file."""

    name: str
    path: str
    """What messages call it."""
    data: bytes


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Open ``secrets``; write those that ``wanted`` names into ``folder``."""

    identity: str
    """The file with the device's key."""
    device: str
    secrets: tuple[Sealed, ...]
    folder: str
    wanted: tuple[str, ...]
    """Keyed digests."""


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All were opened."""

    digests: dict[str, str]
    """Name → keyed digest, under the newest key."""
    written: frozenset[str]
    recipient: str
    """The public half of the newest key."""


class UnusableAnswer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It will never work."""

    reason: str
    message: str


class NotNowAnswer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something is in the way."""

    reason: str
    message: str


Answer = Opened | UnusableAnswer | NotNowAnswer
