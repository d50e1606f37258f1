"""The real ledger file under a witness: told of every commit the moment that it stands, and full when the disk is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from metrica_agent.adapters.ledger.book import Book
from metrica_agent.adapters.ledger.opening import read_memory
from metrica_fleet.errors import NotNow
from metrica_fleet.records import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from metrica_agent.adapters.ledger.book import BootCount, Bounds
    from metrica_agent.decisions.world import Decision, Memory, Saying, Stamp
    from metrica_fleet.identity import BootId
    from metrica_fleet.messages import Status
    from metrica_fleet.records import Record


class Witness(Protocol):
    """Who is told what the ledger has committed."""

    def remembered(self, before: Memory, after: Memory) -> None:
        """Memory is another one now."""
        ...

    def wrote(self, event: Event) -> None:
        """An event stands in the outbox."""
        ...

    def holds(self, unsettled_bytes: int, event_bytes: int) -> None:
        """The outbox takes so many bytes; so many of them are of events."""
        ...


class WitnessedBook(Book):
    """``agent.sqlite`` in a simulated world. The disk of the simulation loses nothing, so nothing is synced."""

    def __init__(self, path: Path, bounds: Bounds, *, full: Callable[[], bool], witness: Witness) -> None:
        """Open the file; ``full`` says whether the disk takes no more."""
        self._pending: list[Event] = []
        self._full = full
        self._witness = witness
        super().__init__(path, bounds)
        self._db.execute("PRAGMA synchronous = OFF")

    def record(
        self, stamp: Stamp, memory: Memory | None, sayings: Sequence[Saying], decision: Decision | None
    ) -> tuple[int, ...]:
        """As ``Book``; what is on the disk afterwards is compared with what was there before."""
        before = self.memory
        seqs = super().record(stamp, memory, sayings, decision)
        if memory is not None:
            self._witness.remembered(before, read_memory(self._db))
        self._weigh()
        return seqs

    def heartbeat(self, stamp: Stamp, status: Status) -> int:
        """As ``Book``."""
        seq = super().heartbeat(stamp, status)
        self._weigh()
        return seq

    def started(self, boot_id: BootId) -> BootCount:
        """As ``Book``."""
        self._require_room()
        return super().started(boot_id)

    def abandon(self) -> None:
        """Let go of the file as a killed process does: nothing more is written."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._require_room()
        self._pending = []
        with super()._transaction():
            yield
        for event in self._pending:
            self._witness.wrote(event)

    def _append(self, record: Record) -> int:
        if isinstance(record, Event):
            self._pending.append(record)
        return super()._append(record)

    def _weigh(self) -> None:
        if self._bytes <= self._bounds.outbox_bytes:
            return
        (events,) = self._db.execute(
            "SELECT coalesce(sum(length(document)), 0) FROM outbox WHERE kind = 'event' OR seq <= ?", (self.stored,)
        ).fetchone()
        self._witness.holds(self._bytes, events)

    def _require_room(self) -> None:
        if self._full():
            raise NotNow("agent.sqlite: database or disk is full (simulated)", reason="ledger-full")
