"""What is read from ``agent.sqlite``, by the agent and by others.

The agent reads on its own connection; ``status`` and ``explain`` run in another process, while the agent
runs, and read on a connection that can't write.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final, TypeVar, cast
from urllib.parse import quote

import msgspec
from msgspec import structs

from metrica_agent.decisions.commanding import Book as Commands
from metrica_agent.decisions.commanding import Taken
from metrica_agent.decisions.outbox import Place, unreadable
from metrica_agent.decisions.world import Decision, Memory, Stamp
from metrica_fleet.codec import decode
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import StreamId
from metrica_fleet.records import Event, Record
from metrica_fleet.topics import RECORDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")

_MEMORY: Final = msgspec.json.Decoder(Memory)
_EVENTS: Final = """SELECT
    coalesce(
        (SELECT stream FROM streams WHERE first <= seq ORDER BY first DESC LIMIT 1),
        (SELECT stream FROM streams ORDER BY first LIMIT 1) -- the hub has it: its own stream is forgotten
    ), seq, document
    FROM outbox WHERE kind = 'event' ORDER BY seq DESC LIMIT ?"""
_TAKEN: Final = msgspec.json.Decoder(Taken)
_DECISION: Final = msgspec.json.Decoder(tuple[Stamp, Decision])


def read_memory(db: sqlite3.Connection) -> Memory:
    """Return what the agent remembers; nothing in a new file."""
    row = db.execute("SELECT document FROM memory").fetchone()
    return Memory() if row is None else _MEMORY.decode(row[0])


def read_commands(db: sqlite3.Connection) -> Commands:
    """Return the commands that are remembered."""
    (floor,) = db.execute("SELECT commands FROM life").fetchone()
    rows = db.execute("SELECT document FROM commands ORDER BY number")
    taken = [_TAKEN.decode(document) for (document,) in rows]
    return Commands(floor=floor, taken={one.number: one for one in taken})


def read_decisions(db: sqlite3.Connection, limit: int) -> tuple[tuple[Stamp, Decision], ...]:
    """Return the last decisions, newest first."""
    rows = db.execute("SELECT document FROM decisions ORDER BY number DESC LIMIT ?", (limit,))
    return tuple(_DECISION.decode(document) for (document,) in rows)


def read_events(db: sqlite3.Connection, limit: int) -> tuple[Event, ...]:
    """Return the last events, newest first, whether the hub has them or not."""
    rows = db.execute(_EVENTS, (limit,)).fetchall()
    found = (as_record(document, Place(StreamId(stream), seq, seq - 1)) for stream, seq, document in rows)
    return tuple(event for event in found if isinstance(event, Event))


def as_record(document: bytes, place: Place) -> Record:
    """Return the record of a row, with its numbers as they are now."""
    try:
        record = cast("Record", decode(RECORDS, document))
    except Unusable:
        return unreadable(document, place)
    return structs.replace(record, stream=place.stream, seq=place.seq, prev=place.prev)


def as_sent(document: bytes) -> Event | None:
    """Return the event of a row with the numbers that it was written under; ``None`` where it can't be read."""
    try:
        record = decode(RECORDS, document)
    except Unusable:
        return None
    return record if isinstance(record, Event) else None


def remembered(path: Path) -> Memory:
    """Return what the agent whose ledger is at ``path`` remembers.

    Raises:
        NotNow: ``ledger-unavailable``.
    """
    return _looked(path, read_memory)


def recent_events(path: Path, limit: int) -> tuple[Event, ...]:
    """Return the last events in the ledger at ``path``, newest first.

    Raises:
        NotNow: ``ledger-unavailable``.
    """
    return _looked(path, lambda db: read_events(db, limit))


def recent_decisions(path: Path, limit: int) -> tuple[tuple[Stamp, Decision], ...]:
    """Return the last decisions in the ledger at ``path``, newest first.

    Raises:
        NotNow: ``ledger-unavailable``.
    """
    return _looked(path, lambda db: read_decisions(db, limit))


def _looked(path: Path, look: Callable[[sqlite3.Connection], _T]) -> _T:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)) as db:
            return look(db)
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise NotNow(f"{path}: {error}; has an agent run here?", reason="ledger-unavailable") from error
