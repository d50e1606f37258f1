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
_DECISION: Final = msgspec.json.Decoder(tuple[Stamp, Decision])


def read_memory(db: sqlite3.Connection) -> Memory:
    """Return what the agent remembers; nothing in a new file."""
    row = db.execute("SELECT document FROM memory").fetchone()
    return Memory() if row is None else _MEMORY.decode(row[0])


def read_decisions(db: sqlite3.Connection, limit: int) -> tuple[tuple[Stamp, Decision], ...]:
    """Return the last decisions, newest first."""
    rows = db.execute("SELECT document FROM decisions ORDER BY number DESC LIMIT ?", (limit,))
    return tuple(_DECISION.decode(document) for (document,) in rows)


def read_events(db: sqlite3.Connection, limit: int) -> tuple[Event, ...]:
    """Return the last events, newest first, whether the hub has them or not."""
    life = db.execute("SELECT stream FROM life").fetchone()
    if life is None:
        return ()  # another process is just making the file
    (stream,) = life
    rows = db.execute(
        "SELECT seq, document FROM outbox WHERE kind = 'event' ORDER BY seq DESC LIMIT ?", (limit,)
    ).fetchall()
    found = (as_record(document, Place(StreamId(stream), seq, seq - 1)) for seq, document in rows)
    return tuple(event for event in found if isinstance(event, Event))


def as_record(document: bytes, place: Place) -> Record:
    """Return the record of a row, with its numbers as they are now."""
    try:
        record = cast("Record", decode(RECORDS, document))
    except Unusable:
        return unreadable(document, place)
    return structs.replace(record, stream=place.stream, seq=place.seq, prev=place.prev)


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
