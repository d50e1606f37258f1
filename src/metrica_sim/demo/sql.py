"""One connection to Postgres at a time. asyncpg has no types; what we use of it is written down here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

import asyncpg

_PATIENCE_S: Final = 5

NO_ANSWER: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What it means that Postgres can't be asked now."""


class Connection(Protocol):
    """What we use of a connection."""

    async def execute(self, query: str) -> str:
        """Run a statement."""
        ...

    async def fetch(self, query: str, *values: object) -> Sequence[Mapping[str, Any]]:
        """Return the rows of a query."""
        ...

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109 - asyncpg's
        """End the connection."""
        ...


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Connection]:
    """Connect to ``url`` for as long as the context lasts."""
    found = await asyncpg.connect(url, timeout=_PATIENCE_S, command_timeout=_PATIENCE_S)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    connection = cast("Connection", found)
    try:
        yield connection
    finally:
        await connection.close(timeout=_PATIENCE_S)
