"""Rows of ``devices`` -> what is known of each device.

By place and not by name: a hub of a large fleet reads a thousand of them a second, and most of reading one was finding
its columns.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import structs

from metrica_fleet.records import Vitals
from metrica_hub.adapters.store.rows import instant
from metrica_hub.decisions.fleet_state import Claimant, DeviceState, Refused, connection_of
from metrica_hub.decisions.rollout_view import in_ms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

_MADE_OF: Final = (
    "presence",
    "presence_reason",
    "presence_at",
    "hearing",
    "hearing_at",
    "flapping_since",
    "claimed_since",
    "claimants",
    "tags",
    "refused_commit",
    "refused_reason",
    "refused_message",
    "status_at",
    "first_seen_at",
    "last_seen_at",
    "agent_message",
)
"""What ``device_of`` takes apart, in its order."""
_AS_THEY_ARE: Final = (
    "device",
    "role",
    "mode",
    "commit",
    "release",
    "wanted_commit",
    "phase",
    "reason",
    "message",
    "agent_version",
    "boot_id",
    "uptime_s",
    "heartbeat_s",
    "stop_number",
    "stop_level",
    "stop_source",
    "stop_done",
    "wanted_agent",
    "agent_reason",
    "change",
)
"""What the row and the value call the same."""
_VITALS: Final = Vitals.__struct_fields__
_COMMON: Final = ("role", "mode", "commit", "release", "wanted_commit", "phase", "agent_version")
"""Texts that many devices have the same of: each is held once."""
_NOBODY: Final = "[]"
_CLAIMANTS: Final = msgspec.json.Decoder(tuple[Claimant, ...])
_TO: Final = len(_MADE_OF)
_UP_TO: Final = _TO + len(_AS_THEY_ARE)

DEVICE_COLUMNS: Final = ", ".join((*_MADE_OF, *_AS_THEY_ARE, *_VITALS))
"""What to select for ``device_of``."""
_MOVING: Final = ("last_seen_at", "uptime_s", *(name for name in _VITALS if name != "disk_path"))
MOVING_COLUMNS: Final = ", ".join(_MOVING)
"""What to select for ``moved``: what each heartbeat changes."""
REST_COLUMNS: Final = ", ".join(
    # Whether it was ever heard counts, for one that never said more; when, does not.
    ["last_seen_at IS NULL"]
    + [name for name in (*_MADE_OF, *_AS_THEY_ARE, *_VITALS) if name not in {*_MOVING, "device", "change"}]
)
"""All else that ``device_of`` takes."""


def device_of(values: tuple[Any, ...]) -> DeviceState:
    """Return what a row says that has ``DEVICE_COLUMNS``."""
    (
        presence,
        presence_reason,
        presence_at,
        hearing,
        hearing_at,
        flapping_since,
        claimed_since,
        claimants,
        tags,
        refused_commit,
        refused_reason,
        refused_message,
        status_at,
        first_seen_at,
        last_seen_at,
        agent_message,
    ) = values[:_TO]
    as_they_are = _held_once(dict(zip(_AS_THEY_ARE, values[_TO:_UP_TO], strict=True)), _COMMON)
    vitals = _held_once(dict(zip(_VITALS, values[_UP_TO:], strict=True)), ("disk_path",))
    return DeviceState(
        connection=connection_of(presence, last_seen_at, hearing, flapping_since),
        connection_reason=hearing or presence_reason,
        connection_at=shown_at(hearing_at or presence_at),
        flapping_since=shown_at(flapping_since),
        claimed_since=shown_at(claimed_since),
        claimants=() if claimants == _NOBODY else _CLAIMANTS.decode(claimants),
        tags=tuple(tags),
        refused=None if refused_commit is None else _refused(refused_commit, refused_reason, refused_message),
        vitals=Vitals(**vitals),
        status_at=shown_at(status_at),
        first_seen_at=shown_at(first_seen_at) or first_seen_at,
        last_seen_at=shown_at(last_seen_at),
        agent_message=agent_message or "",
        **as_they_are,
    )


def moved(device: DeviceState, change: int, values: Iterable[Any]) -> DeviceState:
    """Return ``device`` after a change of nothing but ``MOVING_COLUMNS``, of which ``values`` are."""
    last_seen_at, uptime_s, *vitals = values
    return structs.replace(
        device,
        change=change,
        last_seen_at=shown_at(last_seen_at),
        uptime_s=uptime_s,
        vitals=Vitals(disk_path=device.vitals.disk_path, **dict(zip(_MOVING[2:], vitals, strict=True))),
    )


def shown_at(at: datetime | None) -> datetime | None:
    """Return ``at`` as it is shown outside. Infinity, as older hubs stored it, is no time at all."""
    at = instant(at)
    return None if at is None else in_ms(at)


def _refused(commit: str, reason: str | None, message: str | None) -> Refused:
    return Refused(commit=commit, reason=reason, message=message or "")


def _held_once(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for name in names:
        if values[name] is not None:
            values[name] = intern(values[name])
    return values
