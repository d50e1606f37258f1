"""The ledger's operations on its one open connection, each a transaction, all from one thread.

Each opening begins a new stream, and the numbers go on. So whatever happened to the file while it was closed, a
restored copy, a clone of the card, writes that a bad card lost, no number of a stream ever means two things.

What the hub has is struck out lazily, many records at a time: the watermark is kept in memory meanwhile, so
that a heartbeat costs one page and one fsync. After a crash a little more is sent again, and stored once.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import structs

from metrica_agent.adapters.ledger.opening import new_stream_id, open_file
from metrica_agent.adapters.ledger.reading import (
    as_record,
    as_sent,
    read_commands,
    read_decisions,
    read_events,
    read_memory,
)
from metrica_agent.decisions.commanding import noted
from metrica_agent.decisions.outbox import (
    RECORD_BYTES,
    Covered,
    Place,
    Progress,
    Span,
    covered,
    event_of,
    heartbeat_of,
    placed,
    repeated,
    set_back,
    shortened,
)
from metrica_agent.decisions.world import Saying
from metrica_fleet.codec import decode, encode
from metrica_fleet.errors import Ours, Unusable
from metrica_fleet.identity import BootId, StreamId
from metrica_fleet.records import EVENT_KINDS, Event, Record
from metrica_fleet.topics import RECORDS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from metrica_agent.decisions.commanding import Book as Commands
    from metrica_agent.decisions.commanding import Taken
    from metrica_agent.decisions.world import Decision, Memory, Stamp
    from metrica_fleet.messages import Status

_ENCODER: Final = msgspec.json.Encoder()


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept."""

    outbox_bytes: int = 24 * 1024 * 1024
    """Of records the hub lacks; past it heartbeats are thinned, events never. The files take up to 2.5 times it."""
    events_bytes: int = 6 * 1024 * 1024
    """Of events the hub lacks; past it one that repeats another, which was never sent, is counted into that one."""
    decisions: int = 500
    events: int = 200
    """That the hub has, kept for ``status`` and ``explain``."""
    thinned_at_least: int = 64
    """Thinning that would free less is not worth telling."""
    settle_after: int = 32
    """Records that the hub has are struck out so many at a time."""
    connections_ahead: int = 100
    """Numbers of connections are taken from the disk so many at a time."""


class BootCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often the machine and the agent were started."""

    boots: int
    """Of the machine, that the agent has seen."""
    starts: int
    """Of the agent, since the machine was started."""


class Book:
    """The memory, the decisions and the outbox of one device."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        self._db, self.opened = open_file(path)
        self._linked = False
        self._numbers: list[int] = []
        self._load()

    def _load(self) -> None:
        self.memory = read_memory(self._db)
        stored, offered, self.machine = self._db.execute("SELECT stored, offered, machine FROM life").fetchone()
        self._settled = stored
        self._progress = Progress(stored, ())
        self.last_seq = self._newest()
        self._progress = Progress(stored, self._streams(stored))
        (newest_offered,) = self._db.execute("SELECT max(seq) FROM outbox WHERE offered").fetchone()
        self._offered = max(offered, stored, newest_offered or 0)
        (self._bytes,) = self._db.execute("SELECT coalesce(sum(length(document)), 0) FROM outbox").fetchone()

    def _streams(self, stored: int) -> tuple[Span, ...]:
        """Return the streams that wait, and a new one behind them, which begins with the next record."""
        new = Span(StreamId(new_stream_id()), self.last_seq + 1, None)
        rows = self._db.execute("SELECT stream, first FROM streams ORDER BY first").fetchall()
        firsts = [*(first for _, first in rows), new.first]
        ended = [
            Span(StreamId(name), first, behind - 1)
            for (name, _), (first, behind) in zip(rows, pairwise(firsts), strict=True)
            if behind - 1 > stored
        ]
        return (*ended, new)

    @property
    def stored(self) -> int:
        """Up to here the hub is known to have everything."""
        return self._progress.stored

    @property
    def stream(self) -> StreamId:
        """The stream that the next record is of."""
        return self._progress.spans[-1].stream

    def close(self) -> None:
        """Write down what is only in memory, and close the file. Where it can't be, a little more is sent again."""
        try:
            if self.stored > self._settled:
                with suppress(sqlite3.OperationalError):
                    self._settle()
        finally:
            self._db.close()

    # --- writing --------------------------------------------------------------------------------------------

    def record(
        self, stamp: Stamp, memory: Memory | None, sayings: Sequence[Saying], decision: Decision | None
    ) -> tuple[int, ...]:
        """Replace the memory, append the events and keep the decision, or do nothing of it."""
        with self._transaction():
            seqs = tuple(self._tell(saying, stamp) for saying in sayings)
            if memory is not None and memory != self.memory:
                self._db.execute("INSERT OR REPLACE INTO memory VALUES (1, ?)", (_ENCODER.encode(memory),))
            if decision is not None:
                self._keep(stamp, decision)
        if memory is not None:
            self.memory = memory
        self._thin(stamp)
        return seqs

    def heartbeat(self, stamp: Stamp, status: Status) -> int:
        """Append a heartbeat."""
        with self._transaction():
            seq = self._append(heartbeat_of(status, stamp, self._place()))
        self._thin(stamp)
        return seq

    def started(self, boot_id: BootId) -> BootCount:
        """Count a start of the agent, and a boot where the boot id is another one."""
        with self._transaction():
            self._db.execute(
                "UPDATE life SET boots = boots + (boot_id <> :boot), boot_id = :boot,"
                " starts = CASE boot_id WHEN :boot THEN starts + 1 ELSE 1 END",
                {"boot": boot_id},
            )
            boots, starts = self._db.execute("SELECT boots, starts FROM life").fetchone()
        return BootCount(boots=boots, starts=starts)

    def settle_on(self, machine: str) -> None:
        """Belong to ``machine`` from now on."""
        if machine != self.machine:
            with self._transaction():
                self._db.execute("UPDATE life SET machine = ?", (machine,))
            self.machine = machine

    # --- commands -------------------------------------------------------------------------------------------

    def commands(self) -> Commands:
        """Return the commands that are remembered."""
        return read_commands(self._db)

    def put_command(self, stamp: Stamp, taken: Taken, sayings: Sequence[Saying]) -> Commands:
        """Remember a command, or what came of it, and tell it; return all that are remembered."""
        with self._transaction():
            known = noted(read_commands(self._db), taken)
            self._db.execute("INSERT OR REPLACE INTO commands VALUES (?, ?)", (taken.number, _ENCODER.encode(taken)))
            self._db.execute("DELETE FROM commands WHERE number <= ?", (known.floor,))
            self._db.execute("UPDATE life SET commands = ?", (known.floor,))
            for saying in sayings:
                self._tell(saying, stamp)
        return known

    # --- the outbox's other end -----------------------------------------------------------------------------

    def unsent(self, after_seq: int, limit: int) -> tuple[Record, ...]:
        """Return the next records that the hub is not known to have, in order."""
        after = max(after_seq, self.stored)
        rows = self._db.execute(
            "SELECT seq, document FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        ).fetchall()
        (before,) = self._db.execute("SELECT max(seq) FROM outbox WHERE seq <= ?", (after,)).fetchone()
        prev = max(self.stored, before or 0)
        records: list[Record] = []
        for seq, document in rows:
            records.append(as_record(document, placed(self._progress, seq, prev)))
            prev = seq
        return tuple(records)

    def forget(self, stream: str, seq: int) -> Covered:
        """Forget what the hub has, and return what its watermark means here."""
        meaning, self._progress = covered(self._progress, self.last_seq, stream, seq)
        if meaning is Covered.MOVED and self.stored - self._settled >= self._bounds.settle_after:
            self._settle_if_there_is_room()
        return meaning

    def newest_stored(self) -> Event | None:
        """Return the newest event that the hub has said to have, to ask it.

        It follows the number before its own, even where that is of another stream: a hub that knows nothing of the
        stream would take the first record of it for all there is, and have it from then on.
        """
        row = self._db.execute(
            "SELECT document FROM outbox WHERE kind = 'event' AND seq <= ? ORDER BY seq DESC LIMIT 1", (self.stored,)
        ).fetchone()
        event = None if row is None else as_sent(row[0])
        return None if event is None else structs.replace(event, prev=event.seq - 1)

    def set_back(self) -> int:
        """Let all go again that is still here; return how many records of those that the hub had said to have.

        Only in memory: what the disk says to be stored keeps numbers from being given twice. After a crash on the way
        the hub is asked anew.
        """
        kept = self._db.execute(_KEPT, (self.stored,)).fetchall()
        spans = (Span(StreamId(stream), first, last) for stream, first, last, _ in kept)
        self._progress = set_back(self._progress, spans)
        return sum(count for *_, count in kept)

    def connection(self) -> int:
        """Return a number for a connection, larger than all before."""
        if not self._numbers:
            ahead = self._bounds.connections_ahead
            with self._transaction():
                self._db.execute("UPDATE life SET connections = connections + ?", (ahead,))
                (last,) = self._db.execute("SELECT connections FROM life").fetchone()
            self._numbers = list(range(last, last - ahead, -1))
        return self._numbers.pop()

    def linked(self) -> None:
        """A connection stands: from now on any record may be sent."""
        if self.last_seq > self._offered:
            with self._transaction():
                self._db.execute("UPDATE life SET offered = ?", (self.last_seq,))
            self._offered = self.last_seq
        self._linked = True

    def unlinked(self) -> None:
        """The connection is gone: none of the records to come is sent before the next ``linked``."""
        self._linked = False

    # --- for people -----------------------------------------------------------------------------------------

    def decisions(self, limit: int) -> tuple[tuple[Stamp, Decision], ...]:
        """Return the last decisions, newest first."""
        return read_decisions(self._db, limit)

    def recent_events(self, limit: int) -> tuple[Event, ...]:
        """Return the last events, newest first."""
        return read_events(self._db, limit)

    # --- inside a transaction -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Generator[None]:
        bytes_before = self._bytes
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            last_seq = self._newest()
            self._db.execute("COMMIT")
        except BaseException:
            self._bytes = bytes_before
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.last_seq = last_seq
        if self._linked:
            self._offered = last_seq

    def _settle_if_there_is_room(self) -> None:
        try:
            self._settle()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise  # on a full disk they just stay a little longer

    def _settle(self) -> None:
        """Write down the watermark, and forget what it covers but for the last events."""
        with self._transaction():
            self._db.execute("UPDATE life SET stored = max(stored, ?)", (self.stored,))
            self._db.execute("DELETE FROM streams WHERE first < ?", (self._progress.spans[0].first,))
            spare = self._db.execute(
                "SELECT seq FROM outbox WHERE kind = 'event' ORDER BY seq DESC LIMIT 1 OFFSET ?",
                (self._bounds.events,),
            ).fetchone()
            self._delete(
                "seq <= :stored AND (seq <= :spare OR (seq > :settled AND kind <> 'event'))",
                {"stored": self.stored, "settled": self._settled, "spare": spare[0] if spare else 0},
            )
        self._settled = self.stored

    def _delete(self, where: str, values: dict[str, int]) -> None:
        gone = self._db.execute(f"DELETE FROM outbox WHERE {where} RETURNING length(document)", values)  # noqa: S608
        self._bytes -= sum(length for (length,) in gone)

    def _tell(self, saying: Saying, stamp: Stamp) -> int:
        event = event_of(saying, stamp, self._place())
        if not self._linked and self._bytes > self._bounds.events_bytes and self._flooded():
            row = self._db.execute(_SAME_EVENT, {"offered": self._offered, **_sameness(event)}).fetchone()
            if row is not None:
                return self._count_into(as_record(row[1], placed(self._progress, row[0], 0)), event)
        return self._append(event)

    def _flooded(self) -> bool:
        (waiting,) = self._db.execute(
            "SELECT coalesce(sum(length(document)), 0) FROM outbox WHERE kind = 'event' AND seq > ?", (self.stored,)
        ).fetchone()
        return waiting > self._bounds.events_bytes

    def _count_into(self, before: Record, event: Event) -> int:
        """Count a repetition into an event that nobody has seen: its number never meant anything else to anybody."""
        if not isinstance(before, Event):
            return self._append(event)
        document = encode(repeated(before, event))
        (length,) = self._db.execute("SELECT length(document) FROM outbox WHERE seq = ?", (before.seq,)).fetchone()
        self._db.execute("UPDATE outbox SET document = ? WHERE seq = ?", (document, before.seq))
        self._bytes += len(document) - length
        return before.seq

    def _append(self, record: Record) -> int:
        document = encode(record)
        if len(document) > RECORD_BYTES and isinstance(record, Event):
            record = shortened(record)
            document = encode(record)
        _refuse_unsayable(record, document)
        kind = "event" if isinstance(record, Event) else "heartbeat"
        if record.seq == self._progress.spans[-1].first:
            self._db.execute("INSERT INTO streams (first, stream) VALUES (?, ?)", (record.seq, self.stream))
        self._db.execute(
            "INSERT INTO outbox (seq, kind, offered, document) VALUES (?, ?, ?, ?)",
            (record.seq, kind, self._linked, document),
        )
        self._bytes += len(document)
        return record.seq

    def _keep(self, stamp: Stamp, decision: Decision) -> None:
        kept = self._db.execute("INSERT INTO decisions (document) VALUES (?)", (_ENCODER.encode((stamp, decision)),))
        self._db.execute("DELETE FROM decisions WHERE number <= ?", ((kept.lastrowid or 0) - self._bounds.decisions,))

    def _place(self) -> Place:
        newest = self._newest()
        return placed(self._progress, newest + 1, newest)

    def _newest(self) -> int:
        (newest,) = self._db.execute(
            "SELECT max(stored, coalesce((SELECT max(seq) FROM outbox), 0)) FROM life"
        ).fetchone()
        return newest

    # --- the bound ------------------------------------------------------------------------------------------

    def _thin(self, stamp: Stamp) -> None:
        """Past the bound, drop every second heartbeat of the older half, and tell it."""
        if self._bytes <= self._bounds.outbox_bytes:
            return
        heartbeats, thinnable = self._db.execute(_THINNABLE, {"stored": self.stored}).fetchone()
        dropped = thinnable // 4
        if dropped < self._bounds.thinned_at_least:
            return
        saying = Saying(
            kind="outbox.thinned",
            reason="outbox-full",
            message=f"{dropped} of {heartbeats} heartbeats that could not be sent were dropped to keep room",
            detail={"dropped": dropped, "heartbeats": heartbeats, "outbox_bytes": self._bytes},
        )
        with self._transaction():
            self._delete(_SECOND_OF_OLDER_HALF, {"stored": self.stored, "older": 2 * dropped})
            self._append(event_of(saying, stamp, self._place()))


# Of the records that the hub has said to have, by the stream that they were written under.
_KEPT: Final = """SELECT stream, min(seq), max(seq), count(*) FROM (
        SELECT seq, json_extract(CAST(document AS TEXT), '$.stream') AS stream
        FROM outbox WHERE seq <= ? AND json_valid(CAST(document AS TEXT))
    ) WHERE stream IS NOT NULL GROUP BY stream ORDER BY min(seq)"""
_SAME_EVENT: Final = """SELECT seq, document FROM outbox
    WHERE kind = 'event' AND seq > :offered
        AND json_extract(CAST(document AS TEXT), '$.kind') = :kind
        AND json_extract(CAST(document AS TEXT), '$.reason') IS :reason
        AND json_extract(CAST(document AS TEXT), '$.commit') IS :commit
        AND json_extract(CAST(document AS TEXT), '$.release') IS :release
    ORDER BY seq DESC LIMIT 1"""


def _sameness(event: Event) -> dict[str, str | None]:
    return {"kind": event.kind, "reason": event.reason, "commit": event.commit, "release": event.release}


# The last record of a stream that ended stays, or its end would not be known. Half of those that may go never reaches
# the newest of all, whose number would be given again.
_MAY_GO: Final = "seq NOT IN (SELECT first - 1 FROM streams)"
_THINNABLE: Final = f"""SELECT count(*), count(*) FILTER (WHERE {_MAY_GO})
    FROM outbox WHERE kind = 'heartbeat' AND seq > :stored"""  # noqa: S608 - of constants
_SECOND_OF_OLDER_HALF: Final = f"""seq IN (
    SELECT seq FROM (
        SELECT seq, row_number() OVER (ORDER BY seq) AS number
        FROM outbox WHERE kind = 'heartbeat' AND seq > :stored AND {_MAY_GO}
    ) WHERE number <= :older AND number % 2 = 1
)"""  # noqa: S608 - of constants


def _refuse_unsayable(record: Record, document: bytes) -> None:
    """Let nothing into the outbox that the hub would refuse: it would block all that comes after it."""
    if isinstance(record, Event) and record.kind not in EVENT_KINDS:
        raise Ours(f'"{record.kind}" is no registered kind of event', reason="unregistered-kind")
    try:
        decode(RECORDS, document)
    except Unusable as error:
        raise Ours(f"a record of our own is refused: {error.message}", reason="unsayable") from error
