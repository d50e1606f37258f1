"""One delivery of the broker -> what was said, or why it can't be read. Nothing is half-read, nothing is dropped.

A record that can't be read whole, but whose envelope (stream, seq, prev) can, is set aside *under its number*: the
watermark may pass it, so that one bad record does not keep its device sending the same backlog for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, assert_never, cast

import msgspec

from metrica_fleet.codec import decode
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import Stream
from metrica_fleet.messages import Answer, Head, Presence, Services, Status, Stored
from metrica_fleet.records import Event, Heartbeat, Prev, Record, Seq
from metrica_fleet.signed import Signed
from metrica_fleet.topics import RECORDS, Address, Channel, address_of
from metrica_hub.decisions.heartbeats import RecordReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId, FleetId, StreamId

NUL_ESCAPE: Final = b"\\u0000"


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """What the broker handed over, and how to acknowledge it."""

    topic: str
    payload: bytes
    replayed: bool
    """From the broker's memory of retained messages, not passed on as it was said."""
    packet_id: int | None
    link: int
    """The connection that it came by: a packet id means nothing on the next one."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The number of a record, read even where the rest can't be."""

    stream: Stream
    seq: Seq
    prev: Prev


class Said(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message of a device, understood."""

    device: DeviceId
    message: Presence | Status | Services | Record
    received_at: datetime
    replayed: bool
    topic: str
    payload: bytes


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that can't be used, with its reason; its number where it has one."""

    topic: str
    payload: bytes
    reason: str
    explanation: str
    received_at: datetime
    device: DeviceId | None
    number: Envelope | None = None
    is_kept: bool = True
    """Whether it goes into the table; one of too many is only counted."""


Arrival = Said | DeadLetter

_ENVELOPE: Final = msgspec.json.Decoder(Envelope)
_RECORDS: Final = RecordReader()
_RECORDS_END: Final = f"/{RECORDS.name}"
_remembered = lru_cache(maxsize=65536)(address_of)
"""Of the topics that nearly all messages come by, one for each device."""


def read(delivery: Delivery, fleet: FleetId, received_at: datetime) -> Arrival:
    """Return what ``delivery`` says."""
    address: Address | None = None
    try:
        topic = delivery.topic
        address = _remembered(topic) if topic.endswith(_RECORDS_END) else address_of(topic)
        device = _speaker(address, fleet)
        message = _understood(address.channel, device, delivery.payload)
    except Unusable as error:
        return dead(delivery, address, error, received_at)
    return Said(
        device=device,
        message=message,
        received_at=received_at,
        replayed=delivery.replayed,
        topic=delivery.topic,
        payload=delivery.payload,
    )


def dead(delivery: Delivery, address: Address | None, error: Unusable, received_at: datetime) -> DeadLetter:
    """Return ``delivery`` set aside because of ``error``."""
    return DeadLetter(
        topic=delivery.topic,
        payload=delivery.payload,
        reason=error.reason,
        explanation=error.message,
        received_at=received_at,
        device=address.device if address else None,
        number=_number(delivery.payload) if address and address.channel == RECORDS else None,
    )


def set_aside(said: Said, error: Unusable) -> DeadLetter:
    """Return a message that was understood, but that the database refused."""
    match said.message:
        case Heartbeat(stream=stream, seq=seq, prev=prev) | Event(stream=stream, seq=seq, prev=prev):
            number = Envelope(stream=stream, seq=seq, prev=prev)
        case Presence() | Status() | Services():
            number = None
        case _:
            assert_never(said.message)
    return DeadLetter(
        topic=said.topic,
        payload=said.payload,
        reason=error.reason,
        explanation=error.message,
        received_at=said.received_at,
        device=said.device,
        number=number,
    )


def key_of(arrival: Arrival) -> tuple[DeviceId, StreamId] | None:
    """Return the stream that ``arrival`` is numbered in, if it is."""
    found = numbered(arrival)
    return None if found is None else found[0]


def numbered(arrival: Arrival) -> tuple[tuple[DeviceId, StreamId], Heartbeat | Event | Envelope] | None:
    """Return the stream that ``arrival`` is numbered in, and what has its number there; ``None`` without one."""
    number = arrival.message if isinstance(arrival, Said) else arrival.number
    if arrival.device is None or not isinstance(number, (Heartbeat, Event, Envelope)):
        return None
    return (arrival.device, number.stream), number


def _speaker(address: Address, fleet: FleetId) -> DeviceId:
    if address.fleet != fleet:
        raise Unusable(f'"{address.fleet}" is not this hub\'s fleet', reason="other-fleet")
    if address.device is None:
        raise Unusable("a topic of no device", reason="unknown-topic")
    return address.device


def _understood(channel: Channel, device: DeviceId, payload: bytes) -> Presence | Status | Services | Record:
    message = _RECORDS.decode(payload) if channel is RECORDS else decode(channel, payload)
    match message:
        case Heartbeat() | Event():
            pass
        case Presence() | Status() | Services():
            _same(device, message.device)
        case Stored() | Head() | Signed() | Answer():
            raise Unusable("this is no channel of what is stored", reason="unknown-topic")
        case _:
            assert_never(message)
    if NUL_ESCAPE in payload and _has_nul(msgspec.to_builtins(message)):
        raise Unusable("a text holds U+0000, which Postgres can't store", reason="nul-character")
    return message


def _same(topic: DeviceId, payload: DeviceId) -> None:
    if topic != payload:
        raise Unusable(f'the topic says "{topic}", the message "{payload}"', reason="device-mismatch")


def _has_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case Mapping():
            pairs = cast("Mapping[object, object]", value)
            return any(map(_has_nul, pairs)) or any(map(_has_nul, pairs.values()))
        case list() | tuple():
            return any(map(_has_nul, cast("Sequence[object]", value)))
        case _:
            return False


def _number(payload: bytes) -> Envelope | None:
    try:
        return _ENVELOPE.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
