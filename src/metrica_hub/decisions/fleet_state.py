"""The values that the hub holds and shows: rows of the store as the API, the page and the metrics see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from metrica_fleet.identity import DeviceId, StreamId
from metrica_fleet.messages import Service
from metrica_fleet.records import Scalar, Vitals
from metrica_hub.decisions.lamp import Lamp

Connection = Literal["online", "offline", "flapping", "never-seen"]

StreamKey = tuple[DeviceId, StreamId]
"""A stream belongs to a device: another device's numbers mean nothing here."""

MODES = ("steady", "trial", "rolling-back", "held", "degraded", "safe", "halted")
CONNECTIONS: tuple[Connection, ...] = ("online", "offline", "flapping", "never-seen")

REASONS = (
    "crash-loop",
    "ordered",
    "stopped",
    "unwell",
    "stale",
    "disk-low",
    "disk-critical",
    "heat-warm",
    "heat-hot",
    "heat-critical",
    "supply-weak",
    "memory-pressed",
    "memory-short",
    "gate-closed",
    "in-progress",
    "no-commit",
)
"""Why a device is not where it should be, as far as each is counted by itself; all other reasons are counted as one."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The last commit that a device refused."""

    commit: str
    reason: str | None
    message: str


class Claimant(msgspec.Struct, frozen=True, kw_only=True):
    """One of several machines that go by one name."""

    boot_id: str
    connection: int
    """The number of its last connection."""
    agent_version: str
    last_heard_at: datetime


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device now. ``None`` is unknown."""

    device: str
    connection: Connection
    connection_reason: str | None
    connection_at: datetime | None
    flapping_since: datetime | None
    claimed_since: datetime | None
    claimants: tuple[Claimant, ...]
    """Where several machines go by this name: all of them, the last heard first."""
    role: str | None
    tags: tuple[str, ...]
    mode: str | None
    commit: str | None
    release: str | None
    wanted_commit: str | None
    phase: str | None
    reason: str | None
    message: str
    refused: Refused | None
    agent_version: str | None
    boot_id: str | None
    uptime_s: float | None
    vitals: Vitals
    status_at: datetime | None
    first_seen_at: datetime
    last_seen_at: datetime | None
    heartbeat_s: float | None
    """How often the device said that it would be heard."""
    stop_number: int | None = None
    """The newest stop order that it knows; ``None``: it never heard of any."""
    stop_level: str | None = None
    """How far it is stopped now; ``None``: not at all."""
    stop_source: str | None = None
    """By which: order or git."""
    stop_done: bool | None = None
    """Whether all is done that the stop asks for."""
    wanted_agent: str | None = None
    """The version of the agent that its wanted commit names; ``None``: it names none."""
    agent_reason: str | None = None
    """Why another version runs; ``None``: the wanted one does."""
    agent_message: str = ""
    change: Annotated[int, msgspec.Meta(ge=0)]
    """Rises with every change of this row, over all devices; a cursor and a version in one."""
    last_heard_ago_s: float | msgspec.UnsetType = msgspec.UNSET
    """When it was asked for; what is pushed as it changes has no age."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on a device, as it said last."""

    services: tuple[Service, ...]
    services_at: datetime
    """When it said so, by the hub's clock."""
    services_untold: int
    """How many more there are."""
    engine_answers: bool
    """Whether its container engine does; if not, they are as it told last."""


class DeviceWhole(DeviceState, frozen=True, kw_only=True):
    """What is known of a device now, what runs on it, and whether Prometheus reaches it. ``None`` is unknown."""

    services: tuple[Service, ...] | None = None
    """By name; ``None``: it never said, as an agent of before does not."""
    services_at: datetime | None = None
    """When it said so, by the hub's clock: it does when they change."""
    services_untold: int = 0
    """How many more there are than are told."""
    engine_answers: bool | None = None
    """Whether its container engine does; if not, they are as it told last."""
    prometheus: Lamp | None = None
    """Whether Prometheus reaches its Netdata; ``None``: this hub asks no Prometheus."""


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it was stored."""

    cursor: Annotated[int, msgspec.Meta(ge=1)]
    device: str
    stream: str
    seq: int
    received_at: datetime
    at: datetime | None
    uptime_s: float
    boot_id: str
    kind: str
    reason: str | None
    message: str
    commit: str | None
    release: str | None
    detail: dict[str, Scalar]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices are wanted: those to which all of it applies. ``None`` applies to all."""

    role: str | None = None
    tag: str | None = None
    mode: str | None = None
    release: str | None = None
    """How its confirmed release, or the commit of it, begins."""
    offline: bool | None = None
    text: str | None = None
    """A part of its name, of its role, or of one of its tags."""


ALL = Selection()


def selects(wanted: Selection, device: DeviceState) -> bool:
    """Whether ``device`` is among the ``wanted`` ones."""
    begins = wanted.release or ""
    words = (device.device, device.role or "", *device.tags)
    return (
        wanted.role in {None, device.role}
        and (wanted.tag is None or wanted.tag in device.tags)
        and wanted.mode in {None, device.mode}
        and (wanted.release is None or any((one or "").startswith(begins) for one in (device.release, device.commit)))
        and (wanted.offline is None or wanted.offline == (device.connection in {"offline", "never-seen"}))
        and (wanted.text is None or any(wanted.text in word for word in words))
    )


class VitalsPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a device was like in a while: its mean load, the least room, the greatest heat. ``None`` is unknown."""

    at: datetime
    """When the while begins."""
    heartbeats: int
    load_1m: float | None
    memory_available_bytes: int | None
    disk_free_bytes: int | None
    temperature_celsius: float | None
    throttled: bool | None


def connection_of(
    presence: str | None, last_seen_at: datetime | None, hearing: str | None, flapping_since: datetime | None
) -> Connection:
    """Return the connection to show: damped where it flaps, else by what is heard, else by the last word."""
    if flapping_since is not None:
        return "flapping"
    match hearing or presence:
        case "online" | "heard":
            return "online"
        case None if last_seen_at is None:
            return "never-seen"
        case _:
            return "offline"


def urgency(device: DeviceState) -> tuple[int, str]:
    """Return a key that sorts devices with problems first, then by name. What passes by itself keeps its place."""
    if device.mode in {"halted", "safe"} or device.phase == "refused":
        rank = 0
    elif device.mode in {"rolling-back", "degraded", "held"} or device.claimants:
        rank = 1
    elif device.connection != "online":
        rank = 2
    else:
        rank = 3
    return rank, device.device
