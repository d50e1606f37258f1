"""Connections to Postgres, and what their errors mean.

Poison and outage must be told apart: the first is set aside and never comes back, the second is waited for. What
Postgres says about the *content* (classes 22, 23 and 54, and what can't be encoded at all) is poison; all else,
known or not, is treated as an outage, because waiting loses nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, overload

import asyncpg

from metrica_hub.adapters.store.damage import DAMAGE
from metrica_hub.errors import StoreAway, Unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

CONNECT_TIMEOUT_S: Final = 10
COMMAND_TIMEOUT_S: Final = 30
ABANDONED_MS: Final = 5000
"""After which Postgres ends a transaction that nobody goes on with."""

MIGRATION_LOCK: Final = 0x6D657472_0001
COMMIT_LOCK: Final = 0x6D657472_0002
"""Held through each batch's transaction: cursors and times become visible in order, no record is written twice."""
RETAIN_LOCK: Final = 0x6D657472_0003
"""Held by the hub that makes and drops partitions and sums up."""
LEADER_LOCK: Final = 0x6D657472_0004
"""Held by the hub that leads (``lease.py``)."""
TRAIL_LOCK: Final = 0x6D657472_0005
"""Held while something is written into the trail: each entry covers the one before it."""

ROLLOUT_LOCK: Final = 0x6D657472_0007
"""Held through each change of a rollout, whoever makes it: the hub that leads, or a person by another hub."""
COMMAND_LOCK: Final = 0x6D657472_0008
"""Held while a command is given its number."""

CHANGES_CHANNEL: Final = "metrica_changes"
COMMANDS_CHANNEL: Final = "metrica_commands"
"""Of news about commands: few, and of no concern to who watches devices."""

_POISON = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    OverflowError,
)
_DAMAGE = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)
_OUTAGE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class Row(Protocol):
    """One row of an answer."""

    @overload
    def __getitem__(self, column: str | int) -> Any: ...  # noqa: ANN401 - a column of any type

    @overload
    def __getitem__(self, column: slice) -> tuple[Any, ...]: ...


class Connection(Protocol):
    """What we use of a connection. asyncpg has no types; here they are written down once."""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's
        """Run a statement; return its command tag."""
        ...

    async def executemany(self, command: str, args: Iterable[Sequence[object]]) -> None:
        """Run a statement for each row, in one go."""
        ...

    async def fetch(self, query: str, *args: object) -> list[Row]:
        """Return all rows."""
        ...

    async def fetchval(self, query: str, *args: object) -> Any:  # noqa: ANN401 - a column of any type
        """Return the first column of the first row."""
        ...

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[object]], columns: Sequence[str]
    ) -> str:
        """Write rows by COPY."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Commit what happens inside, or none of it."""
        ...

    async def add_listener(self, channel: str, callback: Callable[..., object]) -> None:
        """Be told of notifications."""
        ...

    def add_termination_listener(self, callback: Callable[..., object]) -> None:
        """Be told of the connection's end."""
        ...

    def get_server_pid(self) -> int:
        """Return which of Postgres's processes serves it."""
        ...

    def terminate(self) -> None:
        """End it without a word."""
        ...


class Pool(Protocol):
    """What we use of a pool."""

    def acquire(self, *, timeout: float) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection."""
        ...

    async def close(self) -> None:
        """End in good order."""
        ...

    def terminate(self) -> None:
        """End at once."""
        ...


@contextmanager
def meaning() -> Generator[None]:
    """Turn asyncpg's errors into ours.

    Raises:
        Unstorable: the content is refused, and would be again.
        StoreAway: Postgres can't do it now.
    """
    try:
        yield
    except _POISON as error:
        raise Unstorable(_one_line(error)) from error
    except _DAMAGE as error:
        DAMAGE.met(_one_line(error))
        raise StoreAway(_one_line(error), reason="database-damaged") from error
    except _OUTAGE as error:
        raise StoreAway(_one_line(error)) from error


async def open_pool(url: str, *, name: str, size: int) -> Pool:
    """Return a pool of up to ``size`` connections, one of them open.

    Raises:
        StoreAway: when Postgres can't be reached, or does not let us in.
    """
    with meaning():
        pool: object = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
            url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            max_inactive_connection_lifetime=0,
            reset=_as_it_is,
            server_settings=_settings(name),
        )
    return cast("Pool", pool)


async def open_connection(url: str, *, name: str, more: Mapping[str, str] | None = None) -> Connection:
    """Return one connection outside any pool, with ``more`` settings of its session.

    Raises:
        StoreAway: as ``open_pool``.
    """
    with meaning():
        found: object = await asyncpg.connect(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings=_settings(name) | dict(more or {}),
        )
    return cast("Connection", found)


@asynccontextmanager
async def borrowed(pool: Pool) -> AsyncGenerator[Connection]:
    """Lend a connection of ``pool``; errors inside and outside have our meaning."""
    with meaning():
        async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
            try:
                yield connection
            except asyncio.CancelledError:
                connection.terminate()  # to return it in good order would wait for Postgres, which may stall
                raise


@asynccontextmanager
async def transaction(pool: Pool, *, lock: int | None = None) -> AsyncGenerator[Connection]:
    """Lend a connection of ``pool``; what happens inside is committed, or none of it.

    ``lock`` is waited for and held until the end, as by ``alone``, in the same way to Postgres.
    """
    begin = "BEGIN" if lock is None else f"BEGIN; SELECT pg_advisory_xact_lock({lock})"
    async with borrowed(pool) as connection:
        try:
            await connection.execute(begin)
            yield connection
        except Exception:
            await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


async def alone(connection: Connection, lock: int) -> datetime:
    """Wait for ``lock`` until the end of the transaction; return the database's time then."""
    at: datetime = await connection.fetchval("SELECT clock_timestamp() FROM pg_advisory_xact_lock($1)", lock)
    return at


async def call(connection: Connection) -> None:
    """Wake all hubs that listen, once this is committed."""
    await connection.execute("SELECT pg_notify($1, '')", CHANGES_CHANNEL)


async def close_pool(pool: Pool, *, within_s: float) -> None:
    """Close ``pool`` in good order, or at once when that takes too long."""
    try:
        async with asyncio.timeout(within_s):
            await pool.close()
    except _OUTAGE:
        pool.terminate()


async def _as_it_is(connection: object) -> None:
    # asyncpg would ask Postgres to forget settings, cursors and locks after each use, one more way there and back a
    # batch. Our statements leave none behind; an open transaction it ends without being told.
    del connection


def _settings(name: str) -> dict[str, str]:
    return {
        "application_name": name,
        "timezone": "UTC",
        # Our statements are short; compiling them costs more than it saves.
        "jit": "off",
        "synchronous_commit": "on",
        # A hub that is frozen or cut off in a transaction holds its locks, and all others up, no longer than this.
        "idle_in_transaction_session_timeout": str(ABANDONED_MS),
        "tcp_user_timeout": str(2 * ABANDONED_MS),
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
