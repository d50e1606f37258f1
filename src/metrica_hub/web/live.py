"""Server-sent events. ``id`` is a cursor; a client that comes back with ``Last-Event-ID`` misses nothing.

A stream sends what is newer than its client's cursor, out of memory or, when the client was away for longer than that
goes back, out of the database. There is no queue that a slow client could fill: it is sent what it can take, and one
that takes nothing for ``SEND_TIMEOUT_S`` is cut off.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Final, Generic, Protocol, TypeVar

import msgspec
import structlog
from aiohttp_sse import EventSourceResponse

from metrica_hub.decisions.fleet_state import DeviceState, EventRow
from metrica_hub.errors import BadRequest, StoreAway
from metrica_hub.web.answers import json_text
from metrica_hub.web.cursors import number, only
from metrica_hub.web.routing import Parameter, Route, Sent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from aiohttp import web

    from metrica_hub.web.board import Board
    from metrica_hub.web.reads import Reads

SEND_TIMEOUT_S: Final = 20.0
LASTS_S: Final = 900.0
"""Of a stream: then its client comes back where it was, and shows a token that is still good."""
SINCE: Final = Parameter(
    "after", "the id of the last event that is known; Last-Event-ID prevails", Annotated[int, msgspec.Meta(ge=0)]
)
_RETRY_MS: Final = 3000
_PAGE: Final = 200

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_log = structlog.get_logger()


class Memory(Protocol[T_co]):
    """What a hub remembers of a growing list: its end."""

    @property
    def newest(self) -> int:
        """The cursor of the last item."""
        ...

    def after(self, cursor: int) -> Sequence[tuple[int, T_co]] | None:
        """Return the items behind ``cursor``; ``None`` when it does not remember some of them."""
        ...


class Feed(Generic[T]):
    """One growing list, as the hub remembers its end and the database has all of it."""

    def __init__(self, memory: Memory[T], older: Callable[[int], Awaitable[list[tuple[int, T]]]]) -> None:
        self.memory = memory
        self._older = older

    async def after(self, cursor: int) -> list[tuple[int, T]]:
        """Return the items behind ``cursor``, the first page of them if there are many."""
        found = self.memory.after(cursor)
        return await self._older(cursor) if found is None else list(found[:_PAGE])

    async def resumable(self, cursor: int) -> int:
        """Return ``cursor``, if this list has come as far: the database may know more than the ring does.

        Raises:
            BadRequest: it is of another database, so the client would wait for what never comes.
        """
        if cursor > self.memory.newest and not await self._older(cursor - 1):
            raise BadRequest("this cursor is newer than all there is; ask again without it", parameter="after")
        return cursor


class Live:
    """The streams of the API."""

    def __init__(self, board: Board, reads: Reads, *, lasts_s: float = LASTS_S) -> None:
        self._board = board
        self._lasts_s = lasts_s
        self.devices: Feed[DeviceState] = Feed(board.latest, _older_devices(reads))
        self.events: Feed[EventRow] = Feed(board.event_ring, _older_events(reads))

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/api/v1/devices/stream",
                "streamDevices",
                self.stream_devices,
                "Devices as they change; resumes by Last-Event-ID.",
                query=(SINCE,),
                sends=(Sent("device", DeviceState),),
            ),
            Route(
                "GET",
                "/api/v1/events/stream",
                "streamEvents",
                self.stream_events,
                "Events as they are stored; resumes by Last-Event-ID.",
                query=(SINCE,),
                sends=(Sent(None, EventRow),),
            ),
        )

    async def stream_devices(self, request: web.Request) -> web.StreamResponse:
        """Send each device as it changes."""
        return await self.stream(request, self.devices, lambda device: ("device", json_text(device)))

    async def stream_events(self, request: web.Request) -> web.StreamResponse:
        """Send each event."""
        return await self.stream(request, self.events, lambda event: (event.kind, json_text(event)))

    async def stream(
        self, request: web.Request, feed: Feed[T], frame: Callable[[T], tuple[str, str]]
    ) -> web.StreamResponse:
        """Send what ``feed`` has behind the client's cursor, as ``frame`` shows it, until either side ends."""
        cursor = await feed.resumable(_cursor_of(request, feed.memory.newest))
        response = await open_stream(request)
        async with until_it_ends(response):
            ends_s = asyncio.get_running_loop().time() + self._lasts_s
            while not self._board.closing and response.is_connected() and not is_past(ends_s):
                news = self._board.notice.next()
                items = await feed.after(cursor)
                for cursor, item in items:
                    event, data = frame(item)
                    await response.send(data, id=str(cursor), event=event)
                if not items:
                    await until(news, ends_s)
        return response


def is_past(at_s: float) -> bool:
    """Whether the loop's clock has come to ``at_s``."""
    return asyncio.get_running_loop().time() >= at_s


async def until(news: asyncio.Event, ends_s: float) -> None:
    """Wait for ``news``, but not longer than to ``ends_s`` by the loop's clock."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(ends_s):
            await news.wait()


async def open_stream(request: web.Request) -> EventSourceResponse:
    """Send the head of a stream."""
    response = EventSourceResponse(send_timeout=SEND_TIMEOUT_S)
    response.headers["Cache-Control"] = "no-store"
    await response.prepare(request)
    return response


@asynccontextmanager
async def until_it_ends(response: EventSourceResponse) -> AsyncGenerator[None]:
    """End the stream quietly when the client left or takes nothing, or when the database is away: it comes back."""
    try:
        async with response:
            await response.write(f"retry: {_RETRY_MS}\r\n\r\n".encode())
            yield
    except (ConnectionResetError, TimeoutError, StoreAway) as error:
        _log.debug("stream.ended", error_kind=type(error).__name__)


def _cursor_of(request: web.Request, newest: int) -> int:
    only(request, ("after",))
    given = request.headers.get("Last-Event-ID") or request.query.get("after")
    if given is None:
        return newest
    try:
        return number(given)
    except BadRequest as error:
        raise BadRequest(f'"{given[:40]}" is no event id of this stream', parameter="after") from error


def _older_devices(reads: Reads) -> Callable[[int], Awaitable[list[tuple[int, DeviceState]]]]:
    async def older(cursor: int) -> list[tuple[int, DeviceState]]:
        return [(device.change, device) for device in await reads.changed_devices(after=cursor, limit=_PAGE)]

    return older


def _older_events(reads: Reads) -> Callable[[int], Awaitable[list[tuple[int, EventRow]]]]:
    async def older(cursor: int) -> list[tuple[int, EventRow]]:
        return [(event.cursor, event) for event in await reads.new_events(after=cursor, limit=_PAGE)]

    return older
