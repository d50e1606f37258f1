"""What a person may order, as values. An order is obeyed before anything else, and obeying it twice changes nothing."""

from __future__ import annotations

from metrica_agent.decisions.world import Value
from metrica_fleet.identity import Commit


class SafeModeOrder(Value, frozen=True, kw_only=True, tag="safe-mode"):
    """Enter safe mode, or leave it."""

    on: bool
    reason: str


class HoldOrder(Value, frozen=True, kw_only=True, tag="hold"):
    """Let nothing change from the end of a trial in progress on, or go on."""

    on: bool
    reason: str


class HistoryOrder(Value, frozen=True, kw_only=True, tag="accept-history"):
    """Let ``commit`` follow whatever was accepted before, though its history does not."""

    commit: Commit
    reason: str


Order = SafeModeOrder | HoldOrder | HistoryOrder


class Given(Value, frozen=True, kw_only=True):
    """An order that waits to be obeyed."""

    id: str
    """Whoever gave the order is answered under it."""
    order: Order
