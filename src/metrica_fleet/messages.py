"""Messages about what is: those that replace what was said before are retained, so a newcomer sees them at once."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from metrica_fleet.identity import Commit, DeviceName, Digest, Name, RoleName, Slug, Stream
from metrica_fleet.records import Count, Instant, Prev, Record, Seq, Vitals
from metrica_fleet.signed import Signed
from metrica_fleet.stop import Level


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device is connected. Published by itself on each connect and clean end, by its last will otherwise.

    ``connection`` counts the connections of this device for ever; the larger one is the later one, so a last will of
    an older connection that arrives late is history (PEERS.md O8).
    """

    device: DeviceName
    """Its own id, as in the topic."""
    state: Literal["online", "offline"]
    """Whether it is connected."""
    reason: Slug
    """``connected``, ``shutdown`` or ``connection-lost``."""
    boot_id: str
    """The kernel's boot id."""
    connection: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """Counts the connections of this device for ever."""
    agent_version: str
    """Of the agent that said it."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a commit will not be tried (again)."""

    commit: Commit
    """Which."""
    reason: Slug
    """A stable word for programs."""
    message: str
    """A sentence for people."""


class StopStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How an emergency stop stands on a device that has heard of one."""

    number: Prev
    """Of the newest order that it knows; 0: of none, only of a ``STOP`` in Git."""
    level: Level | None
    """How far it is stopped; ``None``: it is free, no stop that is in force concerns it."""
    source: Literal["order", "git"] | None = None
    """By which of the two."""
    done: bool = True
    """Whether all is done that the stop asks for: nothing is in motion any more."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole current state of a device, readable with ``mosquitto_sub``.

    Said on each connection, when it changed, and every ten minutes; while the hub lacks records, at each heartbeat.
    """

    device: DeviceName
    """Its own id, as in the topic."""
    role: RoleName | None
    """Its role, by the fleet repository; ``None`` before the first commit."""
    tags: tuple[Name, ...] = ()
    """Its tags, by the fleet repository."""
    mode: Slug
    """What the device is doing as a whole."""
    commit: Commit | None
    """The confirmed commit."""
    release: Digest | None
    """The confirmed release."""
    wanted_commit: Commit | None
    """The commit that the device is to run."""
    phase: Slug | None
    """How far ``wanted_commit`` has come."""
    reason: Slug | None = None
    """Why the device is not where it should be; ``None`` when it is."""
    message: str = ""
    """The reason, as a sentence for people."""
    refused: Refusal | None = None
    """The last commit that was refused, until a later one is confirmed."""
    stop: StopStanding | None = None
    """``None`` until anything was stopped."""
    at: Instant | None
    """By its wall clock; ``None`` while that is not synchronised."""
    boot_id: str
    """The kernel's boot id."""
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    """Since the boot."""
    agent_version: str
    """Of the agent that said it."""
    wanted_agent: str | None = None
    """The version that the wanted commit names; ``None``: it names none."""
    agent_reason: Slug | None = None
    """Why another version runs, as a stable word; ``None``: the wanted one does."""
    agent_message: str = ""
    """The same, as a sentence for people."""
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Something of this device is heard at least so often; ``None`` from an agent that does not say."""
    stream: Stream
    """The stream that it says records in now."""
    last_seq: Prev
    """The number of the last record of that stream."""
    vitals: Vitals
    """What the machine is like."""


MOST_SERVICES: Final = 50
"""So many are told of a device: with the longest names there are still fit a message."""
SERVICE_CHARACTERS: Final = 128
"""Of a service's name so many are told."""
IMAGE_CHARACTERS: Final = 256
"""And of its image's."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service of a device as its container engine tells it; of several containers the one that is worst off."""

    name: Annotated[str, msgspec.Meta(max_length=SERVICE_CHARACTERS)]
    """As in the role's compose.yaml."""
    state: Slug
    """Docker's word, such as ``running``, ``restarting`` or ``exited``; or ``done``: it was to end, and ended well;
    ``resting``: stopped to spare the machine; ``missing``: it has no container."""
    health: Slug | None = None
    """By its own health check: ``healthy``, ``unhealthy`` or ``starting``; ``None``: it has none, or does not run."""
    exit_code: Annotated[int, msgspec.Meta(ge=-(2**53) + 1, lt=2**53)] | None = None
    """Of one that ended."""
    restarts: Count = 0
    """How often the engine has started it again, of all its containers the most."""
    containers: Count = 1
    """How many there are."""
    image: Annotated[str, msgspec.Meta(max_length=IMAGE_CHARACTERS)] = ""
    """Its name, with the digest where compose.yaml has one."""
    image_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """How the id of what runs begins, as ``docker images`` shows it."""
    since: Instant | None = None
    """When it last started, or ended, by the machine's clock; ``None``: it never did, or that is not known."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on a device: said when it changes: 30 times at once, then once in two minutes at most."""

    device: DeviceName
    """Its own id, as in the topic."""
    at: Instant | None
    """By its wall clock; ``None`` while that is not synchronised."""
    boot_id: str
    """The kernel's boot id."""
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    """Since the boot."""
    engine_answers: bool = True
    """Whether the container engine does; if not, they are as it told last."""
    services: Annotated[tuple[Service, ...], msgspec.Meta(max_length=MOST_SERVICES)]
    """By name."""
    untold: Count = 0
    """How many more there are."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's watermarks for a device: up to here each stream is committed in Postgres without a gap."""

    streams: dict[Stream, Prev]
    """Of each stream the highest number up to which all is stored."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The branch's commit as the hub sees it: a nudge to look, never a source of truth."""

    branch: str
    """Its name."""
    commit: Commit
    """What it points at."""
    number: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """Rises with each change."""
    signed: Annotated[str, msgspec.Meta(max_length=16384)] | None = None
    """The same as a signed text (Vouched), for how long it may be believed; ``None`` from a hub that can't sign."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a command; one that has much to say answers in parts."""

    number: Seq
    """Of the command."""
    state: Literal["running", "done", "failed", "refused"]
    """How far it came."""
    reason: Slug | None = None
    """Why not."""
    message: str = ""
    """A sentence for people."""
    part: Prev = 0
    """Which part of the answer this is, from 0; of the last word, how many there were."""
    lines: tuple[str, ...] = ()
    """Of a log."""
    data: bytes = b""
    """Of a file."""


Message = Presence | Status | Services | Record | Stored | Head | Answer | Signed
