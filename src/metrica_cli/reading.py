"""What the Compose files of a checkout read besides themselves: found by the code with which a device refuses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.git.references import COMPOSE_FILE, found
from metrica_agent.decisions.references import require_inside
from metrica_fleet.errors import Unusable
from metrica_fleet.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from metrica_fleet.definition import Fleet
    from metrica_fleet.identity import RoleId

_STATE: Final = "/var/lib/metrica/data"
"""Where a device has its data unless it is told otherwise."""


def reads_outside(root: Path, fleet: Fleet) -> list[Problem]:
    """Return what a device would refuse of the Compose files of ``fleet``, which is at ``root``; each once."""
    return list({problem.text: problem for role in fleet.roles for problem in _of_role(root, fleet, role)}.values())


def _of_role(root: Path, fleet: Fleet, role: RoleId) -> Iterator[Problem]:
    folder = root / "roles" / role
    file = folder / COMPOSE_FILE
    if folder.is_symlink() or file.is_symlink() or not file.is_file():
        return  # a link may lead anywhere on this machine; a device says what it makes of it
    try:
        references = found(folder)
    except Unusable as error:
        yield _problem(role, error)
        return
    for device, defined in fleet.devices.items():
        if defined.role != role:
            continue
        try:
            require_inside(references, {**defined.variables, **_own(fleet.name, device, role)})
        except Unusable as error:
            yield _problem(role, error)


def _own(fleet: str, device: str, role: str) -> Mapping[str, str]:
    return {
        "METRICA_DATA": f"{_STATE}/{role}",
        "METRICA_DEVICE": device,
        "METRICA_FLEET": fleet,
        "METRICA_LOCKS": f"{_STATE}/{role}/locks",
        "METRICA_ROLE": role,
    }


def _problem(role: RoleId, error: Unusable) -> Problem:
    return Problem(f"roles/{role}", None, "", error.message, error.reason)
