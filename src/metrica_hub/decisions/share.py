"""Whether a hub that shares the records with others takes its part in them.

The broker deals to each member in turn and does not ask whether it gets on. One that can't commit, because it alone
has lost the database, would sit on its part for ever, and the devices, which send again what is not stored, would see
part of that dealt to it again. So it leaves; what it has not committed comes again from the devices, to the others.

A short outage of the database is sat out, because it is one of all: whoever stays finds all that was said meanwhile
in the broker's queue.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

_PURPOSE: Final = b"metrica: the group that shares records"
LOOKS_IN_VAIN: Final = 15
"""So often nothing was committed of what waits. Not a time: a hub that was frozen has not looked."""


def group_of(secret: bytes | None) -> str:
    """Return the name of the group that the hubs share the records in, by the broker's password that they share.

    Nobody is kept from joining a group whose name he knows, and what the broker deals to one who may not read it is
    dropped: a device could swallow its part of all records. So the name can't be guessed; ``None``: there is no secret.
    """
    return "hub" if secret is None else f"hub-{hmac.digest(secret, _PURPOSE, 'sha256')[:16].hex()}"


@dataclass(frozen=True, slots=True)
class Part:
    """What a hub makes of its part."""

    taken: bool = True
    """Whether it wants any."""
    batches: int = 0
    """How many were committed at the last look."""
    in_vain: int = 0
    """How many looks found no progress."""


def looked(part: Part, *, waiting: int, batches: int) -> Part:
    """Return what becomes of ``part`` when ``waiting`` messages are not committed and ``batches`` ever were."""
    if not waiting:
        return Part(taken=True, batches=batches)
    if batches != part.batches:
        return Part(taken=part.taken, batches=batches)
    in_vain = part.in_vain + 1
    return Part(taken=part.taken and in_vain < LOOKS_IN_VAIN, batches=batches, in_vain=in_vain)
