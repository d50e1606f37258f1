"""How a device gets its identity: what it asks the hub for, and what it is answered.

A device makes its own key and asks for a certificate of it: once with a token that a person gave it (``Enrolment``),
and from then on, before the certificate ends, by a signature of the key that it has (``Renewal``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from metrica_fleet.identity import DeviceName, Name

ENROLMENTS: Final = "/api/v1/enrolments"
"""Where the hub takes an ``Enrolment``."""
RENEWALS: Final = "/api/v1/renewals"
"""Where the hub takes a ``Renewal``."""
RECIPIENT_PATTERN: Final = r"^age1[02-9ac-hj-np-z]{58}$(?!\n)"
WORD_PATTERN: Final = r"^mte_[A-Za-z0-9_-]{43}$(?!\n)"
"""Of a token."""
FINGERPRINT_PATTERN: Final = r"^[0-9a-f]{64}$(?!\n)"
MAX_PEM: Final = 8192
"""Characters of a request or certificate; ours have 500."""

BRANCH: Final = "main"
"""Which branch devices follow where nobody names another."""
RENEWAL_BEGINS: Final = 2 / 3
"""Of a certificate's life, and it is to be renewed ..."""
RENEWAL_SPREAD: Final = 1 / 12
"""... or so much later, by chance: a fleet that was enrolled in one go does not ask in one."""

_PURPOSE: Final = b"metrica-renewal 1\n"

Recipient = Annotated[str, msgspec.Meta(pattern=RECIPIENT_PATTERN)]
"""The public half of a device's age key."""
EnrolmentToken = Annotated[str, msgspec.Meta(pattern=WORD_PATTERN)]
Fingerprint = Annotated[str, msgspec.Meta(pattern=FINGERPRINT_PATTERN)]
"""SHA-256 of a certificate."""
Pem = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PEM)]


class Enrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device sends that has no certificate yet."""

    token: EnrolmentToken
    csr: Pem
    """A certificate signing request of an EC P-256 key; whatever name is in it, the token says who the device is."""
    recipient: Recipient
    boot: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """The kernel's boot id, for the trail."""

    def __repr__(self) -> str:
        return "Enrolment(***)"


class BusAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where devices find the broker, by TLS."""

    host: str
    port: int


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What it is answered: all that it has to know."""

    fleet: Name
    device: DeviceName
    certificate: Pem
    authority: Pem
    bus: BusAddress
    remotes: tuple[str, ...] = ()
    """Of the fleet repository, for devices; empty: a person says it."""
    branch: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = BRANCH
    """Which branch devices follow."""


class Renewal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device sends whose certificate is to be followed by another."""

    certificate: Pem
    csr: Pem
    """Of a new key."""
    signature: Annotated[str, msgspec.Meta(max_length=256)]
    """Base64 of the present key's ECDSA signature, with SHA-256, of ``renewal_text(csr)``."""


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """What it is answered."""

    certificate: Pem


def renewal_text(csr: str) -> bytes:
    """Return what the present key signs, so that the signature is good for nothing else."""
    return _PURPOSE + csr.encode()


def renewal_due(not_before: datetime, not_after: datetime, chance: float) -> datetime:
    """Return when a certificate is to be followed by the next; ``chance`` is from [0, 1)."""
    return not_before + (not_after - not_before) * (RENEWAL_BEGINS + RENEWAL_SPREAD * chance)


def chance_of(serial: str) -> float:
    """Return the chance of one certificate, from its serial in hexadecimal: drawn when that was."""
    return int(serial[-6:] or "0", 16) / 0x1000000
