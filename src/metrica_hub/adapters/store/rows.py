"""Records -> rows, in the order of the statements' parameters (queries/put_*.sql), or fields by columns' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import structs

from metrica_hub.decisions.coverage import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId
    from metrica_fleet.records import Vitals
    from metrica_hub.decisions.coverage import Coverage
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.intake import DeadLetter
    from metrica_hub.decisions.plan import Covered, NewEvent, NewHeartbeat, NewPresence, NewServices, NewStatus, Writes

Row = tuple[Any, ...]
Fields = dict[str, Any]

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


def services_row(new: NewServices) -> Row:
    """Return the parameters that put what runs on a device."""
    said = new.said
    services = msgspec.json.encode(said.services).decode()
    return new.device, new.at, said.boot_id, said.uptime_s, said.engine_answers, services, said.untold


def batch_document(writes: Writes, was: Mapping[StreamKey, Coverage], *, heartbeats: bool) -> str:
    """Return what ``pg_temp.put_batch`` takes (queries/functions.sql), with ``heartbeats`` or, after COPY, without."""
    document = {
        "heartbeats": list(map(_heartbeat_fields, writes.heartbeats)) if heartbeats else [],
        "statuses": list(map(_status_fields, writes.statuses)),
        "devices": _device_fields(writes),
        "streams": [_stream_fields(one, was.get((one.device, one.stream))) for one in writes.streams],
    }
    return msgspec.json.encode(document).decode()


def _heartbeat_fields(new: NewHeartbeat) -> Fields:
    record = new.record
    return {
        "device": new.device,
        "stream": record.stream,
        "seq": record.seq,
        "at": instant(record.at),
        "boot_id": record.boot_id,
        "uptime_s": record.uptime_s,
        "commit": record.commit and "\\x" + record.commit,
        "release": record.release and "\\x" + record.release,
        "mode": record.mode,
        "phase": record.phase,
        **structs.asdict(record.vitals),
    }


def _status_fields(new: NewStatus) -> Fields:
    status = new.status
    refused, stop = status.refused, status.stop
    return {
        "device": new.device,
        "role": status.role,
        "tags": status.tags,
        "mode": status.mode,
        "commit": status.commit,
        "release": status.release,
        "wanted_commit": status.wanted_commit,
        "phase": status.phase,
        "reason": status.reason,
        "message": status.message,
        "refused_commit": refused.commit if refused else None,
        "refused_reason": refused.reason if refused else None,
        "refused_message": refused.message if refused else None,
        "status_at": instant(status.at),
        "status_boot_id": status.boot_id,
        "status_uptime_s": status.uptime_s,
        "agent_version": status.agent_version,
        "stream": status.stream,
        "last_seq": status.last_seq,
        "heartbeat_s": status.heartbeat_s,
        "stop_number": stop.number if stop else None,
        "stop_level": stop.level if stop else None,
        "stop_source": stop.source if stop else None,
        "stop_done": stop.done if stop else None,
        "wanted_agent": status.wanted_agent,
        "agent_reason": status.agent_reason,
        "agent_message": status.agent_message,
    }


def _device_fields(writes: Writes) -> list[Fields]:
    fields: dict[DeviceId, Fields] = {one.device: {"device": one.device, "heard_at": one.at} for one in writes.heard}
    for new in writes.vitals:
        fields.setdefault(new.device, {"device": new.device}).update(
            begins_boot=new.begins_boot, boot_id=new.boot_id, uptime_s=new.uptime_s, **structs.asdict(new.vitals)
        )
    return [fields[device] for device in sorted(fields)]


def _stream_fields(one: Covered, was: Coverage | None) -> Fields:
    before = {"was_stored": was.stored, "was_ahead": in_words(was.ahead)} if was else {}
    after = {"stored_seq": one.coverage.stored, "ahead": in_words(one.coverage.ahead)}
    return {"device": one.device, "stream": one.stream, **before, **after}


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


def columns_of(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Turn rows, at least one, into columns, as ``unnest`` takes them."""
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
