"""One hub leads: it holds the bus. The others serve API, pages and metrics, and wait to take over.

Two hubs on the bus at once would lose nothing (one client id, so the broker ends the older connection; one lock for
commits, so each record is stored once), but push each other out for ever. So a hub that does not know whether
it leads, because the database is away, keeps the connection that it has and opens no other; and one that knows that
another leads hangs up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.retry import full_jitter
from metrica_hub.errors import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

RENEW_S: Final = 1.0
LOOK_S: Final = 0.5
"""Between two claims of one that waits."""
_RETRY_BASE_S: Final = 0.5
_RETRY_CAP_S: Final = 4.0

_log = structlog.get_logger()


class Lease(Protocol):
    """A claim to the lead."""

    async def claim(self) -> bool:
        """Return whether we lead from now on."""
        ...

    async def renew(self) -> None:
        """Keep the lead."""
        ...


class Bus(Protocol):
    """What the lead decides about."""

    def let_connect(self) -> None:
        """Connections may be opened from now on."""
        ...

    def let_no_more_connect(self) -> None:
        """Keep the connection that stands; open no other."""
        ...

    def hang_up(self) -> None:
        """End the connection and open no other: somebody else has it."""
        ...


class Candidate:
    """The loop's surroundings."""

    def __init__(
        self, lease: Callable[[], AbstractAsyncContextManager[Lease]], bus: Bus, *, chance: Callable[[], float]
    ) -> None:
        self._lease = lease
        self._bus = bus
        self._chance = chance
        self._attempt = 0
        self.leads: bool | None = None
        """``None``: the database is away, so that nobody knows."""

    async def run(self) -> None:
        """Lead, or wait to lead, for ever."""
        while True:
            try:
                async with self._lease() as lease:
                    await self._with(lease)
            except StoreAway as error:
                if self.leads is not None:
                    _log.warning("lead.unknown", error_kind=error.reason, error=error.message, led=self.leads)
                self.leads = None
                self._bus.let_no_more_connect()
                self._attempt += 1
            await asyncio.sleep(full_jitter(self._attempt, self._chance(), _RETRY_BASE_S, _RETRY_CAP_S))

    async def _with(self, lease: Lease) -> None:
        while not await lease.claim():
            if self.leads is not False:
                _log.info("lead.waiting")
            self._attempt, self.leads = 0, False
            self._bus.hang_up()
            await asyncio.sleep(LOOK_S)
        _log.info("lead.taken")
        self._attempt, self.leads = 0, True
        self._bus.let_connect()
        while True:
            await asyncio.sleep(RENEW_S)
            await lease.renew()
