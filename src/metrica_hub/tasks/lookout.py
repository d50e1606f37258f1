"""Looks now and then, for ever, at what the database knows: the next look makes up for one that saw nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from metrica_fleet.retry import spread
from metrica_hub.errors import StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = structlog.get_logger()


async def looking(
    look: Callable[[], Awaitable[None]], *, every_s: float, unknown: str, chance: Callable[[], float]
) -> None:
    """Look for ever, about every ``every_s``; while Postgres is away the event ``unknown`` is in the log."""
    while True:
        try:
            await look()
        except StoreAway as error:
            _log.info(unknown, error_kind=error.reason, error=error.message)
        await asyncio.sleep(spread(every_s, chance(), share=0.2))
