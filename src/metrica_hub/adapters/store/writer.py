"""One transaction a batch: what is stored of its streams, records, current state, dead letters; then the wake-up.

Below ``COPY_FROM`` rows arrays and ``unnest`` are quicker, above it COPY is (reference/PERFORMANCE.md 3). A batch that
was committed without the hub hearing of it is planned again on what is stored then, and writes nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from metrica_hub.adapters.store.partitions import HOLDING, Partitions
from metrica_hub.adapters.store.pool import CHANGES_CHANNEL, COMMIT_LOCK, alone, borrowed, transaction
from metrica_hub.adapters.store.queries import statement
from metrica_hub.adapters.store.rows import (
    HEARTBEAT_COLUMNS,
    columns_of,
    dead_letter_row,
    event_row,
    heartbeat_row,
    presence_row,
    status_row,
    vitals_row,
)
from metrica_hub.decisions.coverage import Coverage, from_words, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import CommitId
    from metrica_hub.adapters.store.pool import Connection, Pool
    from metrica_hub.adapters.store.rows import Row
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.plan import Covered, Received, Writes

COPY_FROM: Final = 300


@dataclass(frozen=True, slots=True)
class _Statements:
    heartbeats: str
    events: str
    presences: str
    statuses: str
    vitals: str
    heard: str
    coverage: str
    dead_letters: str


class Writer:
    """The only writer of what devices say."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._partitions = Partitions()
        self._sql = _Statements(
            heartbeats=statement("put_heartbeats"),
            events=statement("put_events"),
            presences=statement("put_presence"),
            statuses=statement("put_status"),
            vitals=statement("put_vitals"),
            heard=statement("put_heard"),
            coverage=statement("put_coverage"),
            dead_letters=statement("put_dead_letters"),
        )
        self._get_coverage = statement("get_coverage")
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
            async with transaction(self._pool) as connection:
                stored_at = await alone(connection, COMMIT_LOCK)
                writes = made(await self._coverage(connection, streams))
                await self._records(connection, writes, stored_at)
                await self._current_state(connection, writes)
                await _insert(connection, self._sql.coverage, list(map(_coverage_row, writes.streams)))
                await connection.execute("SELECT pg_notify($1, '')", CHANGES_CHANNEL)
        except BaseException:
            self._partitions.forget()
            raise
        return writes

    async def put_head(self, branch: str, commit: CommitId) -> int:
        """Remember that ``branch`` is at ``commit``; return its number, which rose if that is news.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            number: int = await connection.fetchval(self._put_head, branch, commit)
        return number

    async def _coverage(self, connection: Connection, streams: Sequence[StreamKey]) -> dict[StreamKey, Coverage]:
        if not streams:
            return {}
        found = await connection.fetch(self._get_coverage, *columns_of(list(streams)))
        return {
            (row["device"], row["stream"].hex): Coverage(row["stored_seq"], from_words(row["ahead"])) for row in found
        }

    async def _records(self, connection: Connection, writes: Writes, stored_at: datetime) -> None:
        heartbeats = [heartbeat_row(new, stored_at) for new in writes.heartbeats]
        events = [event_row(new, stored_at) for new in writes.events]
        letters = [dead_letter_row(letter, stored_at) for letter in writes.dead_letters]
        for table, rows in zip(HOLDING, (heartbeats, events, letters), strict=True):
            if rows:
                await self._partitions.have(connection, table, stored_at)
        if len(heartbeats) < COPY_FROM:
            await _insert(connection, self._sql.heartbeats, heartbeats)
        else:
            await connection.copy_records_to_table("heartbeats", records=heartbeats, columns=HEARTBEAT_COLUMNS)
        await _insert(connection, self._sql.events, events)
        await _insert(connection, self._sql.dead_letters, letters)

    async def _current_state(self, connection: Connection, writes: Writes) -> None:
        await _each(connection, self._sql.presences, presence_row, writes.presences)
        await _each(connection, self._sql.statuses, status_row, writes.statuses)
        await _each(connection, self._sql.vitals, vitals_row, writes.vitals)
        await _insert(connection, self._sql.heard, list(map(_heard_row, writes.heard)))


async def _insert(connection: Connection, sql: str, rows: list[Row]) -> None:
    if rows:
        await connection.execute(sql, *columns_of(rows))


async def _each(connection: Connection, sql: str, row: Callable[[Any], Row], values: Sequence[object]) -> None:
    if values:
        await connection.executemany(sql, [row(value) for value in values])


def _heard_row(heard: Received) -> Row:
    return heard.device, heard.at


def _coverage_row(one: Covered) -> Row:
    return one.device, one.stream, one.coverage.stored, in_words(one.coverage.ahead)
