"""Who a device is to the bus: which key a token lets in, when one certificate follows another, what is taken back."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from metrica_fleet.enrolment import Recipient
from metrica_fleet.identity import DeviceName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GRACE: Final = timedelta(days=365)
"""For so long a certificate that has ended may still be renewed: a device that lay in a drawer comes back by itself."""
LONGEST_LIFE: Final = timedelta(days=3660)
"""Of a certificate; so long a revocation is listed."""
BACKDATED: Final = timedelta(hours=1)
"""A certificate is good from so long before it is made, for a broker or device whose clock is slow."""
CRL_LASTS: Final = timedelta(days=400)
"""A list that has ended locks everybody out, so that it lasts for longer than any hub is away."""
CRL_MADE_ANEW: Final = timedelta(days=1)
"""However little happened."""

_PREFIX: Final = "mte_"

Answer = Literal["issue", "again"]
"""Make a certificate, or send the one that was made for this very key: its answer was lost."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The newest certificate of a device, and the key that its secrets are encrypted to."""

    device: DeviceName
    recipient: Recipient
    serial: str
    fingerprint: str
    """SHA-256 of the certificate."""
    not_before: datetime
    not_after: datetime
    revoked: bool
    revoked_at: datetime | None
    reason: str | None
    """Why it was revoked."""


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What an enrolment token stands for."""

    number: int
    device: DeviceName
    is_good: bool
    """Neither expired nor withdrawn."""
    spki: bytes | None
    """Of the key that it was used for."""
    certificate: str | None


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that somebody shows, and what followed it."""

    device: DeviceName
    serial: str
    recipient: Recipient
    spki: bytes
    not_before: datetime
    not_after: datetime
    is_revoked: bool
    is_newest: bool
    next_spki: bytes | None
    next_certificate: str | None


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate as it was made."""

    serial: str
    spki: bytes
    fingerprint: str
    pem: str
    not_before: datetime
    not_after: datetime


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no certificate."""

    reason: str
    message: str


def enrolment_token(secret: bytes) -> str:
    """Return the text of a token."""
    return _PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def digest_of(token: str) -> bytes:
    """Return what is kept of a token: 256 bits of chance need no salt."""
    return hashlib.sha256(token.encode()).digest()


def judged_invitation(found: Invitation | None, spki: bytes) -> Answer | Refusal:
    """Return what a token is good for, for the key with this digest."""
    if found is None:
        return Refusal(reason="token-unknown", message="This enrolment token is not known.")
    if not found.is_good:
        return Refusal(
            reason="token-ended", message="This enrolment token has expired or was withdrawn: metrica device add"
        )
    if found.spki is None:
        return "issue"
    if found.spki == spki:
        return "again"
    return Refusal(
        reason="token-used",
        message=f"This enrolment token was used, and by another key: if that was not you, somebody else is"
        f" {found.device} now. metrica device revoke {found.device}, then metrica device add {found.device}",
    )


def judged_renewal(held: Holding | None, spki: bytes, now: datetime) -> Answer | Refusal:
    """Return whether the certificate that is shown may be followed by one for the key with this digest."""
    if held is None:
        return Refusal(reason="certificate-unknown", message="This certificate is none that this hub has made.")
    if held.is_revoked:
        return Refusal(reason="certificate-revoked", message="This certificate was revoked: metrica device add")
    if not held.is_newest:
        if held.next_spki == spki:
            return "again"
        return Refusal(
            reason="certificate-superseded",
            message=f"This certificate was followed by another, of another key: {held.device} is there twice, or its"
            f" card was set back. metrica device add {held.device} lets one of them in",
        )
    if spki == held.spki:
        return Refusal(reason="key-known", message="A renewal is for a new key.")
    if now < held.not_before + (held.not_after - held.not_before) / 2:
        return Refusal(reason="too-early", message="This certificate has more than half of its life before it.")
    if now > held.not_after + GRACE:
        return Refusal(
            reason="too-late", message=f"This certificate has ended more than {GRACE.days} days ago: metrica device add"
        )
    return "issue"


def life_of(now: datetime, lasts: timedelta) -> tuple[datetime, datetime]:
    """Return from when to when a certificate is good that is made now."""
    return now - min(BACKDATED, lasts / 10), now + lasts


def listed(kept: Mapping[str, datetime], known: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    """Return which serials are revoked, and since when: those the database knows, and those in the list that is there.

    A database that was restored may have forgotten some: nobody is let in again by that.
    """
    both = {**kept, **known}
    return {serial: at for serial, at in sorted(both.items()) if at + LONGEST_LIFE > now}


def is_due(in_force: Iterable[str], wanted: Iterable[str], made_at: datetime | None, now: datetime) -> bool:
    """Whether the list of what is revoked is to be written: it lacks something, or is older than a day."""
    return made_at is None or not set(wanted) <= set(in_force) or not made_at <= now < made_at + CRL_MADE_ANEW
