"""Keeps the database from growing for ever: every few minutes, and at once when the hub starts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.retry import spread
from metrica_hub.errors import StoreAway, Unstorable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metrica_hub.decisions.retention import Growing

EVERY_S: Final = 300.0

_log = structlog.get_logger()


class Keeper(Protocol):
    """What retaining asks of the database."""

    async def make_room(self, tables: Sequence[Growing]) -> tuple[str, ...]:
        """Make the partitions that will be needed; return which were missing."""
        ...

    async def drop(self, tables: Sequence[Growing]) -> tuple[str, ...]:
        """Drop the partitions that have outlived their use; return which."""
        ...

    async def forget_streams(self, tables: Sequence[Growing]) -> int:
        """Forget how far streams are stored that nobody uses any more; return how many."""
        ...

    async def sum_up(self) -> bool:
        """Sum up a part of the heartbeats; return whether more is waiting."""
        ...


class Meter(Protocol):
    """Who counts."""

    def retained(self) -> None:
        """Note that it went well."""
        ...

    def retention_failed(self) -> None:
        """Count an attempt that failed."""
        ...


class Retainer:
    """The loop's surroundings."""

    def __init__(
        self,
        keeper: Keeper,
        tables: Sequence[Growing],
        *,
        chance: Callable[[], float],
        meter: Meter,
    ) -> None:
        self._keeper = keeper
        self._tables = tables
        self._chance = chance
        self._meter = meter

    async def run(self) -> None:
        """Keep for ever."""
        while True:
            try:
                await self._keep()
            except (StoreAway, Unstorable) as error:
                _log.warning("retention.failed", error_kind=error.reason, error=error.message)
                self._meter.retention_failed()
            else:
                self._meter.retained()
            await asyncio.sleep(spread(EVERY_S, self._chance(), share=0.2))

    async def _keep(self) -> None:
        for name in await self._keeper.make_room(self._tables):
            _log.info("partition.made", partition=name)
        while await self._keeper.sum_up():
            pass
        for name in await self._keeper.drop(self._tables):
            _log.info("partition.dropped", partition=name)
        if forgotten := await self._keeper.forget_streams(self._tables):
            _log.info("streams.forgotten", streams=forgotten)
