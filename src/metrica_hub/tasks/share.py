"""Takes a hub's part in the records where several share them (``[bus] share``), and gives it back.

Every hub that shares has a connection of its own for it, whether it leads or not. Its session ends with it: the broker
deals nothing to who is gone, and what it had dealt to it is lost there (CONVENTIONS.md F5), and comes again from the
devices, which keep each record until it is stored. To lose no time either, a hub that is told to end first asks for
no more, and commits what was on its way.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import structlog

from metrica_hub.decisions.share import Part, looked

LOOK_S: Final = 1.0

_log = structlog.get_logger()


class Bus(Protocol):
    """The connection that takes the part."""

    @property
    def unacknowledged(self) -> int:
        """How many messages were received and not yet acknowledged."""
        ...

    @property
    def acknowledged_batches(self) -> int:
        """How many batches were ever acknowledged."""
        ...

    def let_connect(self) -> None:
        """Open a connection, and another when it is lost."""
        ...

    def hang_up(self, why: str) -> None:
        """End the connection and open no other."""
        ...

    async def withdraw(self) -> None:
        """Ask for nothing more; return when all that was on its way is acknowledged."""
        ...


class Member:
    """The loop's surroundings."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._part = Part()
        self._leaves = False

    async def run(self) -> None:
        """Take part while what is taken is committed, for ever."""
        self._bus.let_connect()
        while not self._leaves:
            await asyncio.sleep(LOOK_S)
            self._look()

    async def leave(self) -> None:
        """Take no more; return when what was taken is committed and acknowledged."""
        self._leaves = True
        await self._bus.withdraw()

    def _look(self) -> None:
        before = self._part
        self._part = looked(before, waiting=self._bus.unacknowledged, batches=self._bus.acknowledged_batches)
        if before.taken and not self._part.taken:
            _log.warning("share.given_back", waiting=self._bus.unacknowledged)
            self._bus.hang_up("we can't commit our part of the records; the others may")
        elif self._part.taken and not before.taken and not self._leaves:
            _log.info("share.taken_again")
            self._bus.let_connect()
