"""The ledger is lost: what can be known without it, from what is current on the disk.

It is found by what is remembered (nothing at all) and what is current (something), not by how the file was opened: so
a power cut between a new file and its first entry changes nothing.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Deployed, Memory, Release, Saying
from metrica_fleet.identity import short

UNREADABLE: Final = "ledger-unreadable"
LOST: Final = "ledger-lost"


class Found(Value, frozen=True, kw_only=True):
    """What is there at the start."""

    unreadable: str | None = None
    """What is wrong with the ledger and where it is kept, when it could not be read."""
    is_current: bool = False
    """Whether ``current`` names a release."""
    release: Release | None = None
    """That release, if it can be read."""
    damage: str | None = None
    """How it differs from what was published."""


def remembers_nothing(memory: Memory) -> bool:
    """Whether ``memory`` is that of a device that never deployed anything, or forgot it."""
    return memory.accepted is None and memory.confirmed is None and memory.trial is None and memory.safe is None


def rebuilt(memory: Memory, found: Found) -> Settle:
    """Return ``memory`` with the release that is current as confirmed, where the ledger is lost; and say so loudly.

    What was refused, and what was confirmed before, is forgotten. History goes forward from the commit that the release
    was first made of: what the device accepted after that is in the lost ledger only.
    """
    lost = remembers_nothing(memory) and found.is_current
    if found.unreadable is None and not lost:
        return Settle(memory=memory)
    reason = UNREADABLE if found.unreadable is not None else LOST
    why = f"the ledger {found.unreadable}" if found.unreadable is not None else "the ledger remembered nothing"
    release = found.release
    if not lost or release is None or release.commit is None or found.damage is not None:
        saying = Saying(kind="ledger.renewed", reason=reason, message=f"{why}; a new one was begun: {_unknown(found)}")
        return Settle(memory=memory, sayings=(saying,))
    deployed = Deployed(commit=release.commit, release=release.digest)
    message = (
        f"{why}; it was rebuilt: release {short(release.digest)} is current and whole, so it is held for confirmed"
    )
    saying = Saying(
        kind="ledger.renewed", reason=reason, message=message, commit=deployed.commit, release=deployed.release
    )
    after = replace(memory, accepted=deployed.commit, role=release.role, resolved=deployed, confirmed=deployed, tags=())
    return Settle(memory=after, sayings=(saying,))


def _unknown(found: Found) -> str:
    if not found.is_current:
        return "nothing was current"
    if found.damage is not None:
        return f"the current release is damaged: {found.damage}"
    return "the current release does not say which commit it was made of"
