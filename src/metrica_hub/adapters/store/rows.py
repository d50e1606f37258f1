"""Records -> rows, in the order of the statements' parameters (queries/put_*.sql)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_fleet.records import Vitals
    from metrica_hub.decisions.intake import DeadLetter
    from metrica_hub.decisions.plan import NewEvent, NewHeartbeat, NewPresence, NewStatus, NewVitals

Row = tuple[Any, ...]

HEARTBEAT_COLUMNS: Final = (
    "device",
    "stream",
    "seq",
    "received_at",
    "at",
    "boot_id",
    "uptime_s",
    "commit",
    "release",
    "mode",
    "phase",
    "load_1m",
    "memory_total_bytes",
    "memory_available_bytes",
    "disk_total_bytes",
    "disk_free_bytes",
    "temperature_celsius",
    "throttled",
    "clock_synchronised",
    "memory_pressure_some_ratio",
    "memory_pressure_full_ratio",
    "disk_path",
    "inodes_total",
    "inodes_free",
    "under_voltage",
    "frequency_capped",
    "soft_temperature_limit",
)

KEPT_PAYLOAD_BYTES: Final = 64 * 1024
_KEPT_EXPLANATION: Final = 1000
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 9998


def heartbeat_row(new: NewHeartbeat, stored_at: datetime) -> Row:
    """Return the row of a heartbeat, as ``HEARTBEAT_COLUMNS`` has it."""
    record = new.record
    return (
        new.device,
        record.stream,
        record.seq,
        stored_at,
        instant(record.at),
        record.boot_id,
        record.uptime_s,
        bytes.fromhex(record.commit) if record.commit else None,
        bytes.fromhex(record.release) if record.release else None,
        record.mode,
        record.phase,
        *_vitals(record.vitals),
    )


def event_row(new: NewEvent, stored_at: datetime) -> Row:
    """Return the row of an event."""
    record = new.record
    return (
        new.device,
        record.stream,
        record.seq,
        stored_at,
        instant(record.at),
        record.boot_id,
        record.uptime_s,
        record.kind,
        record.reason,
        record.message,
        record.commit,
        record.release,
        msgspec.json.encode(record.detail).decode(),
    )


def presence_row(new: NewPresence) -> Row:
    """Return the parameters that put a presence."""
    said = new.word.presence
    return (
        new.device,
        said.state,
        said.reason,
        said.connection,
        said.boot_id,
        new.at,
        said.agent_version,
        new.word.replayed,
    )


def status_row(new: NewStatus) -> Row:
    """Return the parameters that put a status."""
    status = new.status
    refused = status.refused
    return (
        new.device,
        status.role,
        list(status.tags),
        status.mode,
        status.commit,
        status.release,
        status.wanted_commit,
        status.phase,
        status.reason,
        status.message,
        refused.commit if refused else None,
        refused.reason if refused else None,
        refused.message if refused else None,
        instant(status.at),
        status.boot_id,
        status.uptime_s,
        status.agent_version,
        status.stream,
        status.last_seq,
    )


def vitals_row(new: NewVitals) -> Row:
    """Return the parameters that put a device's vitals."""
    return (new.device, new.boot_id, new.uptime_s, *_vitals(new.vitals), new.begins_boot)


def dead_letter_row(letter: DeadLetter, stored_at: datetime) -> Row:
    """Return the row of a dead letter. Its text is made storable, its payload kept as it came."""
    number = letter.number
    return (
        stored_at,
        _storable(letter.topic),
        letter.device,
        number.stream if number else None,
        number.seq if number else None,
        letter.reason,
        _storable(letter.explanation)[:_KEPT_EXPLANATION],
        letter.payload[:KEPT_PAYLOAD_BYTES],
        len(letter.payload),
    )


def columns_of(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Turn rows into columns, as ``unnest`` takes them."""
    return list(zip(*rows, strict=True))


def instant(at: datetime | None) -> datetime | None:
    """Return what a device's clock said, unless no clock can: the first and last instants mean infinity to Postgres."""
    return at if at is not None and _FIRST_YEAR <= at.year <= _LAST_YEAR else None


def _vitals(vitals: Vitals) -> Row:
    return (
        vitals.load_1m,
        vitals.memory_total_bytes,
        vitals.memory_available_bytes,
        vitals.disk_total_bytes,
        vitals.disk_free_bytes,
        vitals.temperature_celsius,
        vitals.throttled,
        vitals.clock_synchronised,
        vitals.memory_pressure_some_ratio,
        vitals.memory_pressure_full_ratio,
        vitals.disk_path,
        vitals.inodes_total,
        vitals.inodes_free,
        vitals.under_voltage,
        vitals.frequency_capped,
        vitals.soft_temperature_limit,
    )


def _storable(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
