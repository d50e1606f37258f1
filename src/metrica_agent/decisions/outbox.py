"""What goes into the outbox, and what a watermark means there."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import structs

from metrica_fleet.records import Event, Heartbeat, Scalar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metrica_agent.decisions.world import Saying, Stamp
    from metrica_fleet.identity import StreamId
    from metrica_fleet.messages import Status

MESSAGE_CHARACTERS: Final = 4000
DETAIL_KEYS: Final = 64
DETAIL_CHARACTERS: Final = 500
"""Of a detail's key or text."""
RECORD_BYTES: Final = 16 * 1024
"""What one record may take on the wire (CONVENTIONS 3.2, 13)."""
SHORT_CHARACTERS: Final = 1000
"""Of the message of an event that would otherwise take more."""


class Covered(StrEnum):
    """What a watermark that the hub told means for this outbox."""

    MOVED = "moved"
    """It covers more than was known: that much may be forgotten."""
    KNOWN = "known"
    """It is as old as what is known, or of a stream whose turn comes after another one's."""
    BEHIND = "behind"
    """It covers less than the hub had said: it comes late, or the hub's database was set back."""
    FOREIGN = "foreign"
    """It is of no stream that waits here."""


class Place(NamedTuple):
    """Where a record stands."""

    stream: StreamId
    seq: int
    prev: int


class Span(NamedTuple):
    """The numbers that belong to one stream."""

    stream: StreamId
    first: int
    last: int | None
    """``None``: it goes on."""
    told: int = 0
    """Up to here the hub has said that it is stored."""


class Progress(NamedTuple):
    """How far an outbox has come."""

    stored: int
    """All up to here is known to be stored by the hub."""
    spans: tuple[Span, ...]
    """Of the streams that reach beyond it, in order."""


def covered(own: Progress, last_seq: int, stream: str, seq: int) -> tuple[Covered, Progress]:
    """Return what it means that the hub has stored ``stream`` up to ``seq``, and how far the outbox is then.

    A stream that ended counts when those before it are stored to their ends.
    """
    if all(span.stream != stream for span in own.spans):
        return Covered.FOREIGN, own
    spans = [span._replace(told=max(span.told, seq)) if span.stream == stream else span for span in own.spans]
    stored = own.stored
    while True:
        span = spans[0]
        stored = max(stored, min(span.told, last_seq if span.last is None else span.last))
        if span.last is None or stored < span.last:
            break
        spans.pop(0)
    if stored > own.stored:
        meaning = Covered.MOVED
    elif own.spans[0].stream == stream and own.spans[0].first <= own.stored and seq < own.stored:
        meaning = Covered.BEHIND
    else:
        meaning = Covered.KNOWN
    return meaning, Progress(stored, tuple(spans))


def set_back(own: Progress, kept: Iterable[Span]) -> Progress:
    """Return the progress of an outbox whose hub lacks what it had said to have: all that is ``kept`` may go again.

    A record that is gone here leaves no gap, as one that was thinned.
    """
    waiting = {span.stream for span in own.spans}
    ended = (span for span in kept if span.stream not in waiting)
    return Progress(0, (*ended, *(span._replace(told=0) for span in own.spans)))


def placed(own: Progress, seq: int, before: int) -> Place:
    """Return where the record ``seq`` stands that follows ``before``: the first one of a stream follows none."""
    span = next(span for span in reversed(own.spans) if span.first <= seq)
    return Place(span.stream, seq, before if before >= span.first else 0)


def event_of(saying: Saying, stamp: Stamp, place: Place) -> Event:
    """Return the event that ``saying`` becomes, cut to what the bus carries."""
    return Event(
        stream=place.stream,
        seq=place.seq,
        prev=place.prev,
        at=_instant(stamp.at),
        boot_id=stamp.boot_id,
        uptime_s=stamp.uptime_s,
        kind=saying.kind,
        reason=saying.reason,
        message=_clean(saying.message, MESSAGE_CHARACTERS),
        commit=saying.commit,
        release=saying.release,
        detail=dict(_short(key, value) for key, value in islice(saying.detail.items(), DETAIL_KEYS)),
    )


def shortened(event: Event) -> Event:
    """Return ``event`` without its detail and with a short message: for one that takes too many bytes."""
    return structs.replace(event, message=_clean(event.message, SHORT_CHARACTERS), detail={"shortened": True})


def repeated(before: Event, again: Event) -> Event:
    """Return ``before`` with ``again``, which says the same, counted into it: when first, how often, what last."""
    times = before.detail.get("times", 1)
    counted = (times if isinstance(times, int) else 1) + 1
    detail: dict[str, Scalar] = {"times": counted, "until_boot_id": again.boot_id, "until_uptime_s": again.uptime_s}
    if again.at is not None:
        detail["until_at"] = again.at.isoformat()
    return structs.replace(before, message=_clean(again.message, SHORT_CHARACTERS), detail=detail)


def heartbeat_of(status: Status, stamp: Stamp, place: Place) -> Heartbeat:
    """Return the heartbeat that tells ``status``."""
    return Heartbeat(
        stream=place.stream,
        seq=place.seq,
        prev=place.prev,
        at=_instant(stamp.at),
        boot_id=stamp.boot_id,
        uptime_s=stamp.uptime_s,
        commit=status.commit,
        release=status.release,
        mode=status.mode,
        phase=status.phase,
        vitals=status.vitals,
    )


def unreadable(document: bytes, place: Place) -> Event:
    """Return what stands in for a record that this version can't read, and would block the others."""
    return Event(
        stream=place.stream,
        seq=place.seq,
        prev=place.prev,
        at=None,
        boot_id="",
        uptime_s=0.0,
        kind="record.unreadable",
        reason="undecodable",
        message=_clean(document.decode("utf-8", "replace"), SHORT_CHARACTERS),
    )


def _instant(at: str | None) -> datetime | None:
    return None if at is None else datetime.fromisoformat(at)


def _short(key: str, value: Scalar) -> tuple[str, Scalar]:
    return _clean(key, DETAIL_CHARACTERS), _clean(value, DETAIL_CHARACTERS) if isinstance(value, str) else value


def _clean(text: str, characters: int) -> str:
    """Cut ``text``, and make it UTF-8 where a file name with odd bytes got into it."""
    short = text if len(text) <= characters else text[: characters - 1] + "…"
    return short.encode("utf-8", "replace").decode("utf-8")
