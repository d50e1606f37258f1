"""Messages that replace what was said before: all are retained by the broker, so a newcomer sees them at once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from metrica_fleet.identity import Commit, DeviceName, Digest, Name, RoleName, Slug, Stream
from metrica_fleet.records import Instant, Prev, Record, Vitals


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is connected. Published by itself on each connect and clean end, by its last will otherwise.

    ``connection`` counts the connections of this device for ever; the larger one is the later one, so a last will of
    an older connection that arrives late is history (PEERS.md O8).
    """

    device: DeviceName
    state: Literal["online", "offline"]
    reason: Slug
    boot_id: str
    connection: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    agent_version: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a commit will not be tried (again)."""

    commit: Commit
    reason: Slug
    message: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole current state of a device, readable with ``mosquitto_sub``."""

    device: DeviceName
    role: RoleName | None
    tags: tuple[Name, ...] = ()
    mode: Slug
    commit: Commit | None
    """The confirmed commit."""
    release: Digest | None
    """The confirmed release."""
    wanted_commit: Commit | None
    phase: Slug | None
    """How far ``wanted_commit`` has come."""
    reason: Slug | None = None
    """Why the device is not where it should be; ``None`` when it is."""
    message: str = ""
    refused: Refusal | None = None
    """The last commit that was refused, until a later one is confirmed."""
    at: Instant | None
    boot_id: str
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    agent_version: str
    stream: Stream
    last_seq: Prev
    vitals: Vitals


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's watermarks for a device: up to here each stream is committed in Postgres without a gap."""

    streams: dict[Stream, Prev]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The branch's commit as the hub sees it: a nudge to look, never a source of truth."""

    branch: str
    commit: Commit
    number: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


Message = Presence | Status | Record | Stored | Head
