"""What goes into the outbox, and what a watermark means there."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import structs

from metrica_fleet.records import Event, Heartbeat, Scalar

if TYPE_CHECKING:
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
    """It is as old as what is known, or older."""
    FOREIGN = "foreign"
    """It is of another stream."""
    BEYOND = "beyond"
    """It covers what this outbox never sent: the file is an older copy of one that went on elsewhere."""


class Place(NamedTuple):
    """Where a record stands."""

    stream: StreamId
    seq: int
    prev: int


class Progress(NamedTuple):
    """How far an outbox has come."""

    stream: StreamId
    stored: int
    """Known to be stored by the hub."""
    offered: int
    """No record beyond this one was ever sent."""


def covered(own: Progress, stream: str, seq: int) -> Covered:
    """Return what it means that the hub has stored ``stream`` up to ``seq``."""
    if stream != own.stream:
        return Covered.FOREIGN
    if seq > own.offered:
        return Covered.BEYOND
    return Covered.MOVED if seq > own.stored else Covered.KNOWN


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
