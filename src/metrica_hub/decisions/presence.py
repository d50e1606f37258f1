"""Which word about a device's connection prevails.

A device counts its connections; the larger number is the later one. So a last will of an older connection that
arrives after the device came back is history (PEERS.md 4e). ``offline`` is the last word of a connection: an
``online`` of the same number that comes after it is a repetition. The store says the same in SQL
(queries/put_presence.sql); an integration test holds the two together.

One exception keeps a device with a new SD card, whose count begins again, from being taken for history for ever:
a live ``online`` of another boot begins a new count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrica_fleet.messages import Presence


@dataclass(frozen=True, slots=True)
class Word:
    """A presence, and whether the broker replayed it from its memory instead of passing it on."""

    presence: Presence
    replayed: bool


def prevails(new: Word, held: Presence) -> bool:
    """Whether ``new`` replaces what is held."""
    if _rank(new.presence) >= _rank(held):
        return True
    return not new.replayed and new.presence.state == "online" and new.presence.boot_id != held.boot_id


def _rank(presence: Presence) -> tuple[int, bool]:
    return presence.connection, presence.state == "offline"
