"""``plan(batch, watermarks) -> Writes``: what a batch of arrivals means for the database.

Within a batch a record counts once, only the newest status and the prevailing presence of a device are kept, and each
stream's watermark moves as far as there is no gap (``metrica_fleet.records.advanced``). Records above a gap are kept
as well; the watermark waits for the device, which sends everything above ``stored`` again.

What a watermark covers is stored already and is not written again: the rows may have gone to retention since.
A watermark is a statement about the stream, true for good; so the store may take the larger of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never, cast

from metrica_fleet.messages import Presence, Status
from metrica_fleet.records import Event, Heartbeat, advanced
from metrica_hub.decisions.intake import Arrival, DeadLetter, Envelope, Said, key_of
from metrica_hub.decisions.presence import Word, prevails

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId, StreamId
    from metrica_fleet.records import Record, Vitals
    from metrica_hub.decisions.fleet_state import StreamKey


@dataclass(frozen=True, slots=True)
class Received:
    """Something that ``device`` said, and when the hub heard it."""

    device: DeviceId
    at: datetime


@dataclass(frozen=True, slots=True)
class NewHeartbeat(Received):
    """A heartbeat to store."""

    record: Heartbeat


@dataclass(frozen=True, slots=True)
class NewEvent(Received):
    """An event to store."""

    record: Event


@dataclass(frozen=True, slots=True)
class NewStatus(Received):
    """The newest status of a device in the batch."""

    status: Status


@dataclass(frozen=True, slots=True)
class NewPresence(Received):
    """The prevailing presence of a device in the batch."""

    word: Word


@dataclass(frozen=True, slots=True)
class NewVitals(Received):
    """How a machine is, and where on its own time line that stands."""

    boot_id: str
    uptime_s: float
    vitals: Vitals
    begins_boot: bool
    """Said in a status, which is always of the boot that runs; a heartbeat may be backlog of an earlier one."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """Up to here everything that ``stream`` of ``device`` said is stored."""

    device: DeviceId
    stream: StreamId
    stored: int


@dataclass(frozen=True, slots=True)
class Writes:
    """What one transaction writes. Every part is in a fixed order, so that two hubs can't lock each other out."""

    heartbeats: tuple[NewHeartbeat, ...] = ()
    events: tuple[NewEvent, ...] = ()
    statuses: tuple[NewStatus, ...] = ()
    presences: tuple[NewPresence, ...] = ()
    vitals: tuple[NewVitals, ...] = ()
    """Of the newest status and of the newest heartbeat of each device, in this order."""
    heard: tuple[Received, ...] = ()
    """Each device that spoke for itself, and when it was last heard."""
    watermarks: tuple[Watermark, ...] = ()
    """Of each stream that the batch touches, moved or not: a device that repeats itself is answered too."""
    dead_letters: tuple[DeadLetter, ...] = ()
    repeated: int = 0
    """Records that were known to be stored, or stood in the batch twice."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How many rows were new to the database."""

    heartbeats: int = 0
    events: int = 0
    dead_letters: int = 0


def streams_of(batch: Sequence[Arrival]) -> tuple[StreamKey, ...]:
    """Return the streams whose watermarks ``plan`` needs to know, in order."""
    return tuple(sorted({key for arrival in batch if (key := key_of(arrival)) is not None}))


def plan(batch: Sequence[Arrival], watermarks: Mapping[StreamKey, int]) -> Writes:
    """Return what ``batch`` writes, given the watermarks as the database has them (none: 0)."""
    kinds = _by_kind(batch)
    heartbeats, events, repeated = _new_records(kinds.records, watermarks)
    statuses = _newest_statuses(kinds.statuses)
    return Writes(
        heartbeats=heartbeats,
        events=events,
        statuses=statuses,
        presences=_prevailing(kinds.presences),
        vitals=(*map(_status_vitals, statuses), *map(_heartbeat_vitals, _newest_heartbeats(heartbeats))),
        heard=_heard(batch),
        watermarks=_advance(batch, watermarks),
        dead_letters=_once(kinds.dead_letters),
        repeated=repeated,
    )


@dataclass(frozen=True, slots=True)
class _Kinds:
    records: list[NewHeartbeat | NewEvent]
    statuses: list[NewStatus]
    presences: list[NewPresence]
    dead_letters: list[DeadLetter]


def _by_kind(batch: Sequence[Arrival]) -> _Kinds:
    kinds = _Kinds([], [], [], [])
    for arrival in batch:
        match arrival:
            case DeadLetter():
                kinds.dead_letters.append(arrival)
            case Said(device=device, message=message, received_at=at):
                match message:
                    case Heartbeat():
                        kinds.records.append(NewHeartbeat(device, at, message))
                    case Event():
                        kinds.records.append(NewEvent(device, at, message))
                    case Status():
                        kinds.statuses.append(NewStatus(device, at, message))
                    case Presence():
                        kinds.presences.append(NewPresence(device, at, Word(message, arrival.replayed)))
                    case _:
                        assert_never(message)
            case _:
                assert_never(arrival)
    return kinds


def _new_records(
    records: Sequence[NewHeartbeat | NewEvent], watermarks: Mapping[StreamKey, int]
) -> tuple[tuple[NewHeartbeat, ...], tuple[NewEvent, ...], int]:
    heartbeats: list[NewHeartbeat] = []
    events: list[NewEvent] = []
    seen: set[tuple[str, str, int]] = set()
    for new in records:
        record = new.record
        number = (new.device, record.stream, record.seq)
        if record.seq <= watermarks.get((new.device, record.stream), 0) or number in seen:
            continue
        seen.add(number)
        if isinstance(new, NewHeartbeat):
            heartbeats.append(new)
        else:
            events.append(new)
    return tuple(heartbeats), tuple(events), len(records) - len(seen)


def _advance(batch: Sequence[Arrival], watermarks: Mapping[StreamKey, int]) -> tuple[Watermark, ...]:
    numbered: dict[StreamKey, list[Heartbeat | Event | Envelope]] = {}
    for arrival in batch:
        match arrival:
            case Said(device=device, message=Heartbeat() | Event() as number):
                numbered.setdefault((device, number.stream), []).append(number)
            case DeadLetter(device=device, number=Envelope() as number) if device is not None:
                numbered.setdefault((device, number.stream), []).append(number)
            case _:
                pass
    return tuple(
        Watermark(*key, _furthest(watermarks.get(key, 0), numbers)) for key, numbers in sorted(numbered.items())
    )


def _furthest(stored: int, numbers: list[Heartbeat | Event | Envelope]) -> int:
    # All of them are stored by the same transaction, so the order in which they came does not matter.
    for number in sorted(numbers, key=_seq):
        stored = advanced(stored, cast("Record", number))  # it looks at seq and prev only
    return stored


def _seq(number: Heartbeat | Event | Envelope) -> int:
    return number.seq


def _newest_statuses(statuses: Iterable[NewStatus]) -> tuple[NewStatus, ...]:
    newest: dict[DeviceId, NewStatus] = {}
    for new in statuses:
        held = newest.get(new.device)
        if held is None or not _older(new.status, held.status):
            newest[new.device] = new
    return tuple(newest[device] for device in sorted(newest))


def _newest_heartbeats(heartbeats: Iterable[NewHeartbeat]) -> tuple[NewHeartbeat, ...]:
    newest: dict[DeviceId, NewHeartbeat] = {}
    for new in heartbeats:
        held = newest.get(new.device)
        if held is None or not _older(new.record, held.record):
            newest[new.device] = new
    return tuple(newest[device] for device in sorted(newest))


def _older(new: Status | Heartbeat, held: Status | Heartbeat) -> bool:
    # Between boots only the order of arrival tells; the store compares with the row that it has in the same way.
    return new.boot_id == held.boot_id and new.uptime_s < held.uptime_s


def _status_vitals(new: NewStatus) -> NewVitals:
    status = new.status
    return NewVitals(new.device, new.at, status.boot_id, status.uptime_s, status.vitals, begins_boot=True)


def _heartbeat_vitals(new: NewHeartbeat) -> NewVitals:
    record = new.record
    return NewVitals(new.device, new.at, record.boot_id, record.uptime_s, record.vitals, begins_boot=False)


def _prevailing(presences: Iterable[NewPresence]) -> tuple[NewPresence, ...]:
    held: dict[DeviceId, NewPresence] = {}
    for new in presences:
        before = held.get(new.device)
        if before is None or prevails(new.word, before.word.presence):
            held[new.device] = new
    return tuple(held[device] for device in sorted(held))


def _heard(batch: Sequence[Arrival]) -> tuple[Received, ...]:
    heard = {
        arrival.device: arrival.received_at
        for arrival in batch
        if isinstance(arrival, Said) and not arrival.replayed and _by_itself(arrival.message)
    }
    return tuple(Received(device, heard[device]) for device in sorted(heard))


def _by_itself(message: object) -> bool:
    # "offline" may be the last will, which the broker says long after the device fell silent.
    return not (isinstance(message, Presence) and message.state == "offline")


def _once(letters: Iterable[DeadLetter]) -> tuple[DeadLetter, ...]:
    once: dict[object, DeadLetter] = {}
    for place, letter in enumerate(letters):
        number = letter.number
        once.setdefault(place if number is None else (letter.device, number.stream, number.seq), letter)
    return tuple(once.values())
