"""Bytes to messages and back. The only module that knows what a message looks like on the wire.

Unknown fields are ignored, missing and mistyped ones refused with the path of the key. Garbage is refused whole. What
is signed is taken apart and not looked into: whose signature it is comes first.
"""

from __future__ import annotations

from typing import Final

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.messages import Answer, Head, Message, Presence, Services, Status, Stored
from metrica_fleet.records import Record
from metrica_fleet.signed import Signed, joined, parted
from metrica_fleet.topics import ANSWERS, HEAD, PRESENCE, RECORDS, SERVICES, STATUS, STORED, Channel

MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""The broker's limit as well (CONVENTIONS 3.2, 13)."""

_ENCODER: Final = msgspec.json.Encoder()
_DECODERS: Final[dict[Channel, msgspec.json.Decoder[Message]]] = {
    PRESENCE: msgspec.json.Decoder(Presence),
    STATUS: msgspec.json.Decoder(Status),
    SERVICES: msgspec.json.Decoder(Services),
    RECORDS: msgspec.json.Decoder(Record),
    STORED: msgspec.json.Decoder(Stored),
    HEAD: msgspec.json.Decoder(Head),
    ANSWERS: msgspec.json.Decoder(Answer),
}


def encode(message: Message) -> bytes:
    """Return ``message`` as UTF-8 JSON without white space, or as the signed text that it is."""
    return joined(message) if isinstance(message, Signed) else _ENCODER.encode(message)


def decode(channel: Channel, payload: bytes | bytearray | memoryview) -> Message:
    """Return the message that ``payload`` holds on ``channel``.

    Raises:
        Unusable: ``too-large``, ``missing-field``, ``wrong-type`` or ``not-json``, and the message names the key; or
            ``not-signed``.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        message = f"{channel.name}: {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are read"
        raise Unusable(message, reason="too-large")
    try:
        return parted(payload) if channel.signed else _DECODERS[channel].decode(payload)
    except Unusable as error:
        raise Unusable(f"{channel.name}: {error.message}", reason=error.reason) from error
    except msgspec.ValidationError as error:
        reason = "missing-field" if "missing required field" in str(error) else "wrong-type"
        raise Unusable(f"{channel.name}: {error}", reason=reason) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"{channel.name}: {error}", reason="not-json") from error
