"""Makes a revocation count: the list that the broker reads, and the end of the connection that stands.

In this order: the database knows it, the list says it, the broker reads the list again (it watches the file), the hub
takes the device's connection over. Until the broker has read the list a device comes back at once, and pushes us out:
then we go on, until nobody did for a while.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.errors import NotNow
from metrica_fleet.retry import full_jitter, spread
from metrica_hub.decisions.identity import is_due, listed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from metrica_fleet.identity import DeviceId

EVERY_S: Final = 30.0
"""Between looks: another hub may have revoked something."""
HELD_S: Final = 10.0
"""A device that does not come back for so long was refused."""
GIVEN_UP_S: Final = 600.0
"""A broker that does not read the list by then never will."""
AT_ONCE: Final = 8
"""Connections that are ended at the same time."""
_BASE_S: Final = 0.2
_CAP_S: Final = 5.0

_log = structlog.get_logger()


class InForce(Protocol):
    """The list that the broker reads."""

    @property
    def serials(self) -> Mapping[str, datetime]: ...
    @property
    def made_at(self) -> datetime | None: ...


class Authority(Protocol):
    """Who signs the list; each may raise ``NotNow``."""

    async def in_force(self) -> InForce: ...
    async def publish(self, revoked: Mapping[str, datetime], now: datetime) -> None: ...


class Store(Protocol):
    """What is asked of the database."""

    async def revoked(self) -> dict[str, datetime]:
        """Return all serials that were taken back, and when; ``StoreAway``."""
        ...


class Revoker:
    """The loop's surroundings."""

    def __init__(
        self,
        authority: Authority,
        store: Store,
        take_over: Callable[[DeviceId, float], Awaitable[bool]],
        *,
        now: Callable[[], datetime],
        now_s: Callable[[], float],
        chance: Callable[[], float],
        held_s: float = HELD_S,
    ) -> None:
        """``take_over``: stand in a device's place for so long; false: it came back. May raise ``NotNow``."""
        self._authority = authority
        self._store = store
        self._take_over = take_over
        self._now = now
        self._now_s = now_s
        self._chance = chance
        self._held_s = held_s
        self._writing = asyncio.Lock()
        self._to_cut: set[DeviceId] = set()
        self._due = asyncio.Event()

    def cut_off(self, device: DeviceId) -> None:
        """End the connection of ``device`` as soon as may be."""
        self._to_cut.add(device)
        self._due.set()

    async def publish(self) -> None:
        """Write the list, if it lacks something or is old.

        Raises:
            NotNow: the database, or the authority's files.
        """
        async with self._writing:
            known, present = await self._store.revoked(), await self._authority.in_force()
            now = self._now()
            wanted = listed(present.serials, known, now)
            if is_due(present.serials, wanted, present.made_at, now):
                await self._authority.publish(wanted, now)
                _log.info("revocations.listed", certificates=len(wanted))

    async def run(self) -> None:
        """Do it for ever."""
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                self._due.clear()
                try:
                    await self.publish()
                except NotNow as error:
                    _log.warning("revocations.unlisted", error_kind=error.reason, error=error.message)
                while self._to_cut:
                    group.create_task(self._cut(self._to_cut.pop(), places))
                try:
                    async with asyncio.timeout(spread(EVERY_S, self._chance())):
                        await self._due.wait()
                except TimeoutError:
                    continue

    async def _cut(self, device: DeviceId, places: asyncio.Semaphore) -> None:
        async with places:
            began_s, attempt = self._now_s(), 0
            while self._now_s() - began_s < GIVEN_UP_S:
                try:
                    if await self._take_over(device, self._held_s):
                        _log.info("device.cut_off", device=device)
                        return
                    _log.info("device.came_back", device=device, todo="the broker has not read the list again yet")
                except NotNow as error:
                    attempt += 1
                    _log.warning("device.not_cut_off", device=device, error_kind=error.reason, error=error.message)
                await asyncio.sleep(full_jitter(attempt, self._chance(), _BASE_S, _CAP_S))
            _log.error("device.not_cut_off", device=device, error_kind="given-up", todo="restart the broker")
