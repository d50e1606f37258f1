"""Keeps parts of a page as they are now: whenever anything changed, they are made again, and sent if they differ.

Level-triggered as all else: a client that was away needs no history, it is sent what is. At most ``_EVERY_S`` often: a
fleet that talks all the time would have its pages made all the time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from metrica_hub.web.answers import json_text
from metrica_hub.web.cursors import only
from metrica_hub.web.live import LASTS_S, is_past, open_stream, until, until_it_ends
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from metrica_hub.web.board import Board
    from metrica_hub.web.pages.frame import Frame

SUMMARY: Final = "/summary/live"
_EVERY_S: Final = 0.5
_LOOK_S: Final = 2.0
"""What does not change devices (somebody pauses a rollout) gives no notice: it is looked for."""


class PartStream:
    """Sends to one client after the other what changed of the parts of its page."""

    def __init__(self, frame: Frame, board: Board) -> None:
        self._frame = frame
        self._board = board

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "How the fleet is as a whole, for pages that are live in nothing else."
        return (Route("GET", SUMMARY, "streamSummary", self.summary, about),)

    async def summary(self, request: web.Request) -> web.StreamResponse:
        """Send no part at all, only what every page tells."""
        only(request, ())

        async def nothing() -> Mapping[str, str]:
            return {}

        return await self.send(request, nothing)

    async def send(self, request: web.Request, make: Callable[[], Awaitable[Mapping[str, str]]]) -> web.StreamResponse:
        """Send what ``make`` makes, HTML by the id of the element that it replaces, until either side ends."""
        first = await make()  # what is wrong with the request is said as an answer of its own
        response = await open_stream(request)
        async with until_it_ends(response):
            sent: dict[str, str] = {}
            made = first
            now_s = asyncio.get_running_loop().time
            ends_s = now_s() + LASTS_S
            while not self._board.closing and response.is_connected() and not is_past(ends_s):
                news = self._board.notice.next()
                for id_, html in made.items():
                    if sent.get(id_) != html:
                        await response.send(json_text({"id": id_, "html": html}), event="part")
                sent = dict(made)
                await response.send(json_text(self._frame.summary()), event="summary")
                await asyncio.sleep(_EVERY_S)
                await until(news, now_s() + _LOOK_S)
                made = await make()
        return response
