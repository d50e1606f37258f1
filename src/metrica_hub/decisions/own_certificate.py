"""When the hub signs its own certificate for the broker anew, and when a person is to look at it.

The rule is the devices' (``metrica_fleet/enrolment.py``), with one case more. A device asks nothing while its clock is
wrong; the hub signs for itself, so that what was signed by a wrong clock is signed again when the clock is right.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from metrica_fleet.enrolment import chance_of, renewal_due
from metrica_hub.decisions.expiry import Term, told_at


class Own(NamedTuple):
    """The certificate as it is in its file."""

    serial: str
    """In hexadecimal."""
    not_before: datetime
    not_after: datetime
    is_renewable: bool
    """Whether the authority that signed it is held here."""


def is_to_be_renewed(own: Own, now: datetime) -> bool:
    """Whether it is to be signed anew: most of its life is over, or it was signed by a clock that was ahead."""
    if not own.is_renewable:
        return False
    return now < own.not_before or now >= renewal_due(own.not_before, own.not_after, chance_of(own.serial))


def is_expiring(own: Own, now: datetime) -> bool:
    """Whether it ends within 14 days (a sixth of its life, if that is shorter), or has ended."""
    return now >= told_at(Term("hub", own.not_before, own.not_after))
