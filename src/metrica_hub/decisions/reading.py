"""What of a commit concerns the hub: which devices the fleet has, how it rolls out, who may sign.

Read by the same code as a device reads it with (``metrica_fleet.definition``). A commit whose ``fleet.toml`` is wrong
can't be used by anybody; what else is wrong in it the devices that it concerns refuse by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_fleet.definition import DefinitionError, RolloutPolicy, rollout_in
from metrica_fleet.identity import DeviceId
from metrica_fleet.signers import FILE as SIGNERS

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_PROBLEMS: Final = 20
_MOST_WORDS: Final = 500


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A commit as the hub reads it."""

    fleet: str | None = None
    """The fleet's name; ``None``: it can't be used, and ``problems`` say why."""
    devices: dict[DeviceId, tuple[str, ...]] = {}
    """Each with its tags."""
    policy: RolloutPolicy | None = None
    """How the commit rolls out; ``None``: every device begins at once."""
    signers: str | None = None
    """``allowed_signers``, as it stands there."""
    problems: tuple[str, ...] = ()


def is_read(path: str) -> bool:
    """Whether the content of ``path`` matters to the hub; of all others it is enough that they are there."""
    match path.split("/"):
        case ["fleet.toml"] | ["devices", _]:
            return True
        case _:
            return path == SIGNERS


def reading_of(files: Mapping[str, bytes]) -> Reading:
    """Return what the repository ``files`` say; those of which ``is_read`` says no may be empty."""
    signers = _storable(files[SIGNERS]) if SIGNERS in files else None
    try:
        found = rollout_in(files)
    except DefinitionError as error:
        problems = tuple(str(problem)[:_MOST_WORDS] for problem in error.problems[:MOST_PROBLEMS])
        return Reading(signers=signers, problems=problems)
    return Reading(fleet=found.fleet, devices=found.devices, policy=found.policy, signers=signers)


def has_key(signers: str, line: str) -> bool:
    """Whether ``signers``, the text of ``allowed_signers``, has the key of ``line``, so that devices believe it."""
    return line.rsplit(maxsplit=1)[-1] in signers.split()


def of_another_fleet(reading: Reading, fleet: str) -> Reading:
    """Return ``reading`` as one that can't be used: the repository is not this hub's."""
    why = f'fleet.toml: the fleet\'s name is "{reading.fleet}", and this hub\'s is "{fleet}"; mend one of them'
    return Reading(signers=reading.signers, problems=(why,))


def _storable(content: bytes) -> str:
    """Return ``content`` as text that a database keeps."""
    return content.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
