"""``/api/v1/events`` and a device's own: what happened, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from metrica_fleet.records import EVENT_KINDS
from metrica_hub.decisions.fleet_state import EventRow
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.answers import Page, page
from metrica_hub.web.cursors import AFTER, LIMIT, NEWEST, device_of, limit_of, only, part_of, start_of
from metrica_hub.web.routing import Parameter, Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.web.reads import Reads

_KIND: Final = "event"
KINDS: Final = tuple(sorted({kind.partition(".")[0] for kind in EVENT_KINDS} | set(EVENT_KINDS)))
"""What can be asked for: each kind, and each family of them."""
_OF_KIND: Final = Parameter("kind", "such as release.refused, or all of a family, such as release", Literal[KINDS])


class Events:
    """The resource."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/api/v1/events",
                "listEvents",
                self.list_all,
                "Events of all devices, newest first.",
                query=(LIMIT, AFTER, _OF_KIND),
                answers=Page[EventRow],
            ),
            Route(
                "GET",
                "/api/v1/devices/{device}/events",
                "listDeviceEvents",
                self.list_of_device,
                "Events of one device, newest first.",
                query=(LIMIT, AFTER, _OF_KIND),
                answers=Page[EventRow],
            ),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of all events."""
        return await self._list(request, None)

    async def list_of_device(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of one device's events."""
        return await self._list(request, device_of(request))

    async def _list(self, request: web.Request, device: str | None) -> web.StreamResponse:
        only(request, ("limit", "after", "kind"))
        limit, kind = limit_of(request), kind_of(request)
        before = start_of(request, _KIND, NEWEST)
        found = await self._reads.events(device=device, before=before, limit=limit + 1, kind=kind)
        if not found and device is not None and await self._reads.device(device) is None:
            raise NotThere(f'No device "{device}" was ever heard of.')
        return page(request, *part_of(_KIND, found, limit, lambda one: one.cursor))


def kind_of(request: web.Request) -> str | None:
    """Return the kind of events asked for, or the family of kinds ("release"); ``None`` is all.

    Raises:
        BadRequest: there is none of that name.
    """
    kind = request.query.get("kind", "").strip()
    if kind and kind not in KINDS:
        raise BadRequest(f'"{kind[:80]}" is no kind of event; docs/reference/events.md has them all', parameter="kind")
    return kind or None
