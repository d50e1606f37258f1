"""Where a crowd stands, in numbers; the sum of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one process says of its devices every second, and what all say together."""

    at_s: float = 0.0
    devices: int = 0
    on: int = 0
    """Switched on."""
    connected: int = 0
    cut_off: int = 0
    """With a network that passes nothing."""
    events: int = 0
    records: int = 0
    """Events, heartbeats, and what a device's telemetry has to say of itself."""
    stored: int = 0
    """Records that the hub has said to have."""
    unheard: int = 0
    """Devices with an event that is not among them."""
    reboots: int = 0
    cuts: int = 0
    poison: int = 0
    over: bool = False
    """All was stored, or patience is at its end."""


def summed(parts: Iterable[Tally]) -> Tally:
    """Return what all say together."""
    whole = Tally(over=True)
    for part in parts:
        pairs = {
            name: getattr(whole, name) + getattr(part, name)
            for name in Tally.__struct_fields__
            if name not in {"at_s", "over"}
        }
        whole = Tally(**pairs, at_s=max(whole.at_s, part.at_s), over=whole.over and part.over)
    return whole


def in_words(tally: Tally, before: Tally | None = None) -> str:
    """Return one line for people; ``before``: an earlier one, for what is stored a second."""
    rate = ""
    if before is not None and tally.at_s > before.at_s:
        rate = f" ({max(0, tally.stored - before.stored) / (tally.at_s - before.at_s):,.0f}/s)"
    troubles = [
        f"{count:,} {what}"
        for count, what in (
            (tally.cut_off, "cut off"),
            (tally.devices - tally.on, "off"),
            (tally.reboots, "reboots so far"),
            (tally.cuts, "cuts so far"),
            (tally.poison, "bad messages so far"),
        )
        if count
    ]
    return (
        f"{tally.at_s:6.0f} s  {tally.connected:,} of {tally.devices:,} connected;"
        f" {tally.records:,} records told, {tally.events:,} of them events;"
        f" {tally.stored:,} stored{rate}" + (f"; {', '.join(troubles)}" if troubles else "")
    )
