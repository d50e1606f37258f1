"""Whether two machines go by one name: a cloned card, or an id that was given twice.

The broker lets one client of a name in and ends the other's connection, so that both come by turns. A boot id is drawn
at each boot and never comes back: a boot that connects *anew*, with a larger number, after another one connected, is a
second machine. A boot that is merely heard late, or given again by the broker, has no new number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec import structs

from metrica_hub.decisions.fleet_state import Claimant

if TYPE_CHECKING:
    from datetime import datetime

ENDS_S: Final = 900.0
"""Who was not heard for so long has given up: an agent whose session is taken comes back within a minute."""
_MOST: Final = 16
"""Boots that are remembered of one name."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot under the name."""

    claimant: Claimant
    heard_s: float
    """On the hub's steady clock."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Who has connected under a name, the last one last."""

    boots: tuple[Boot, ...] = ()
    returned_s: float | None = None
    """When a boot last came back after another."""


def greeted(claims: Claims, claimant: Claimant, now_s: float) -> Claims:
    """Return the claims after ``claimant`` has connected."""
    known = next((one for one in claims.boots if one.claimant.boot_id == claimant.boot_id), None)
    if known is not None and claimant.connection <= known.claimant.connection:
        return claims
    is_back = known is not None and known is not claims.boots[-1]
    others = tuple(one for one in claims.boots if one is not known)[-_MOST + 1 :]
    return Claims((*others, Boot(claimant, now_s)), now_s if is_back else claims.returned_s)


def heard(claims: Claims, at: datetime, now_s: float) -> Claims:
    """Return the claims after whoever connected last was heard."""
    if not claims.boots:
        return claims
    last = claims.boots[-1]
    boot = Boot(structs.replace(last.claimant, last_heard_at=max(at, last.claimant.last_heard_at)), now_s)
    return Claims((*claims.boots[:-1], boot), claims.returned_s)


def claimants(claims: Claims, now_s: float) -> tuple[Claimant, ...]:
    """Return those who claim the name now, the last heard first; none where it is one machine's."""
    if claims.returned_s is None:
        return ()
    boots = [one for one in claims.boots[::-1] if now_s - one.heard_s <= ENDS_S]
    return tuple(one.claimant for one in boots) if len(boots) > 1 else ()


def resumed(found: tuple[Claimant, ...], now_s: float) -> Claims:
    """Return the claims that another hub found: each has to come back in time, counted from now."""
    return Claims(tuple(Boot(one, now_s) for one in found[::-1]), now_s if found else None)
