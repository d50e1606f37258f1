"""Which word about a device's connection prevails.

A device counts its connections; the larger number is the later one. So a last will of an older connection that
arrives after the device came back is history (PEERS.md 4e). ``offline`` is the last word of a connection: an
``online`` of the same number that comes after it is a repetition. The store says the same in SQL
(queries/put_presence.sql); an integration test holds the two together.

Between two boots the numbers do not tell: the count of a device with a new SD card begins again, and two devices may go
by one name. There the order of what is passed on live does. An ``online`` of another boot begins a new count; an
``offline`` of another boot than the one that is online is the late will of a connection that was followed by it.
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
    if not new.replayed and new.presence.boot_id != held.boot_id:
        if new.presence.state == "online":
            return True
        if held.state == "online":
            return False
    return _rank(new.presence) >= _rank(held)


def _rank(presence: Presence) -> tuple[int, bool]:
    return presence.connection, presence.state == "offline"
