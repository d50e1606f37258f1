"""The schema: numbered plain SQL, applied in order under a lock, each step in its own transaction.

What was applied is remembered with its SHA-256: a step whose text changed afterwards is refused, and so is a database
that knows more steps than this code does. A step whose first line is ``-- no-transaction`` runs outside a transaction
(``CREATE INDEX CONCURRENTLY``); it must bear being repeated.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.pool import MIGRATION_LOCK, meaning, open_connection
from metrica_hub.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from metrica_hub.adapters.store.pool import Connection

_STEP: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_NO_TRANSACTION: Final = "-- no-transaction"
_LOCK_TIMEOUT_S: Final = 300.0

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """The digest by which a changed file is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def own_steps() -> tuple[Step, ...]:
    """Return the steps that came with this code, in order."""
    found = [
        Step(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in files("metrica_hub.adapters.store.migrations").iterdir()
        if (match := _STEP.fullmatch(file.name))
    ]
    return tuple(sorted(found, key=lambda step: step.number))


def outstanding(steps: Sequence[Step], applied: Mapping[int, str]) -> tuple[Step, ...]:
    """Return the steps still to apply, given the digests of those that were.

    Raises:
        Misconfigured: the database is newer than this code, or history was edited.
    """
    known = {step.number for step in steps}
    if unknown := sorted(set(applied) - known):
        raise Misconfigured(
            f"the database has migration {unknown[0]:04d}, this hub knows up to {max(known, default=0):04d};"
            " install the newer hub again"
        )
    for step in steps:
        if applied.get(step.number, step.sha256) != step.sha256:
            raise Misconfigured(
                f"migration {step.number:04d}_{step.name}.sql differs from what was applied to this database;"
                " restore the released file"
            )
    return tuple(step for step in steps if step.number not in applied)


async def migrate(url: str, steps: Sequence[Step] | None = None) -> tuple[Step, ...]:
    """Bring the database up to ``steps`` (this code's own); return what was applied now.

    Raises:
        Misconfigured: as ``outstanding``.
        StoreAway: Postgres can't be reached, or refuses.
    """
    async with _alone(url) as connection:
        with meaning():
            await connection.execute(_TABLE)
            applied = {row["number"]: row["sha256"] for row in await connection.fetch("SELECT * FROM migrations")}
        todo = outstanding(own_steps() if steps is None else steps, applied)
        with meaning():
            for step in todo:
                await _apply(connection, step)
    return todo


@asynccontextmanager
async def _alone(url: str) -> AsyncGenerator[Connection]:
    connection = await open_connection(url, name="metrica-hub migrate")
    try:
        with meaning():
            await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK, timeout=_LOCK_TIMEOUT_S)
        yield connection
    finally:
        connection.terminate()  # which releases the lock


async def _apply(connection: Connection, step: Step) -> None:
    if step.sql.startswith(_NO_TRANSACTION):
        await connection.execute(step.sql, timeout=_LOCK_TIMEOUT_S)
        await _remember(connection, step)
        return
    async with connection.transaction():
        await connection.execute(step.sql, timeout=_LOCK_TIMEOUT_S)
        await _remember(connection, step)


async def _remember(connection: Connection, step: Step) -> None:
    await connection.execute(
        "INSERT INTO migrations (number, name, sha256) VALUES ($1, $2, $3)",
        step.number,
        step.name,
        step.sha256,
    )
