"""The fleet page: rendered here, whole for whoever has no JavaScript, row by row for the stream that keeps it live.

Everything a device says is hostile until it is escaped: Jinja's autoescape does that, for the page and for the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from metrica_hub.errors import BadRequest
from metrica_hub.web.answers import json_text
from metrica_hub.web.cursors import number, only
from metrica_hub.web.live import open_stream, until_it_ends
from metrica_hub.web.routing import Route
from metrica_hub.web.views import SHOWN, counts_of, needs_attention, view_of

if TYPE_CHECKING:
    from aiohttp_sse import EventSourceResponse

    from metrica_hub.decisions.fleet_state import DeviceState
    from metrica_hub.web.board import Board
    from metrica_hub.web.live import Live


class Page:
    """The page at ``/`` and its stream."""

    def __init__(self, fleet: str, version: str, board: Board, live: Live) -> None:
        self._fleet = fleet
        self._version = version
        self._board = board
        self._live = live
        self._rows: dict[str, tuple[int, str]] = {}
        environment = Environment(
            loader=PackageLoader("metrica_hub.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._whole = environment.get_template("fleet.html")
        self._device = environment.get_template("device.html")
        self._event = environment.get_template("event.html")

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/", "getFleetPage", self.get, "The fleet, for people."),
            Route("GET", "/live", "streamFleetPage", self.stream, "What changes on the fleet page."),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page."""
        only(request, ("show",))
        show = request.query.get("show", "all")
        if show not in {"all", *SHOWN}:
            raise BadRequest(f'"{show[:40]}" can\'t be shown; known are all, {", ".join(SHOWN)}', parameter="show")
        devices = self._board.devices()
        html = self._whole.render(
            fleet=self._fleet,
            version=self._version,
            show=show,
            counts=counts_of(devices),
            problems=sum(map(needs_attention, devices)),
            rows=[self._row(device) for device in devices],
            events=[self._event.render(event=event) for event in self._board.recent_events()],
            cursor=_id(self._board.device_ring.newest, self._board.event_ring.newest),
            stale=self._board.is_stale,
        )
        response = web.Response(text=html, content_type="text/html", headers={"Cache-Control": "no-store"})
        response.enable_compression()
        return response

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the rows and events that change, and the counters after them."""
        change, cursor = await self._where(request)
        response = await open_stream(request)
        async with until_it_ends(response):
            await self._summary(response, _id(change, cursor))
            while not self._board.closing and response.is_connected():
                news = self._board.notice.next()
                devices = await self._live.devices.after(change)
                events = await self._live.events.after(cursor)
                for change, device in devices:
                    await response.send(self._device_frame(device), id=_id(change, cursor), event="device")
                for cursor, event in events:
                    await response.send(self._event.render(event=event), id=_id(change, cursor), event="event")
                await self._summary(response, _id(change, cursor))
                if not devices and not events:
                    await news.wait()
        return response

    async def _summary(self, response: EventSourceResponse, where: str) -> None:
        devices = self._board.devices()
        summary = {
            "counts": counts_of(devices),
            "problems": sum(map(needs_attention, devices)),
            "stale": self._board.is_stale,
        }
        await response.send(json_text(summary), id=where, event="summary")

    def _device_frame(self, device: DeviceState) -> str:
        view = view_of(device)
        return json_text({"name": view.name, "order": view.order, "html": self._row(device)})

    def _row(self, device: DeviceState) -> str:
        known = self._rows.get(device.device)
        if known is not None and known[0] == device.change:
            return known[1]
        html = self._device.render(device=view_of(device))
        self._rows[device.device] = (device.change, html)
        return html

    async def _where(self, request: web.Request) -> tuple[int, int]:
        only(request, ("after",))
        given = request.headers.get("Last-Event-ID") or request.query.get("after")
        if given is None:
            return self._board.device_ring.newest, self._board.event_ring.newest
        change, _, cursor = given.partition("-")
        devices, events = self._live.devices, self._live.events
        return await devices.resumable(number(change)), await events.resumable(number(cursor))


def _id(change: int, cursor: int) -> str:
    return f"{change}-{cursor}"
