"""``/api/v1/sd/netdata``: where Prometheus finds each device's Netdata, in the format of its HTTP service discovery.

The address is the device's name in a template: names in a VPN's DNS are devices' names (docs/decisions/0025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from metrica_hub.web.answers import json
from metrica_hub.web.cursors import only
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.decisions.fleet_state import DeviceState
    from metrica_hub.web.board import Board


class TargetGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One device's Netdata."""

    targets: tuple[str, ...]
    """``host:port``, one."""
    labels: dict[str, str]
    """``device`` and ``role`` stay; those that begin with ``__meta_`` are for relabelling."""


class NetdataTargets:
    """The resource."""

    def __init__(self, board: Board, fleet: str, template: str) -> None:
        """``template``: an address with ``{device}`` in it."""
        self._board = board
        self._fleet = fleet
        self._template = template

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "Where each device's Netdata is, for Prometheus' http_sd_configs."
        return (Route("GET", "/api/v1/sd/netdata", "getNetdataTargets", self.get, about, answers=list[TargetGroup]),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with all devices that were ever heard."""
        only(request, ())
        devices = sorted(self._board.unsorted_devices(), key=lambda one: one.device)
        return json([self._group(one) for one in devices if one.connection != "never-seen"])

    def _group(self, device: DeviceState) -> TargetGroup:
        return TargetGroup(
            targets=(self._template.replace("{device}", device.device),),
            labels={
                "device": device.device,
                "role": device.role or "",
                "__meta_metrica_fleet": self._fleet,
                # As Prometheus' own discoveries write lists: a tag is between commas wherever it stands.
                "__meta_metrica_tags": f",{','.join(device.tags)}," if device.tags else "",
                "__meta_metrica_connection": device.connection,
            },
        )
