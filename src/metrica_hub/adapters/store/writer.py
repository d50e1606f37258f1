"""One transaction a batch: records, current state, watermarks, dead letters; then the wake-up for who watches.

Below ``COPY_FROM`` rows arrays and ``unnest`` are quicker, above it COPY into a temporary table is
(reference/PERFORMANCE.md 3). Every statement may be repeated: a batch that was committed without the hub hearing of
it is simply written again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from metrica_hub.adapters.store.pool import CHANGES_CHANNEL, COMMIT_LOCK, borrowed, transaction
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
from metrica_hub.decisions.plan import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metrica_fleet.identity import CommitId
    from metrica_hub.adapters.store.pool import Connection, Pool
    from metrica_hub.adapters.store.rows import Row
    from metrica_hub.decisions.fleet_state import StreamKey
    from metrica_hub.decisions.plan import Received, Watermark, Writes

COPY_FROM: Final = 300

_INCOMING: Final = "incoming_heartbeats"


@dataclass(frozen=True, slots=True)
class _Statements:
    heartbeats: str
    make_incoming: str
    incoming: str
    events: str
    presences: str
    statuses: str
    vitals: str
    heard: str
    watermarks: str
    dead_letters: str


class Writer:
    """The only writer of what devices say."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = _Statements(
            heartbeats=statement("put_heartbeats"),
            make_incoming=statement("make_incoming"),
            incoming=statement("put_incoming"),
            events=statement("put_events"),
            presences=statement("put_presence"),
            statuses=statement("put_status"),
            vitals=statement("put_vitals"),
            heard=statement("put_heard"),
            watermarks=statement("put_watermarks"),
            dead_letters=statement("put_dead_letters"),
        )
        self._get_watermarks = statement("get_watermarks")
        self._put_head = statement("put_head")

    async def watermarks(self, streams: Sequence[StreamKey]) -> dict[StreamKey, int]:
        """Return how far each of ``streams`` is stored; one that is new is not in the answer.

        Raises:
            StoreAway: Postgres does not answer.
        """
        if not streams:
            return {}
        async with borrowed(self._pool) as connection:
            found = await connection.fetch(self._get_watermarks, *columns_of(list(streams)))
        return {(row["device"], row["stream"].hex): row["stored_seq"] for row in found}

    async def commit(self, writes: Writes) -> Receipt:
        """Write all of ``writes`` or nothing; durable when this returns.

        Raises:
            Unstorable: Postgres refuses something in it, and would again.
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", COMMIT_LOCK)
            heartbeats = await self._heartbeats(connection, list(map(heartbeat_row, writes.heartbeats)))
            events = await _insert(connection, self._sql.events, map(event_row, writes.events))
            letters = await _insert(connection, self._sql.dead_letters, map(dead_letter_row, writes.dead_letters))
            await self._current_state(connection, writes)
            await _insert(connection, self._sql.watermarks, map(_watermark_row, writes.watermarks))
            await connection.execute("SELECT pg_notify($1, '')", CHANGES_CHANNEL)
        return Receipt(heartbeats=heartbeats, events=events, dead_letters=letters)

    async def put_head(self, branch: str, commit: CommitId) -> int:
        """Remember that ``branch`` is at ``commit``; return its number, which rose if that is news.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            number: int = await connection.fetchval(self._put_head, branch, commit)
        return number

    async def _heartbeats(self, connection: Connection, rows: list[Row]) -> int:
        if len(rows) < COPY_FROM:
            return await _insert(connection, self._sql.heartbeats, rows)
        await connection.execute(self._sql.make_incoming)
        await connection.copy_records_to_table(_INCOMING, records=rows, columns=HEARTBEAT_COLUMNS)
        return _count(await connection.execute(self._sql.incoming))

    async def _current_state(self, connection: Connection, writes: Writes) -> None:
        await _each(connection, self._sql.presences, presence_row, writes.presences)
        await _each(connection, self._sql.statuses, status_row, writes.statuses)
        await _each(connection, self._sql.vitals, vitals_row, writes.vitals)
        await _insert(connection, self._sql.heard, map(_heard_row, writes.heard))


async def _insert(connection: Connection, sql: str, rows: Iterable[Row]) -> int:
    listed = list(rows)
    if not listed:
        return 0
    return _count(await connection.execute(sql, *columns_of(listed)))


async def _each(connection: Connection, sql: str, row: Callable[[Any], Row], values: Sequence[object]) -> None:
    if values:
        await connection.executemany(sql, [row(value) for value in values])


def _heard_row(heard: Received) -> Row:
    return heard.device, heard.at


def _watermark_row(watermark: Watermark) -> Row:
    return watermark.device, watermark.stream, watermark.stored


def _count(command_tag: str) -> int:
    # "INSERT 0 17": how many rows were new.
    return int(command_tag.rsplit(" ", 1)[1])
