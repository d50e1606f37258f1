"""What runs on a member: two services that are well, as the agent's own decision tells it of an engine's containers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.services import Shown, shown
from metrica_agent.decisions.world import Container, Sample

if TYPE_CHECKING:
    from metrica_agent.decisions.world import Stamp

REPAIRED: Final = "web"
"""The service that exits now and then, and is put right."""
_OTHER: Final = "recorder"


def runs(began: Stamp, repaired: Stamp) -> Shown | None:
    """Return what to tell of a machine.

    Args:
        began: when its containers were started, by its clock.
        repaired: when one of them was started last.
    """
    containers = (_container(_OTHER, began), _container(REPAIRED, repaired))
    return shown(None, Sample(at_s=repaired.uptime_s, containers=containers), None, ())


def _container(service: str, started: Stamp) -> Container:
    return Container(
        id=service,
        service=service,
        state="running",
        health="healthy" if service == REPAIRED else None,
        exit_code=0,
        restarts=0,
        started_at=started.at or "",
        inputs="",
        image=f"registry.example.org/camera/{service}:1.4.0",
        image_id=f"sha256:{hashlib.sha256(service.encode()).hexdigest()}",
    )
