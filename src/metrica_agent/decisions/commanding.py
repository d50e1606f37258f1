"""Which command is taken, once, and what is remembered of it: a number that was taken is never taken again.

Not the highest number alone: a command that was lost on the way is sent again, behind one that came after it. So the
numbers of the last commands are kept with what came of them, and all below those count as taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Saying
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import BootId
from metrica_fleet.messages import Answer

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_fleet.commands import Command
    from metrica_fleet.identity import DeviceId, FleetId

KEPT: Final = 200
"""Commands that are remembered, with what came of them."""
REBOOT: Final = "reboot"
_MESSAGE_CHARACTERS: Final = 2000


class Taken(Value, frozen=True, kw_only=True):
    """A command that was taken: what it was, and how far it is."""

    number: int
    verb: str
    boot_id: BootId
    """Of the boot in which it was taken."""
    state: Literal["running", "done", "failed", "refused"] = "running"
    reason: str | None = None
    message: str = ""


class Book(Value, frozen=True, kw_only=True):
    """The commands that are remembered."""

    floor: int = 0
    """All up to here count as taken, and nothing is known of them."""
    taken: dict[int, Taken] = {}
    """By number, rising."""


def noted(book: Book, taken: Taken) -> Book:
    """Return ``book`` with one more command, or with what came of it; the oldest go when there are too many."""
    numbers = sorted({*book.taken, taken.number})
    known = {**book.taken, taken.number: taken}
    dropped, kept = numbers[:-KEPT], numbers[-KEPT:]
    return Book(floor=max([book.floor, *dropped]), taken={number: known[number] for number in kept})


def require_for_us(command: Command, fleet: FleetId, device: DeviceId, now: datetime | None) -> None:
    """Make sure that a command is for this device, and now. ``now``: ``None`` while the clock can't be trusted.

    Raises:
        Unusable: ``other-fleet``, ``other-device`` or ``expired``.
    """
    if command.fleet != fleet:
        raise Unusable(f'it is for fleet "{command.fleet}", and this is {fleet}', reason="other-fleet")
    if command.device != device:
        raise Unusable(f'it is for device "{command.device}", and this is {device}', reason="other-device")
    if now is not None and now > command.expires_at:
        raise Unusable(f"it was good until {command.expires_at.isoformat()}, and that is over", reason="expired")


def met(book: Book, number: int) -> Taken | None:
    """Return what is known of a command that was taken; ``None`` for one that was not.

    Raises:
        Unusable: ``replayed``: it is older than all that is remembered.
    """
    if number in book.taken:
        return book.taken[number]
    if number <= book.floor:
        message = f"number {number} is older than all that are remembered, up to {book.floor}: it was taken long ago"
        raise Unusable(message, reason="replayed")
    return None


def interrupted(book: Book, boot_id: BootId) -> tuple[Taken, ...]:
    """Return how those commands ended that ran when the agent did: the next boot is what ``reboot`` asked for."""
    return tuple(_ended(one, boot_id) for one in book.taken.values() if one.state == "running")


def _ended(taken: Taken, boot_id: BootId) -> Taken:
    if taken.verb == REBOOT and taken.boot_id != boot_id:
        return replace(taken, state="done", message="the machine was started anew")
    message = "the agent ended while it did this; how far it came is not known"
    return replace(taken, state="failed", reason="interrupted", message=message)


def answer_to(taken: Taken, part: int = 0) -> Answer:
    """Return what is said of a command now."""
    return Answer(
        number=taken.number,
        state=taken.state,
        reason=taken.reason,
        message=taken.message[:_MESSAGE_CHARACTERS],
        part=part,
    )


def told(taken: Taken) -> Saying:
    """Return the event of a command that ended."""
    return Saying(
        kind="command.done" if taken.state == "done" else "command.failed",
        reason=taken.reason,
        message=f"{taken.verb}: {taken.message}" if taken.message else taken.verb,
        detail={"verb": taken.verb, "number": taken.number},
    )
