"""The page of events: of all devices or one, of all kinds or some, newest first, live."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from metrica_fleet.identity import is_name
from metrica_hub.errors import BadRequest
from metrica_hub.web.answers import json_text
from metrica_hub.web.cursors import NEWEST, number, only, part_of, start_of
from metrica_hub.web.events import KINDS, kind_of
from metrica_hub.web.live import LASTS_S, is_past, open_stream, until, until_it_ends
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.decisions.fleet_state import EventRow
    from metrica_hub.web.board import Board
    from metrica_hub.web.live import Live
    from metrica_hub.web.pages.frame import Frame
    from metrica_hub.web.reads import Reads

_KIND: Final = "event"
_PAGE: Final = 100


class EventsPage:
    """The page at ``/events`` and its stream."""

    def __init__(self, frame: Frame, board: Board, live: Live, reads: Reads) -> None:
        self._frame = frame
        self._board = board
        self._live = live
        self._reads = reads

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/events", "getEventsPage", self._frame.humane(self.get), "Events, for people."),
            Route("GET", "/events/live", "streamEventsPage", self.stream, "Events as they come, for their page."),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page."""
        only(request, ("device", "kind", "after"))
        device, kind = _chosen(request)
        newest = self._board.event_ring.newest
        before = start_of(request, _KIND, NEWEST)
        found = await self._reads.events(device=device, before=before, limit=_PAGE + 1, kind=kind)
        chosen = {name: value for name, value in (("device", device), ("kind", kind)) if value}
        events, following = part_of(_KIND, found, _PAGE, lambda event: event.cursor)
        return self._frame.page(
            request,
            "events.html",
            at="events",
            # An older page stands still: what is new belongs on the first one.
            live="/events/live?" + urlencode({**chosen, "after": newest, "still": int(before != NEWEST)}),
            device=device or "",
            kind=kind or "",
            kinds=KINDS,
            events=[self._row(event) for event in events],
            is_first=before == NEWEST,
            older=following and "/events?" + urlencode({**chosen, "after": following}),
            export="/api/v1/events?" + urlencode({"limit": 1000, **chosen}),
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send each event that is meant."""
        only(request, ("device", "kind", "after", "still"))
        device, kind = _chosen(request)
        given = request.headers.get("Last-Event-ID") or request.query.get("after")
        newest = self._board.event_ring.newest
        cursor = newest if given is None else await self._live.events.resumable(number(given))
        is_still = request.query.get("still") == "1"
        response = await open_stream(request)
        async with until_it_ends(response):
            ends_s = asyncio.get_running_loop().time() + LASTS_S
            while not self._board.closing and response.is_connected() and not is_past(ends_s):
                news = self._board.notice.next()
                events = await self._live.events.after(cursor)
                for cursor, event in events:
                    if not is_still and _is_meant(event, device, kind):
                        await response.send(json_text({"html": self._row(event)}), id=str(cursor), event="event")
                await response.send(json_text(self._frame.summary()), id=str(cursor), event="summary")
                if not events:
                    await until(news, ends_s)
        return response

    def _row(self, event: EventRow) -> str:
        return self._frame.part("event-row.html", event=event)


def _chosen(request: web.Request) -> tuple[str | None, str | None]:
    device = request.query.get("device", "").strip()
    if device and not is_name(device):
        raise BadRequest(f'"{device[:80]}" can\'t be a device', parameter="device")
    return device or None, kind_of(request)


def _is_meant(event: EventRow, device: str | None, kind: str | None) -> bool:
    return (device is None or event.device == device) and (
        kind is None or event.kind == kind or event.kind.startswith(f"{kind}.")
    )
