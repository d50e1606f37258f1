"""The values that the hub holds and shows: rows of the store as the API, the page and the metrics see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from metrica_fleet.identity import DeviceId, StreamId
from metrica_fleet.records import Scalar, Vitals

Connection = Literal["online", "offline", "never-seen"]

StreamKey = tuple[DeviceId, StreamId]
"""A stream belongs to a device: another device's numbers mean nothing here."""

MODES = ("steady", "trial", "rolling-back", "held", "degraded", "safe", "halted")
CONNECTIONS: tuple[Connection, ...] = ("online", "offline", "never-seen")


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The last commit that a device refused."""

    commit: str
    reason: str | None
    message: str


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device now. ``None`` is unknown."""

    device: str
    connection: Connection
    connection_reason: str | None
    connection_at: datetime | None
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
    change: Annotated[int, msgspec.Meta(ge=0)]
    """Rises with every change of this row, over all devices; a cursor and a version in one."""


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


def connection_of(presence: str | None, last_seen_at: datetime | None) -> Connection:
    """Return the connection to show: the presence where one was told, else by whether anything was ever heard."""
    match presence:
        case "online":
            return "online"
        case None if last_seen_at is None:
            return "never-seen"
        case _:
            return "offline"


def urgency(device: DeviceState) -> tuple[int, str]:
    """Return a key that sorts devices with problems first, then by name. What passes by itself keeps its place."""
    if device.mode in {"halted", "safe"} or device.phase == "refused":
        rank = 0
    elif device.mode in {"rolling-back", "degraded", "held"}:
        rank = 1
    elif device.connection != "online":
        rank = 2
    else:
        rank = 3
    return rank, device.device
