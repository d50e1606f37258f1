"""Partitions of the tables that grow: made before the first row, dropped when they have outlived their use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_hub.decisions.retention import Cut, Partition, Table, partition_of

if TYPE_CHECKING:
    from datetime import datetime

    from metrica_hub.adapters.store.pool import Connection

HOLDING: Final = (Table("heartbeats", Cut.DAY), Table("events", Cut.MONTH), Table("dead_letters", Cut.MONTH))
"""What devices said, in the order in which the writer has it."""
SUMS: Final = (Table("heartbeats_5m_sums", Cut.MONTH), Table("heartbeats_1h_sums", Cut.MONTH))
"""What is kept of heartbeats for long."""

_MAKE: Final = "SELECT make_partition($1, $2, $3, $4)"
_NAMES: Final = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE $1 || '\\_%'"
_HALF_GONE: Final = """
SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = to_regclass($1) AND inhdetachpending
"""
_ATTACHED: Final = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1))"


class Partitions:
    """Those known to be there: a writer asks for its own before each batch, which mostly costs nothing."""

    def __init__(self) -> None:
        self._known: dict[str, Partition] = {}

    async def have(self, connection: Connection, table: Table, at: datetime) -> None:
        """Make sure that ``table`` has a partition for ``at``.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        if self.has(table, at):
            return
        partition = partition_of(table, at)
        await make(connection, partition)
        self._known[table.name] = partition

    def has(self, table: Table, *instants: datetime) -> bool:
        """Whether the partition of ``table`` that is known is that of all ``instants``."""
        known = self._known.get(table.name)
        return known is not None and all(known.begins <= at < known.ends for at in instants)

    def forget(self) -> None:
        """A transaction failed: what was made in it is not there."""
        self._known.clear()


async def make(connection: Connection, partition: Partition) -> bool:
    """Make ``partition``; return whether it was missing."""
    was_missing: bool = await connection.fetchval(
        _MAKE, partition.table, partition.name, partition.begins, partition.ends
    )
    return was_missing


async def names(connection: Connection, table: Table) -> list[str]:
    """Return the names of the tables that may be partitions of ``table``, attached or not."""
    return [row["relname"] for row in await connection.fetch(_NAMES, table.name)]


async def drop(connection: Connection, table: Table, name: str) -> None:
    """Drop the partition ``name``, outside of any transaction; who writes to ``table`` waits for nothing."""
    half_gone = [row["relname"] for row in await connection.fetch(_HALF_GONE, table.name)]
    if name in half_gone:
        await connection.execute(f'ALTER TABLE "{table.name}" DETACH PARTITION "{name}" FINALIZE')
    elif await connection.fetchval(_ATTACHED, name):
        await connection.execute(f'ALTER TABLE "{table.name}" DETACH PARTITION "{name}" CONCURRENTLY')
    await connection.execute(f'DROP TABLE "{name}"')
