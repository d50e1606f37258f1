"""Tells webhooks what happened: the hub that leads, each in the order of the events, one after the other.

The events' table is the queue: a webhook has a place in it. So nothing is kept twice, one that is slow or away
costs nothing, and after a takeover the next hub goes on where this one was; what was taken at that moment is told
again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_hub.decisions.webhooks import after_failure, cloud_event, headers_of, message_id, wants
from metrica_hub.errors import NotTaken, StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from metrica_hub.decisions.fleet_state import EventRow
    from metrica_hub.decisions.webhooks import Listener

LOOK_S: Final = 1.0
_PART: Final = 200

_log = structlog.get_logger()


class Webhooks(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def due(self) -> list[Listener]:
        """Return who may be told something now."""
        ...

    async def told(self, number: int, cursor: int, *, something: bool) -> None:
        """Note how far one is."""
        ...

    async def failed(self, number: int, why: str, *, again_s: float | None) -> None:
        """Note that one did not take it."""
        ...


class Events(Protocol):
    """What happened."""

    async def new_events(self, *, after: int, limit: int) -> list[EventRow]:
        """Return events after a cursor, oldest first; may raise ``StoreAway``."""
        ...


class Post(Protocol):
    """The way out."""

    async def tell(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send something; raises ``NotTaken``."""
        ...


class Teller:
    """The loop's surroundings."""

    def __init__(
        self,
        fleet: str,
        webhooks: Webhooks,
        events: Events,
        posting: Callable[[], AbstractAsyncContextManager[Post]],
        *,
        leads: Callable[[], bool],
        chance: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._webhooks = webhooks
        self._events = events
        self._posting = posting
        self._leads = leads
        self._chance = chance

    async def run(self) -> None:
        """Look who is to be told something, for ever; who is slow keeps nobody else waiting."""
        going: dict[int, asyncio.Task[None]] = {}
        async with self._posting() as post, asyncio.TaskGroup() as group:
            while True:
                going = {number: task for number, task in going.items() if not task.done()}
                for listener in await self._due():
                    if listener.id not in going:
                        going[listener.id] = group.create_task(self._serve(listener, post))
                await asyncio.sleep(LOOK_S)

    async def _due(self) -> list[Listener]:
        if not self._leads():
            return []
        try:
            return await self._webhooks.due()
        except StoreAway:
            return []

    async def _serve(self, listener: Listener, post: Post) -> None:
        try:
            await self._tell(listener, post)
        except NotTaken as error:
            await self._failed(listener, error)
        except StoreAway:
            return  # the next look finds it where it was

    async def _tell(self, listener: Listener, post: Post) -> None:
        events = await self._events.new_events(after=listener.cursor, limit=_PART)
        passed = listener.cursor
        for event in events:
            if not self._leads():
                return
            if wants(listener.kinds, event.kind):
                body = cloud_event(self._fleet, event)
                headers = headers_of(listener.secret, message_id(event), int(time.time()), body)
                await post.tell(listener.url, headers, body)
                await self._webhooks.told(listener.id, event.cursor, something=True)
            passed = event.cursor
        if events and not wants(listener.kinds, events[-1].kind):
            await self._webhooks.told(listener.id, passed, something=False)

    async def _failed(self, listener: Listener, error: NotTaken) -> None:
        retry = after_failure(listener, is_gone=error.is_gone, chance=self._chance())
        if retry.after_s is None:
            _log.warning("webhook.disabled", webhook=listener.id, error_kind=error.reason, error=error.message)
        elif not listener.attempts:
            _log.warning("webhook.fails", webhook=listener.id, error_kind=error.reason, error=error.message)
        try:
            await self._webhooks.failed(listener.id, error.message, again_s=retry.after_s)
        except StoreAway:
            return  # it is tried again at once, and fails again
