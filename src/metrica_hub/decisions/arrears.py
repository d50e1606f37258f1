"""Which devices have said records that do not arrive, although they themselves are heard.

Records have numbers, and what is lost on the way is sent again every two minutes at most. So a gap in a device's
stream that does not close while the device is heard is no accident of the network: something between the two lets
through what it likes, heartbeats for example, and swallows the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STILL_S: Final = 115.0
"""A watermark that stands still for so long, in front of a gap: a device that is answered tries twice in it, after
30 s and 60 s, a quarter more at most."""


class Owed(NamedTuple):
    """A device that is heard, and has said more than is stored without a gap."""

    device: str
    stream: str
    stored: int
    """Everything up to here."""
    said: int
    """As far as is known."""


class Arrear(NamedTuple):
    """How long that has been so."""

    owed: Owed
    since_s: float
    """Since when ``stored`` stands still."""


def weighed(before: Mapping[str, Arrear], owed: Iterable[Owed], now_s: float) -> dict[str, Arrear]:
    """Return who owes records now, and since when; whoever moved on, or caught up, begins anew."""
    after: dict[str, Arrear] = {}
    for one in owed:
        last = before.get(one.device)
        stands = last is not None and (last.owed.stream, last.owed.stored) == (one.stream, one.stored)
        after[one.device] = Arrear(one, last.since_s if stands and last is not None else now_s)
    return after


def missing(arrears: Mapping[str, Arrear], now_s: float) -> dict[str, int]:
    """Return of how many numbers each device's stream is short for too long to be an accident."""
    return {
        device: arrear.owed.said - arrear.owed.stored
        for device, arrear in arrears.items()
        if now_s - arrear.since_s >= STILL_S
    }
