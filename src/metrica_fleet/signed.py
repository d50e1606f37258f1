"""Signed texts: orders, gates, commands, heads, bundles. The exact bytes that were signed, and the signature behind.

    $ ssh-keygen -Y sign -n metrica-order -f ~/.ssh/id_ed25519 order.json
    $ cat order.json order.json.sig

So OpenSSH's own tools make and check one, and a file of it can be published by any MQTT client. What the text says is
understood only after its signature was found good, from the very same bytes.
"""

from __future__ import annotations

from datetime import UTC
from typing import Final

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.records import Instant

ORDERS: Final = "metrica-order"
"""The namespace in which operators sign orders."""
GATES: Final = "metrica-gate"
"""The namespace in which the hub signs how far a rollout's gate is open."""
COMMANDS: Final = "metrica-command"
"""The namespace in which the hub signs commands."""
HEADS: Final = "metrica-head"
"""The namespace in which the hub signs where the branch is."""
BUNDLES: Final = "metrica-bundle"
"""The namespace in which operators sign what goes to a device on a stick."""
_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----\n"
_END: Final = "-----END SSH SIGNATURE-----"


class Signed(msgspec.Struct, frozen=True):
    """A text, and OpenSSH's armoured signature of its UTF-8 bytes."""

    text: str
    signature: str


class _Dated(msgspec.Struct, frozen=True):
    """What is read of a text before it is known whose it is."""

    issued_at: Instant


_DATED: Final = msgspec.json.Decoder(_Dated)


def time_of(signed: Signed) -> str:
    """Return when the text says that it was made, 14 digits, UTC: the key must have been good then.

    Raises:
        Unusable: ``not-dated``.
    """
    try:
        issued_at = _DATED.decode(signed.text).issued_at.astimezone(UTC)
    except (msgspec.DecodeError, RecursionError, OverflowError) as error:
        message = f'it does not say when it was made ({error}); write "issued_at": "2026-11-29T09:20:00Z"'
        raise Unusable(message, reason="not-dated") from error
    return f"{issued_at.year:04}{issued_at:%m%d%H%M%S}"


def joined(signed: Signed) -> bytes:
    """Return ``signed`` as it travels; inverse of ``parted``."""
    return f"{signed.text}{signed.signature}".encode()


def parted(payload: bytes | bytearray | memoryview) -> Signed:
    """Return the text and the signature that ``payload`` is made of.

    Raises:
        Unusable: ``not-signed``, when no armoured signature ends it.
    """
    try:
        whole = str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise Unusable(f"it is no UTF-8 text: {error}", reason="not-signed") from error
    place = whole.rfind(_BEGIN)
    if place < 0 or not whole.rstrip().endswith(_END):
        message = "no SSH signature ends it; sign the text by ssh-keygen -Y sign, and put the signature behind it"
        raise Unusable(message, reason="not-signed")
    return Signed(whole[:place], whole[place:])
