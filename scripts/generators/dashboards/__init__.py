"""stack/vps/grafana/dashboards/*.json: what Grafana shows, built with Grafana's own types (docs/decisions/0026)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scripts.generators.dashboards.device import device
from scripts.generators.dashboards.fleet import fleet
from scripts.generators.dashboards.hub import hub
from scripts.generators.dashboards.logs import logs
from scripts.generators.dashboards.rollouts import rollouts
from scripts.generators.dashboards.vps import vps

if TYPE_CHECKING:
    from collections.abc import Callable

DASHBOARDS: Final[dict[str, Callable[[], str]]] = {
    "stack/vps/grafana/dashboards/fleet.json": fleet,
    "stack/vps/grafana/dashboards/device.json": device,
    "stack/vps/grafana/dashboards/rollouts.json": rollouts,
    "stack/vps/grafana/dashboards/hub.json": hub,
    "stack/vps/grafana/dashboards/vps.json": vps,
    "stack/vps/grafana/dashboards/logs.json": logs,
}
"""Path in the repository → what makes its text."""
