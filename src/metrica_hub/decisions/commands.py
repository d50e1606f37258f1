"""Commands as the hub keeps them, and what devices answer: read whole, bounded, and told apart from garbage."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec

from metrica_fleet.codec import decode
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.messages import Answer
from metrica_fleet.records import Scalar
from metrica_fleet.topics import ANSWERS, address_of

State = Literal["queued", "sent", "running", "done", "failed", "refused", "expired", "cancelled"]
"""``queued``: the device is not there; ``sent``: it has not said yet that it has it; ``refused``: it will not."""
OPEN: Final = ("queued", "sent", "running")
"""States that others follow."""

OPEN_MOST: Final = 100
"""Commands of a device that may wait or run."""
AGAIN_S: Final = 15.0
"""After which a command is sent again to a device that has not answered: it does nothing twice."""
TAKEN_WITHIN_S: Final = 60.0
"""For a device that is there to take a command, even where the operator would not have it wait."""
ANSWERED_WITHIN_S: Final = 60.0
"""More than the command's own time: for its last word to come."""
KEPT_BYTES: Final = 2 * 1024 * 1024
"""Of the parts of an answer: twice what an agent sends, for what was answered over several connections."""
COMMANDS_KEPT_DAYS: Final = 90
PARTS_KEPT_DAYS: Final = 7


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A command that an operator gives."""

    device: DeviceId
    verb: str
    arguments: dict[str, Scalar]
    timeout_s: float
    queue_s: float
    """How long it may wait for its device; 0: only if that is there now."""
    by: str


class CommandState(msgspec.Struct, frozen=True, kw_only=True):
    """A command, and how far it has come."""

    id: int
    device: str
    verb: str
    arguments: dict[str, Scalar]
    timeout_s: float
    state: State
    reason: str | None
    message: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    sent_at: datetime | None
    begun_at: datetime | None
    """When the device said that it does it."""
    ended_at: datetime | None
    parts: int
    """How many parts its answer has, by the device; what is missing of them was lost on the way."""

    @property
    def is_open(self) -> bool:
        """Whether something is still to come of it."""
        return self.state in OPEN


class CommandPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer: lines of a log, or a piece of a file (base64)."""

    part: int
    lines: tuple[str, ...]
    data: bytes


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A command that is to be sent now."""

    command: CommandState
    connection: int | None
    """Of its device."""
    signed: bytes | None
    """As it was sent before."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of a command."""

    device: DeviceId
    answer: Answer


def read_answer(topic: str, payload: bytes, fleet: FleetId) -> Answered:
    """Return what ``payload`` says. What Postgres can't hold is replaced: it is text for people.

    Raises:
        Unusable: it can't be read, or is of another fleet.
    """
    address = address_of(topic)
    if address.fleet != fleet or address.device is None:
        raise Unusable("this is not of a device of our fleet", reason="other-fleet")
    answer = decode(ANSWERS, payload)
    if not isinstance(answer, Answer):
        raise Unusable("this is no answer", reason="wrong-type")
    cleaned = msgspec.structs.replace(
        answer, message=_storable(answer.message), lines=tuple(map(_storable, answer.lines))
    )
    return Answered(device=address.device, answer=cleaned)


def _storable(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
