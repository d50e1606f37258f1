"""``/healthz``: the process lives. ``/readyz``: the database and the broker can be used. Neither tells details.

The broker is the business of the hub that leads; one that waits to take over is ready without it.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from metrica_hub.errors import StoreAway
from metrica_hub.web.problem import Fault, problem
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_hub.web.reads import Reads

_PATIENCE_S: Final = 2.0


class Health:
    """The two questions of a supervisor."""

    def __init__(self, reads: Reads, *, bus_usable: Callable[[], bool], damage: Callable[[], str | None]) -> None:
        self._reads = reads
        self._bus_usable = bus_usable
        self._damage = damage

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/healthz",
                "getHealth",
                self.alive,
                "Whether the process lives.",
                role=None,
                answers=str,
                answers_as="text/plain",
            ),
            Route(
                "GET",
                "/readyz",
                "getReadiness",
                self.ready,
                "Whether the database and the broker can be used.",
                role=None,
                answers=str,
                answers_as="text/plain",
            ),
        )

    async def alive(self, request: web.Request) -> web.StreamResponse:
        """Answer that we are here."""
        del request
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Answer whether everything that the hub needs is there."""
        missing: list[str] = []
        if not await self._database_answers():
            missing.append("database")
        if not self._bus_usable():
            missing.append("broker")
        if not missing:
            # It still takes what devices say, so it is ready; only a restore mends it.
            damaged = "" if self._damage() is None else "the database is damaged: docs/how-to/backup.md\n"
            return web.Response(text=f"ready\n{damaged}")
        faults = tuple(Fault(parameter=part, detail="not usable") for part in missing)
        detail = f"Not ready: the {' and the '.join(missing)} can't be used."
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", detail, faults)

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._reads.answers()
        except (StoreAway, TimeoutError):
            return False
        return True
