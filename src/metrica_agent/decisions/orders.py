"""What a person may order, as values. An order is obeyed before anything else.

Obeying one twice changes nothing, but for work on what runs: that is ordered of a running agent, and ends with it.
"""

from __future__ import annotations

from metrica_agent.decisions.value import Value
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


class SignedStopOrder(Value, frozen=True, kw_only=True, tag="stop"):
    """Obey a stop order that came by a file: whoever brings it need not be who may give it."""

    text: str
    signature: str
    reason: str = "signed, and brought by a file"


class BroughtOrder(Value, frozen=True, kw_only=True, tag="brought"):
    """Begin ``commit``, which a stick brought, without waiting for the hub to open a rollout's gate."""

    commit: Commit
    reason: str


class RestartOrder(Value, frozen=True, kw_only=True, tag="restart"):
    """Restart the containers of one service."""

    service: str
    reason: str


class RedeployOrder(Value, frozen=True, kw_only=True, tag="redeploy"):
    """Make the containers of what runs anew."""

    reason: str


Work = RestartOrder | RedeployOrder
"""What is done to what runs, and not again after a crash."""
Order = SafeModeOrder | HoldOrder | HistoryOrder | SignedStopOrder | BroughtOrder | RestartOrder | RedeployOrder


class Failed(Value, frozen=True, kw_only=True):
    """Why an order came to nothing."""

    reason: str
    message: str


class Given(Value, frozen=True, kw_only=True):
    """An order that waits to be obeyed."""

    id: str
    """Whoever gave the order is answered under it."""
    order: Order
