"""``/api/v1/events`` and a device's own: what happened, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_hub.errors import NotThere
from metrica_hub.web.answers import page
from metrica_hub.web.cursors import device_of, from_cursor, limit_of, number, only, to_cursor
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.web.reads import Reads

_KIND: Final = "event"
_NEWEST: Final = 2**63 - 1


class Events:
    """The resource."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/api/v1/events", "listEvents", self.list_all, "Events of all devices, newest first."),
            Route(
                "GET",
                "/api/v1/devices/{device}/events",
                "listDeviceEvents",
                self.list_of_device,
                "Events of one device, newest first.",
            ),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of all events."""
        return await self._list(request, None)

    async def list_of_device(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of one device's events."""
        return await self._list(request, device_of(request))

    async def _list(self, request: web.Request, device: str | None) -> web.StreamResponse:
        only(request, ("limit", "after"))
        limit = limit_of(request)
        before = _NEWEST
        if "after" in request.query:
            before = number(from_cursor(_KIND, request.query["after"]))
        found = await self._reads.events(device=device, before=before, limit=limit + 1)
        if not found and device is not None and await self._reads.device(device) is None:
            raise NotThere(f'No device "{device}" was ever heard of.')
        more = to_cursor(_KIND, found[limit - 1].cursor) if len(found) > limit else None
        return page(request, found[:limit], more)
