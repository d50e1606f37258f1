"""The wake-up call of all hubs through the database. It carries nothing: whoever is woken asks the reader what changed.

A hub gives it after its commits and not within them: ten times a second say as much as hundreds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from metrica_fleet.retry import full_jitter
from metrica_hub.adapters.store.pool import CHANGES_CHANNEL, COMMANDS_CHANNEL, borrowed, call, meaning, open_connection
from metrica_hub.errors import StoreAway

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_hub.adapters.store.pool import Connection, Pool

_RETRY_BASE_S: Final = 0.5
_RETRY_CAP_S: Final = 15.0
_LOOK_EVERY_S: Final = 20.0
_CALL_EVERY_S: Final = 0.1
"""Nobody looks more often."""

_log = structlog.get_logger()


class Caller:
    """Tells all hubs that something was committed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._due = asyncio.Event()

    def call(self) -> None:
        """Something was committed."""
        self._due.set()

    async def run(self) -> None:
        """Give the call, at once and then at a pace, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                async with borrowed(self._pool) as connection:
                    await call(connection)
            except StoreAway as error:
                # Not called again: whoever listens looks by himself when he can.
                _log.info("changes.untold", error_kind=error.reason, error=error.message)
            await asyncio.sleep(_CALL_EVERY_S)


async def listen(
    url: str,
    wake: Callable[[], object],
    chance: Callable[[], float],
    *,
    on_command: Callable[[], object] = lambda: None,
) -> None:
    """Call ``wake`` whenever something was committed, and now and then in any case; for ever.

    ``on_command`` is called in the same way when there is news about commands.
    """
    attempt = 0
    while True:
        try:
            connection = await open_connection(url, name="metrica-hub changes")
            try:
                attempt = 0
                await _until_lost(connection, wake, on_command)
            finally:
                connection.terminate()
        except StoreAway as error:
            attempt += 1
            _log.warning("changes.lost", error_kind=error.reason, error=error.message)
        await asyncio.sleep(full_jitter(attempt, chance(), _RETRY_BASE_S, _RETRY_CAP_S))


async def _until_lost(connection: Connection, wake: Callable[[], object], on_command: Callable[[], object]) -> None:
    lost = asyncio.Event()
    connection.add_termination_listener(_setting(lost))
    with meaning():
        await connection.add_listener(CHANGES_CHANNEL, lambda *_: wake())
        await connection.add_listener(COMMANDS_CHANNEL, lambda *_: on_command())
    while not lost.is_set():
        wake()
        on_command()
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
