"""The ledger against a model, under crashes, lost messages and a restored copy: nothing is lost, nothing is twice."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.agent.adapters.ledgers import STAMP, remembering, saying, status

from metrica_agent.adapters.ledger import Bounds
from metrica_agent.adapters.ledger.book import Book
from metrica_agent.decisions.outbox import Covered
from metrica_fleet.records import Event, Record, advanced

BOUNDS = Bounds(settle_after=4, events=3, outbox_bytes=6_000, thinned_at_least=2, connections_ahead=3)


class Hub:
    """What Postgres holds."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], Record] = {}
        self.stored: dict[str, int] = {}

    def take(self, record: Record) -> None:
        self.records.setdefault((record.stream, record.seq), record)
        self.stored[record.stream] = advanced(self.stored.get(record.stream, 0), record)

    def said(self) -> list[str]:
        return [r.message for r in self.records.values() if isinstance(r, Event) and r.kind == "commit.seen"]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="metrica-ledger-"))
        self.path = self.folder / "agent.sqlite"
        self.book = Book(self.path, BOUNDS)
        self.hub = Hub()
        self.linked = False
        self.cursor = 0
        self.events = 0
        self.said: list[str] = []
        self.memory = 0
        self.known_stored = 0
        self.restored = False
        self.back_up()

    def teardown(self) -> None:
        if self.linked:
            self.unlink()
        self.link()
        while self.book.stored < self.book.last_seq:
            self.send(100)
            self.hear()
        heard = self.hub.said()
        assert set(self.said) <= set(heard)
        assert len(heard) == len(set(heard)), "nothing is twice"
        assert self.restored or sorted(heard) == sorted(self.said)
        self.book.close()
        shutil.rmtree(self.folder)

    # --- the device ---------------------------------------------------------------------------------------------

    @rule(count=st.integers(0, 3), with_memory=st.booleans())
    def record(self, count: int, *, with_memory: bool) -> None:
        texts = [f"{self.events + number}" for number in range(count)]
        before = self.book.last_seq
        memory = remembering(self.memory + 1) if with_memory else None
        seqs = self.book.record(STAMP, memory, [saying(text) for text in texts], None)
        assert seqs == tuple(range(before + 1, before + 1 + count))
        self.events += count
        self.memory += with_memory
        self.said += texts

    @rule()
    def beat(self) -> None:
        before = self.book.last_seq
        assert self.book.heartbeat(STAMP, status()) == before + 1

    @rule(clean=st.booleans())
    def restart(self, *, clean: bool) -> None:
        stream, last_seq, stored = self.book.stream, self.book.last_seq, self.book.stored
        if clean:
            self.book.close()
        else:
            self.book._db.close()
        self.book = Book(self.path, BOUNDS)
        assert self.book.stream != stream
        assert self.book.last_seq == last_seq
        assert self.book.stored == stored if clean else self.book.stored <= stored
        self.known_stored = self.book.stored
        self.linked = False

    @rule()
    def back_up(self) -> None:
        with closing(sqlite3.connect(self.folder / "copy")) as target:
            self.book._db.backup(target)
        self.copied = (list(self.said), self.memory)

    @rule(offline=st.integers(0, 12))
    def restore(self, offline: int) -> None:
        self.book._db.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(self.folder / "copy", self.path)
        self.book = Book(self.path, BOUNDS)
        self.said, self.memory = list(self.copied[0]), self.copied[1]
        self.known_stored = self.book.stored
        self.linked = False
        self.restored = True
        self.record(offline, with_memory=False)

    # --- the bus ------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.linked)
    @rule()
    def link(self) -> None:
        self.linked = True
        self.cursor = 0
        assert self.book.connection() > 0
        self.book.linked()
        self.hear()  # what the hub said last is retained, and comes before anything is sent

    @precondition(lambda self: self.linked)
    @rule()
    def unlink(self) -> None:
        self.linked = False
        self.book.unlinked()

    @precondition(lambda self: self.linked)
    @rule(limit=st.integers(1, 5), lost=st.sets(st.integers(0, 4)))
    def send(self, limit: int, lost: set[int] | None = None) -> None:
        page = self.book.unsent(self.cursor, limit)
        for number, record in enumerate(page):
            if number not in (lost or ()):
                self.hub.take(record)
            self.cursor = record.seq
        if not page or lost:
            self.cursor = 0

    @precondition(lambda self: self.linked)
    @rule()
    def hear_live(self) -> None:
        self.hear()

    def hear(self) -> None:
        for stream, seq in list(self.hub.stored.items()):
            self.book.forget(stream, seq)
        self.known_stored = max(self.known_stored, self.book.stored)

    @rule(stream=st.sampled_from(["0" * 32, "own"]), back=st.integers(0, 50))
    def hear_something_old_or_foreign(self, stream: str, back: int) -> None:
        before = self.book.stored
        seq = max(0, before - back) if stream == "own" else 10_000
        meaning = self.book.forget(self.book.stream if stream == "own" else stream, seq)
        assert meaning in ({Covered.KNOWN, Covered.BEHIND} if stream == "own" else {Covered.FOREIGN})
        assert self.book.stored == before

    # --- always ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_memory_is_what_was_recorded(self) -> None:
        assert self.book.memory == (remembering(self.memory) if self.memory else self.book.memory)

    @invariant()
    def the_unsent_are_a_chain_from_the_watermark_to_the_last(self) -> None:
        before, stream = self.book.stored, None
        for record in self.book.unsent(0, 10_000):
            assert record.seq > before
            is_first = record.stream != stream and (stream is not None or record.prev == 0)
            assert record.prev == (0 if is_first else before)
            before, stream = record.seq, record.stream
        assert before == self.book.last_seq

    @invariant()
    def a_number_never_means_two_things(self) -> None:
        for record in self.book.unsent(0, 10_000):
            had = self.hub.records.get((record.stream, record.seq))
            if isinstance(had, Event):
                assert isinstance(record, Event)
                assert record.message == had.message

    @invariant()
    def the_hub_never_has_a_gap_below_its_watermark(self) -> None:
        assert self.book.stored >= self.known_stored


LedgerMachine.TestCase.settings = settings(
    max_examples=settings().max_examples * 3 // 5,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerMachine = LedgerMachine.TestCase
