"""Whose certificate ends soon, although a device renews it by itself long before.

A device asks for its next certificate between two thirds and three quarters of the present one's life
(``metrica_fleet/enrolment.py``). So one that has less than a sixth left, or 14 days where it lives for longer
than 84, was not renewed although its device tried for weeks, or was away for as long.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_hub.decisions.identity import GRACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AHEAD: Final = timedelta(days=14)
"""So long before its end a certificate is told ..."""
SHARE: Final = 6
"""... and never before the last sixth of its life: one that lives for ten days is not told from its first on."""


class Term(NamedTuple):
    """From when to when the newest certificate of a device is good that was not revoked."""

    device: str
    not_before: datetime
    not_after: datetime


class Outlook(NamedTuple):
    """What is to come."""

    earliest: datetime | None
    """The end of the certificate that ends first; ``None``: there is none."""
    expiring: Mapping[str, datetime]
    """The ends of those that are due for a person, by device; some may be past."""


def outlook(terms: Iterable[Term], now: datetime) -> Outlook:
    """Return which certificates end soon, or have ended and may still be renewed."""
    alive = [term for term in terms if now <= term.not_after + GRACE]
    expiring = {term.device: term.not_after for term in alive if now >= told_at(term)}
    return Outlook(min((term.not_after for term in alive), default=None), expiring)


def told_at(term: Term) -> datetime:
    """Return from when on a person is told of a certificate."""
    return term.not_after - min(AHEAD, (term.not_after - term.not_before) / SHARE)
