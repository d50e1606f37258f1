"""The database's wake-up call. A notification carries nothing: whoever is woken asks the reader what changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from metrica_fleet.retry import full_jitter
from metrica_hub.adapters.store.pool import CHANGES_CHANNEL, meaning, open_connection
from metrica_hub.errors import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_hub.adapters.store.pool import Connection

_RETRY_BASE_S: Final = 0.5
_RETRY_CAP_S: Final = 15.0
_LOOK_EVERY_S: Final = 20.0

_log = structlog.get_logger()


async def listen(url: str, wake: Callable[[], object], chance: Callable[[], float]) -> None:
    """Call ``wake`` whenever something was committed, and now and then in any case; for ever."""
    attempt = 0
    while True:
        try:
            connection = await open_connection(url, name="metrica-hub changes")
            try:
                attempt = 0
                await _until_lost(connection, wake)
            finally:
                connection.terminate()
        except StoreAway as error:
            attempt += 1
            _log.warning("changes.lost", error_kind=error.reason, error=error.message)
        await asyncio.sleep(full_jitter(attempt, chance(), _RETRY_BASE_S, _RETRY_CAP_S))


async def _until_lost(connection: Connection, wake: Callable[[], object]) -> None:
    lost = asyncio.Event()
    connection.add_termination_listener(_setting(lost))
    with meaning():
        await connection.add_listener(CHANGES_CHANNEL, lambda *_: wake())
    while not lost.is_set():
        wake()
        try:
            async with asyncio.timeout(_LOOK_EVERY_S):
                await lost.wait()
        except TimeoutError:
            with meaning():
                await connection.execute("SELECT 1")
    raise StoreAway("the connection that listens for changes was closed")


def _setting(event: asyncio.Event) -> Callable[[object], None]:
    def told(_: object) -> None:
        event.set()

    return told
