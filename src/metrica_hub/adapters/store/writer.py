"""One transaction a batch: what is stored of its streams, records, current state, dead letters.

What costs most at small batches is each way to Postgres and back. So the same transaction has two forms. *At once*:
the batch is planned on what is remembered of its streams, and one call of a function takes the lock, compares, and
writes all or, when the memory was wrong, nothing. *Step by step*, whenever that is not possible: lock, read what is
stored, plan, write, commit. In both Postgres decides what is written, under the lock, and no hub's memory does
(docs/decisions/0016).

A batch that was committed without the hub hearing of it is planned again on what is stored then, and writes nothing
twice.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.partitions import HOLDING, Partitions
from metrica_hub.adapters.store.pool import COMMIT_LOCK, borrowed, transaction
from metrica_hub.adapters.store.queries import statement
from metrica_hub.adapters.store.rows import (
    HEARTBEAT_COLUMNS,
    batch_document,
    columns_of,
    dead_letter_row,
    event_row,
    heartbeat_row,
    presence_row,
    services_row,
)
from metrica_hub.decisions.coverage import Coverage, from_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import CommitId
    from metrica_hub.adapters.store.pool import Connection, Pool
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.plan import Covered, Writes

COPY_FROM: Final = 100
"""Heartbeats of a batch from which on COPY is quicker than what spares its round trips."""
REMEMBERED: Final = 20_000
"""Streams, those of the latest batches; a few MiB."""
_AHEAD: Final = timedelta(minutes=1)
"""So long before its end a partition is not relied on: how late it is was estimated."""


class Writer:
    """The only writer of what devices say."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._partitions = Partitions()
        self._memory = _Memory()
        self._have_functions: set[int] = set()
        """Connections, by their server process, that have the functions of ``queries/functions.sql``."""
        self._functions = statement("functions")
        self._get_coverage = statement("get_coverage")
        self._put_events = statement("put_events")
        self._put_presence = statement("put_presence")
        self._put_services = statement("put_services")
        self._put_dead_letters = statement("put_dead_letters")
        self._put_head = statement("put_head")

    async def commit(
        self, streams: Sequence[StreamKey], made: Callable[[Mapping[StreamKey, Coverage]], Writes]
    ) -> Writes:
        """Write what ``made`` makes of what is stored of ``streams`` (new ones are not in it), or nothing.

        Durable when this returns. Nobody else writes records in between, so that each is written once.

        Raises:
            Unstorable: Postgres refuses something in it, and would again.
            StoreAway: Postgres can't do it now.
        """
        try:
            known = self._memory.of(streams)
            writes = None if known is None else made(known)
            if writes is not None and self._is_common(writes) and await self._at_once(writes, known or {}):
                return writes
            return await self._step_by_step(streams, made, known, writes)
        except BaseException:
            self._forget()
            raise

    async def put_head(self, branch: str, commit: CommitId) -> int:
        """Remember that ``branch`` is at ``commit``; return its number, which rose if that is news.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            number: int = await connection.fetchval(self._put_head, branch, commit)
        return number

    async def _at_once(self, writes: Writes, known: Mapping[StreamKey, Coverage]) -> bool:
        """Commit by one call; false, and nothing is written, when that is not what is stored, or can't be."""
        document = batch_document(writes, known, heartbeats=True)
        async with borrowed(self._pool) as connection:
            if connection.get_server_pid() not in self._have_functions:
                return False
            stored_at: datetime | None = await connection.fetchval(
                "SELECT pg_temp.store_batch($1, $2)", document, COMMIT_LOCK
            )
        if stored_at is None:
            return False
        self._memory.keep(writes.streams, stored_at)
        return True

    def _is_common(self, writes: Writes) -> bool:
        """Whether ``writes`` has nothing that needs a statement of its own."""
        if writes.presences or writes.services or writes.events or writes.dead_letters:
            return False
        if len(writes.heartbeats) >= COPY_FROM:
            return False
        now = self._memory.now()
        return now is not None and (not writes.heartbeats or self._partitions.has(HOLDING[0], now, now + _AHEAD))

    async def _step_by_step(
        self,
        streams: Sequence[StreamKey],
        made: Callable[[Mapping[StreamKey, Coverage]], Writes],
        known: Mapping[StreamKey, Coverage] | None,
        writes: Writes | None,
    ) -> Writes:
        """Commit what was ``made`` of what is ``known``, or what is to be made of what is found instead."""
        async with transaction(self._pool, lock=COMMIT_LOCK) as connection:
            stored_at, coverage = await self._stored(connection, streams)
            if writes is None or coverage != known:
                writes = made(coverage)
            await self._rare(connection, writes, stored_at)
            await self._common(connection, writes, stored_at)
        self._memory.keep(writes.streams, stored_at)
        return writes

    async def _stored(
        self, connection: Connection, streams: Sequence[StreamKey]
    ) -> tuple[datetime, dict[StreamKey, Coverage]]:
        """Return the database's time, and what is stored of those of ``streams`` that are not new."""
        devices, numbers = zip(*streams, strict=True) if streams else ((), ())
        found = await connection.fetch(self._get_coverage, devices, numbers)
        return found[0]["at"], {
            (row["device"], row["stream"].hex): Coverage(row["stored_seq"], from_words(row["ahead"]))
            for row in found
            if row["device"] is not None
        }

    async def _rare(self, connection: Connection, writes: Writes, stored_at: datetime) -> None:
        """Write what most batches have none of."""
        events = [event_row(new, stored_at) for new in writes.events]
        letters = [dead_letter_row(letter, stored_at) for letter in writes.dead_letters]
        for table, rows in zip(HOLDING, (writes.heartbeats, events, letters), strict=True):
            if rows:
                await self._partitions.have(connection, table, stored_at)
        if writes.presences:
            await connection.executemany(self._put_presence, map(presence_row, writes.presences))
        if writes.services:
            await connection.executemany(self._put_services, map(services_row, writes.services))
        if events:
            await connection.execute(self._put_events, *columns_of(events))
        if letters:
            await connection.execute(self._put_dead_letters, *columns_of(letters))

    async def _common(self, connection: Connection, writes: Writes, stored_at: datetime) -> None:
        by_copy = len(writes.heartbeats) >= COPY_FROM
        if by_copy:
            rows = [heartbeat_row(new, stored_at) for new in writes.heartbeats]
            await connection.copy_records_to_table("heartbeats", records=rows, columns=HEARTBEAT_COLUMNS)
        if connection.get_server_pid() not in self._have_functions:
            await connection.execute(self._functions)
            self._have_functions.add(connection.get_server_pid())
        document = batch_document(writes, {}, heartbeats=not by_copy)
        await connection.execute("SELECT pg_temp.put_batch($1, $2)", document, stored_at)

    def _forget(self) -> None:
        """What was done last may have been undone, or not."""
        self._partitions.forget()
        self._memory = _Memory()
        self._have_functions.clear()


class _Memory:
    """What a hub remembers of the database, to plan on before it asks: a guess, which Postgres checks."""

    def __init__(self) -> None:
        self._streams: dict[StreamKey, Coverage] = {}
        self._stored_at: tuple[datetime, float] | None = None

    def of(self, streams: Sequence[StreamKey]) -> dict[StreamKey, Coverage] | None:
        """Return what is stored of ``streams``; ``None`` when of one it is not remembered."""
        found = {key: known for key in streams if (known := self._streams.get(key)) is not None}
        return found if len(found) == len(streams) else None

    def now(self) -> datetime | None:
        """Return about what the database's clock says, if it was ever heard."""
        if self._stored_at is None:
            return None
        at, heard_s = self._stored_at
        return at + timedelta(seconds=time.monotonic() - heard_s)

    def keep(self, covered: Iterable[Covered], stored_at: datetime) -> None:
        """Note what is stored of these streams, and the database's time."""
        for one in covered:
            key = one.device, one.stream
            self._streams.pop(key, None)  # so that those of the latest batches come last
            self._streams[key] = one.coverage
        while len(self._streams) > REMEMBERED:
            del self._streams[next(iter(self._streams))]
        self._stored_at = stored_at, time.monotonic()
