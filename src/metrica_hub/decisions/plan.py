"""``plan(batch, coverage) -> Writes``: what a batch of arrivals means for the database.

A record counts once: what its stream's coverage has (``decisions/coverage.py``) is not written again, and its rows may
have gone to retention since. Of a device only the newest status and the prevailing presence are kept. Records above a
gap are kept as well; the watermark waits for the device, which sends everything above ``stored`` again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

import msgspec

from metrica_fleet.identity import DeviceId, StreamId
from metrica_fleet.messages import Presence, Services, Status
from metrica_fleet.records import Event, Heartbeat, Vitals
from metrica_hub.decisions.coverage import Coverage, Tracker
from metrica_hub.decisions.intake import Arrival, DeadLetter, Said, key_of, numbered
from metrica_hub.decisions.presence import Word, prevails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from metrica_hub.decisions.fleet_state import StreamKey

_T = TypeVar("_T")

NOTHING: Final = Coverage()


class Received(msgspec.Struct, frozen=True, gc=False):
    """Something that ``device`` said, and when the hub heard it."""

    device: DeviceId
    at: datetime


_New = TypeVar("_New", bound=Received)


class NewHeartbeat(Received, frozen=True, gc=False):
    """A heartbeat to store."""

    record: Heartbeat


class NewEvent(Received, frozen=True, gc=False):
    """An event to store."""

    record: Event


class NewStatus(Received, frozen=True, gc=False):
    """The newest status of a device in the batch."""

    status: Status


class NewServices(Received, frozen=True, gc=False):
    """What runs on a device, as it said last in the batch."""

    said: Services


class NewPresence(Received, frozen=True, gc=False):
    """The prevailing presence of a device in the batch."""

    word: Word


class NewVitals(Received, frozen=True, gc=False):
    """How a machine is, and where on its own time line that stands."""

    boot_id: str
    uptime_s: float
    vitals: Vitals
    begins_boot: bool
    """Of the boot that runs, as a status in the batch says; a heartbeat may be backlog of an earlier one."""


class Covered(msgspec.Struct, frozen=True, gc=False):
    """What is stored of ``stream`` of ``device`` once this is."""

    device: DeviceId
    stream: StreamId
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Writes:
    """What one transaction writes. Every part is in a fixed order, so that two hubs can't lock each other out."""

    heartbeats: tuple[NewHeartbeat, ...] = ()
    events: tuple[NewEvent, ...] = ()
    statuses: tuple[NewStatus, ...] = ()
    services: tuple[NewServices, ...] = ()
    presences: tuple[NewPresence, ...] = ()
    vitals: tuple[NewVitals, ...] = ()
    """The newest of each device, said in its status or in a heartbeat of the same boot."""
    heard: tuple[Received, ...] = ()
    """Each device that spoke for itself, and when it was last heard."""
    streams: tuple[Covered, ...] = ()
    """Each stream that the batch touches, moved or not: a device that repeats itself is answered too."""
    dead_letters: tuple[DeadLetter, ...] = ()
    unkept: tuple[DeadLetter, ...] = ()
    """More of them, which are counted and not written (``decisions.allowance``)."""
    repeated: int = 0
    """Records that were known to be stored, or stood in the batch twice."""
    left: int = 0
    """Records beyond too many gaps of their stream: not stored, so that their device sends them again."""


def streams_of(batch: Sequence[Arrival]) -> tuple[StreamKey, ...]:
    """Return the streams whose coverage ``plan`` needs to know, in order."""
    return tuple(sorted({key for arrival in batch if (key := key_of(arrival)) is not None}))


def plan(batch: Sequence[Arrival], coverage: Mapping[StreamKey, Coverage]) -> Writes:
    """Return what ``batch`` writes, given what the database has of its streams (none: nothing)."""
    sieve = _Sieve(coverage)
    kinds = _by_kind(arrival for arrival in batch if sieve.passes(arrival))
    statuses = _in_order(_newest(kinds.statuses, lambda new: new.status))
    return Writes(
        heartbeats=tuple(kinds.heartbeats),
        events=tuple(kinds.events),
        statuses=statuses,
        services=_in_order(_newest(kinds.services, lambda new: new.said)),
        presences=_prevailing(kinds.presences),
        vitals=_newest_vitals(statuses, kinds.heartbeats),
        heard=_heard(batch),
        streams=sieve.covered(),
        dead_letters=tuple(letter for letter in kinds.dead_letters if letter.is_kept),
        unkept=tuple(letter for letter in kinds.dead_letters if not letter.is_kept),
        repeated=sieve.repeated,
        left=sieve.left,
    )


class _Sieve:
    """Lets each number of a stream pass once."""

    def __init__(self, before: Mapping[StreamKey, Coverage]) -> None:
        self._before = before
        self._streams: dict[StreamKey, Tracker] = {}
        self.repeated = 0
        self.left = 0

    def passes(self, arrival: Arrival) -> bool:
        """Whether ``arrival`` is to be written; a number that passes is covered from here on."""
        found = numbered(arrival)
        if found is None:
            return True
        key, number = found
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Tracker(self._before.get(key, NOTHING))
        is_new = not stream.covers(number.seq)
        if is_new and not stream.has_room(number.seq, number.prev):
            self.left += 1
            return False
        self.repeated += not is_new
        stream.cover(number.seq, number.prev)
        return is_new

    def covered(self) -> tuple[Covered, ...]:
        """Return what is stored of each stream once all that passed is."""
        return tuple(Covered(*key, self._streams[key].coverage) for key in sorted(self._streams))


@dataclass(frozen=True, slots=True)
class _Kinds:
    heartbeats: list[NewHeartbeat]
    events: list[NewEvent]
    statuses: list[NewStatus]
    services: list[NewServices]
    presences: list[NewPresence]
    dead_letters: list[DeadLetter]


def _by_kind(batch: Iterable[Arrival]) -> _Kinds:
    kinds = _Kinds([], [], [], [], [], [])
    for arrival in batch:
        match arrival:
            case DeadLetter():
                kinds.dead_letters.append(arrival)
            case Said(device=device, message=message, received_at=at):
                match message:
                    case Heartbeat():
                        kinds.heartbeats.append(NewHeartbeat(device, at, message))
                    case Event():
                        kinds.events.append(NewEvent(device, at, message))
                    case Status():
                        kinds.statuses.append(NewStatus(device, at, message))
                    case Services():
                        kinds.services.append(NewServices(device, at, message))
                    case Presence():
                        kinds.presences.append(NewPresence(device, at, Word(message, arrival.replayed)))
                    case _:
                        assert_never(message)
            case _:
                assert_never(arrival)
    return kinds


def _newest(news: Iterable[_New], said: Callable[[_New], Status | Services | Heartbeat]) -> dict[DeviceId, _New]:
    """Return of each device the newest of ``news``, by what was ``said`` in it."""
    newest: dict[DeviceId, _New] = {}
    for new in news:
        held = newest.get(new.device)
        if held is None or not _older(said(new), said(held)):
            newest[new.device] = new
    return newest


def _older(new: Status | Heartbeat | Services, held: Status | Heartbeat | Services) -> bool:
    # Between boots only the order of arrival tells; the store compares with the row that it has in the same way.
    return new.boot_id == held.boot_id and new.uptime_s < held.uptime_s


def _newest_vitals(statuses: Iterable[NewStatus], heartbeats: Iterable[NewHeartbeat]) -> tuple[NewVitals, ...]:
    newest = {new.device: _vitals(new, new.status, begins_boot=True) for new in statuses}
    for new in _newest(heartbeats, lambda new: new.record).values():
        told = newest.get(new.device)
        if told is None:
            newest[new.device] = _vitals(new, new.record, begins_boot=False)
        elif told.boot_id == new.record.boot_id and told.uptime_s <= new.record.uptime_s:
            newest[new.device] = _vitals(new, new.record, begins_boot=True)
    return _in_order(newest)


def _vitals(new: Received, said: Status | Heartbeat, *, begins_boot: bool) -> NewVitals:
    return NewVitals(new.device, new.at, said.boot_id, said.uptime_s, said.vitals, begins_boot)


def _prevailing(presences: Iterable[NewPresence]) -> tuple[NewPresence, ...]:
    held: dict[DeviceId, NewPresence] = {}
    for new in presences:
        before = held.get(new.device)
        if before is None or prevails(new.word, before.word.presence):
            held[new.device] = new
    return _in_order(held)


def _in_order(found: Mapping[DeviceId, _T]) -> tuple[_T, ...]:
    """Return what was ``found`` of each device, ordered by its name."""
    return tuple(found[device] for device in sorted(found))


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
