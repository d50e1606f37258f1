"""Is this device cut off? When neither Git nor the bus could be reached for a while; each alone has its own event."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Saying

LOST_S: Final = 600.0
"""A network that is away for so long is lost, and that is told (SEED: within 15 minutes)."""


class Contact(Value, frozen=True, kw_only=True):
    """What is known of the world outside."""

    heard_s: float
    """When anything outside answered last; before that, when the agent began to ask."""
    linked: bool = False
    """Whether the bus is connected just now."""
    lost_since_s: float | None = None
    """Since when nothing was heard, once it was told that the network is lost."""


def heard(contact: Contact, now_s: float) -> Contact:
    """Return the contact after something outside answered."""
    return replace(contact, heard_s=now_s)


def linked(contact: Contact, now_s: float, *, stands: bool) -> Contact:
    """Return the contact after the bus was connected or lost; until just now it was heard in both cases."""
    return replace(contact, heard_s=now_s, linked=stands)


def due_s(contact: Contact, lost_s: float = LOST_S) -> float | None:
    """Return when to look again; ``None``: not before something happens."""
    return None if contact.linked or contact.lost_since_s is not None else contact.heard_s + lost_s


def to_tell(contact: Contact, now_s: float, lost_s: float = LOST_S) -> Saying | None:
    """Return what is to be told; ``told`` once it is."""
    since_s = contact.lost_since_s
    if since_s is not None and contact.heard_s > since_s:
        away_s = round(contact.heard_s - since_s)
        message = f"the network is back; nothing outside could be reached for {in_words(away_s)}"
        return Saying(kind="network.back", message=message, detail={"away_s": away_s})
    due = due_s(contact, lost_s)
    if due is None or now_s < due:
        return None
    away_s = round(now_s - contact.heard_s)
    message = (
        f"neither Git nor the bus could be reached for {in_words(away_s)}; what runs goes on, and what is said is kept"
    )
    return Saying(kind="network.lost", reason="nothing-reachable", message=message, detail={"away_s": away_s})


def told(contact: Contact, before: Contact) -> Contact:
    """Return the contact now that it is told what was true ``before`` the telling began."""
    return replace(contact, lost_since_s=None if before.lost_since_s is not None else before.heard_s)


def in_words(seconds: float) -> str:
    """Return a length of time as a person says it."""
    for unit, length_s in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} seconds"
