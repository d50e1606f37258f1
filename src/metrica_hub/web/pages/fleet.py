"""The fleet page: all devices at a glance, those with problems first, as cards, tiles or a table.

The filter is in the URL, and its stream has the same one: what does not meet it any more is taken off the page.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

from metrica_hub.errors import BadRequest
from metrica_hub.web.answers import json_text
from metrica_hub.web.cursors import number, only
from metrica_hub.web.filters import Filter, read_filter
from metrica_hub.web.live import LASTS_S, is_past, open_stream, until, until_it_ends
from metrica_hub.web.routing import Route
from metrica_hub.web.views import COUNTERS, SHOWN, needs_attention, shown_of, view_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping, Sequence

    from aiohttp import web
    from aiohttp_sse import EventSourceResponse

    from metrica_hub.decisions.day import Day
    from metrica_hub.decisions.fleet_state import DeviceState
    from metrica_hub.web.board import Board
    from metrica_hub.web.live import Live
    from metrica_hub.web.pages.frame import Frame
    from metrica_hub.web.views import DeviceView

VIEWS: Final = ("cards", "tiles", "table")
SORTS: Final = ("problems", "name", "role", "state", "commit")
_CARDS_UP_TO: Final = 60
"""So many devices are cards unless somebody chose; more are tiles."""
_BARS: Final = 5000
"""So many different days are kept as they were drawn."""
_PROBLEMS_UP_TO: Final = 40
"""So many devices with problems are lines above the tiles; more are tiles themselves."""


class Doubts(Protocol):
    """Says why devices may not heed this hub; may raise ``StoreAway``."""

    def __call__(self) -> Awaitable[tuple[str, ...]]:
        """Return it in sentences."""
        ...


class Look(StrEnum):
    """How devices are drawn: what the page was made with, its stream goes on with."""

    CARDS = "cards"
    MIXED = "mixed"
    """Tiles, but those with problems as lines, with the reason."""
    TILES = "tiles"
    TABLE = "table"

    def template(self, device: DeviceView) -> str:
        """Return how ``device`` is drawn."""
        if self is Look.TABLE:
            return "row.html"
        if self is Look.CARDS:
            return "card.html"
        return "brief.html" if self is Look.MIXED and device.needs_attention else "tile.html"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a visitor chose to see, out of the query."""

    show: str
    view: str
    sort: str
    filter: Filter

    def meets(self, device: DeviceState) -> bool:
        """Whether ``device`` is to be seen."""
        return (self.show == "all" or self.show in shown_of(device)) and self.filter.meets(device)

    def query(self, **changes: str) -> str:
        """Return the link to this choice, changed."""
        values = {"q": self.filter.text, "show": self.show, "view": self.view, "sort": self.sort, **changes}
        usual = {"q": "", "show": "all", "view": "auto", "sort": "problems"}
        return _path("/", {name: value for name, value in values.items() if value != usual.get(name)})

    def group(self, device: DeviceView, look: Look) -> str:
        """Return under which heading ``device`` stands; "" is none."""
        if look is Look.TABLE or look is Look.CARDS:
            return ""
        return "!" if device.needs_attention else device.role

    def order(self, device: DeviceView) -> str:
        """Return the text by which ``device`` is sorted."""
        own = {
            "problems": device.order,
            "role": f"{device.role} {device.name}",
            "state": f"{device.deployment.word} {device.name}",
            "commit": f"{device.commit} {device.name}",
        }
        return own.get(self.sort, device.name)


class FleetPage:
    """The page at ``/`` and its stream."""

    def __init__(self, frame: Frame, board: Board, live: Live, doubts: Doubts) -> None:
        self._frame = frame
        self._board = board
        self._live = live
        self._doubts = doubts
        self._bars: dict[Day, str] = {}
        self._views: dict[str, tuple[int, DeviceView]] = {}
        self._rows: dict[tuple[str, str], tuple[int, str, Day | None, str]] = {}

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/", "getFleetPage", self._frame.humane(self.get), "The fleet, for people."),
            Route("GET", "/live", "streamFleetPage", self.stream, "What changes on the fleet page."),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page."""
        only(request, ("show", "view", "sort", "q"))
        choice = _choice_of(request)
        devices = self._board.unsorted_devices()
        chosen = [device for device in devices if choice.meets(device)]
        look = _look(choice, chosen)
        where = _id(self._board.latest.newest, self._board.event_ring.newest)
        stream = {"after": where, "look": look, "show": choice.show, "sort": choice.sort, "q": choice.filter.text}
        return self._frame.page(
            request,
            "fleet.html",
            at="fleet",
            live=_path("/live", stream),
            q=choice.filter.text,
            choice=choice,
            look=look,
            counters=COUNTERS,
            counts=self._frame.counts(),
            groups=self._groups(choice, look, chosen),
            shown=len(chosen),
            total=len(devices),
            doubts=await self._doubts(),
            events=[self._frame.part("event.html", event=event) for event in self._board.recent_events()],
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the devices and events that change, and the counters after them."""
        only(request, ("after", "look", "show", "view", "sort", "q"))
        choice, look = _choice_of(request), _look_of(request)
        change, cursor = await self._where(request)
        response = await open_stream(request)
        async with until_it_ends(response):
            await self._summary(response, _id(change, cursor))
            ends_s = asyncio.get_running_loop().time() + LASTS_S
            while not self._board.closing and response.is_connected() and not is_past(ends_s):
                news = self._board.notice.next()
                devices = await self._live.devices.after(change)
                events = await self._live.events.after(cursor)
                for change, device in devices:
                    await response.send(self._frame_of(choice, look, device), id=_id(change, cursor), event="device")
                for cursor, event in events:
                    row = json_text({"html": self._frame.part("event.html", event=event)})
                    await response.send(row, id=_id(change, cursor), event="event")
                await self._summary(response, _id(change, cursor))
                if not devices and not events:
                    await until(news, ends_s)
        return response

    async def _summary(self, response: EventSourceResponse, where: str) -> None:
        summary = {"counts": self._frame.counts(), **self._frame.summary()}
        await response.send(json_text(summary), id=where, event="summary")

    def _groups(self, choice: Choice, look: Look, devices: Iterable[DeviceState]) -> list[tuple[str, list[str]]]:
        """Return the rows under their headings, those with problems first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for device in devices:
            view = self._view(device)
            order = choice.order(view)
            groups.setdefault(choice.group(view, look), []).append((order, self._row(look, device, view, order)))
        return [(group, [html for _, html in sorted(rows)]) for group, rows in sorted(groups.items())]

    def _frame_of(self, choice: Choice, look: Look, device: DeviceState) -> str:
        if not choice.meets(device):
            return json_text({"name": device.device})
        view = self._view(device)
        order = choice.order(view)
        html = self._row(look, device, view, order)
        return json_text({"name": view.name, "group": choice.group(view, look), "order": order, "html": html})

    def _view(self, device: DeviceState) -> DeviceView:
        known = self._views.get(device.device)
        if known is None or known[0] != device.change:
            known = self._views[device.device] = device.change, view_of(device)
        return known[1]

    def _row(self, look: Look, device: DeviceState, view: DeviceView, order: str) -> str:
        template = look.template(view)
        day = self._board.day(device.device) if look is Look.TABLE else None
        known = self._rows.get((template, device.device))
        if known is not None and known[:3] == (device.change, order, day):
            return known[3]
        html = self._frame.part(template, device=view, order=order, day=self._bar(day))
        self._rows[template, device.device] = (device.change, order, day, html)
        return html

    def _bar(self, day: Day | None) -> str:
        """Return a device's last 24 hours, drawn once for all that had the same."""
        if day is None:
            return ""
        if day not in self._bars:
            if len(self._bars) >= _BARS:
                self._bars.clear()
            self._bars[day] = self._frame.part("day.html", day=day)
        return self._bars[day]

    async def _where(self, request: web.Request) -> tuple[int, int]:
        given = request.headers.get("Last-Event-ID") or request.query.get("after")
        if given is None:
            return self._board.latest.newest, self._board.event_ring.newest
        change, _, cursor = given.partition("-")
        devices, events = self._live.devices, self._live.events
        return await devices.resumable(number(change)), await events.resumable(number(cursor))


def _choice_of(request: web.Request) -> Choice:
    return Choice(
        _one_of(request, "show", "all", ("all", *SHOWN)),
        _one_of(request, "view", "auto", ("auto", *VIEWS)),
        _one_of(request, "sort", "problems", SORTS),
        read_filter(request.query.get("q", "")),
    )


def _look_of(request: web.Request) -> Look:
    return Look(_one_of(request, "look", Look.CARDS, tuple(Look)))


def _one_of(request: web.Request, name: str, usual: str, known: Sequence[str]) -> str:
    value = request.query.get(name, usual)
    if value not in known:
        raise BadRequest(f'"{value[:40]}" is no {name}; known are {", ".join(known)}', parameter=name)
    return value


def _look(choice: Choice, devices: Sequence[DeviceState]) -> Look:
    if choice.view in {"cards", "table"}:
        return Look(choice.view)
    if choice.view == "auto" and len(devices) <= _CARDS_UP_TO:
        return Look.CARDS
    return Look.MIXED if sum(map(needs_attention, devices)) <= _PROBLEMS_UP_TO else Look.TILES


def _path(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _id(change: int, cursor: int) -> str:
    return f"{change}-{cursor}"
