"""``/api/v1/devices``: the fleet as it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metrica_fleet.identity import is_name
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.answers import page, versioned
from metrica_hub.web.cursors import device_of, from_cursor, limit_of, only, to_cursor
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.web.reads import Reads

_KIND = "device"


class Devices:
    """The resource."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/api/v1/devices", "listDevices", self.list_all, "All devices, by name."),
            Route("GET", "/api/v1/devices/{device}", "getDevice", self.get, "One device as it is now."),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after"))
        limit = limit_of(request)
        after = ""
        if "after" in request.query:
            after = from_cursor(_KIND, request.query["after"])
            if not is_name(after):
                raise BadRequest("this cursor names no device", parameter="after")
        found = await self._reads.devices(after=after, limit=limit + 1)
        more = to_cursor(_KIND, found[limit - 1].device) if len(found) > limit else None
        return page(request, found[:limit], more)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one device."""
        only(request, ())
        name = device_of(request)
        device = await self._reads.device(name)
        if device is None:
            raise NotThere(f'No device "{name}" was ever heard of.')
        return versioned(request, device, str(device.change))
