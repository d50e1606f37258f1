"""The ledger: ``agent.sqlite``, what the device remembers, decided and has yet to say, in ONE file.

A decision, the memory that it changes and the events that tell it commit in one transaction (two WAL files
would not: STYLE.md 3.5). ``synchronous=FULL``, so that a number once given never comes to mean something else
(CONVENTIONS F18).

The outbox is one stream of numbered records. A record goes when the hub says that it is stored, not when it
is sent. Heartbeats that can't be sent are thinned past a bound in bytes; events never are.

Each opening begins a new stream (docs/decisions/0015): what a restored copy or a cloned card says from then on can't
bear the numbers of what somebody else said. What waits of earlier streams is sent under its own, first.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from metrica_agent.adapters.ledger.book import Book, BootCount, Bounds
from metrica_agent.adapters.ledger.opening import Opened, is_full, translated
from metrica_agent.adapters.ledger.reading import recent_decisions, recent_events, remembered
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metrica_agent.decisions.commanding import Book as Commands
    from metrica_agent.decisions.commanding import Taken
    from metrica_agent.decisions.outbox import Covered
    from metrica_agent.decisions.world import Decision, Memory, Saying, Stamp
    from metrica_fleet.identity import BootId, StreamId
    from metrica_fleet.messages import Status
    from metrica_fleet.records import Event, Record

__all__ = [
    "BootCount",
    "Bounds",
    "Ledger",
    "Opened",
    "recent_decisions",
    "recent_events",
    "remembered",
]

_T = TypeVar("_T")


class Ledger:
    """The ledger for the event loop: each call is one step in the ledger's own thread, in order.

    Every method may raise ``NotNow`` (``ledger-full``, ``ledger-unavailable``: nothing was written) and
    ``Ours`` (``ledger-damaged``, ``unsayable``, ``unregistered-kind``).
    """

    def __init__(
        self,
        book: Book,
        thread: ThreadPoolExecutor,
        path: Path,
        appended: Callable[[], None],
        make_room: Callable[[], bool],
        *,
        own_thread: bool,
    ) -> None:
        self._book = book
        self._thread = thread
        self._own_thread = own_thread
        self._path = path
        self._appended = appended
        self._make_room = make_room

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        appended: Callable[[], None] = lambda: None,
        bounds: Bounds | None = None,
        book: Callable[[Path, Bounds], Book] = Book,
        make_room: Callable[[], bool] = lambda: False,
        thread: ThreadPoolExecutor | None = None,
    ) -> Ledger:
        """Open the ledger at ``path``, or begin one; ``opened`` says which.

        Args:
            path: where the file is; its folder is made.
            appended: called on the loop after each commit that put something into the outbox.
            bounds: how much is kept.
            book: opens the file; a simulation brings one that is watched.
            make_room: called, in the ledger's thread, when the disk is full; true when it freed something, and what
                could not be done is then done again.
            thread: of one worker, that many ledgers of a simulation share; ``None``: one of its own.

        Raises:
            Unusable: ``ledger-too-new``, ``ledger-filesystem``.
            NotNow: ``ledger-full``, ``ledger-unavailable``.
        """
        own = thread is None
        thread = thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        try:
            loop = asyncio.get_running_loop()
            opening = partial(book, path, bounds or Bounds())
            opened = await loop.run_in_executor(thread, partial(_with_room, opening, make_room))
        except BaseException:
            if own:
                thread.shutdown(wait=False)
            raise
        return cls(opened, thread, path, appended, make_room, own_thread=own)

    async def close(self) -> None:
        """Close the file. Nothing may be called afterwards."""
        try:
            await self._do(self._book.close)
        finally:
            if self._own_thread:
                self._thread.shutdown(wait=False)

    async def _do(self, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, step)

    def _translated(self, step: Callable[[], _T]) -> _T:
        with translated(self._path):
            return _with_room(step, self._make_room)

    # --- what is known without asking the disk --------------------------------------------------------------

    @property
    def opened(self) -> Opened:
        """What was found at the path."""
        return self._book.opened

    @property
    def stream(self) -> StreamId:
        """The stream that the next record is of."""
        return self._book.stream

    def memory(self) -> Memory:
        """Return what was last recorded as memory; an empty one in a new file."""
        return self._book.memory

    def stored(self) -> int:
        """Return up to which seq the hub is known to have everything."""
        return self._book.stored

    def last_seq(self) -> int:
        """Return the highest seq given so far; 0 before the first."""
        return self._book.last_seq

    def machine(self) -> str:
        """Return the machine that the ledger belongs to; empty while none is known."""
        return self._book.machine

    # --- writing --------------------------------------------------------------------------------------------

    async def record(
        self,
        stamp: Stamp,
        *,
        memory: Memory | None = None,
        sayings: Sequence[Saying] = (),
        decision: Decision | None = None,
    ) -> tuple[int, ...]:
        """Replace the memory, append the events and keep the decision, in one transaction; return seqs."""
        seqs = await self._do(partial(self._book.record, stamp, memory, tuple(sayings), decision))
        if seqs:
            self._appended()
        return seqs

    async def heartbeat(self, stamp: Stamp, status: Status) -> int:
        """Append a heartbeat that tells ``status``; return its seq."""
        seq = await self._do(partial(self._book.heartbeat, stamp, status))
        self._appended()
        return seq

    async def started(self, boot_id: BootId) -> BootCount:
        """Count a start of the agent, and a boot where ``boot_id`` is a new one. Once, at start."""
        return await self._do(partial(self._book.started, boot_id))

    async def settle_on(self, machine: str) -> None:
        """Belong to ``machine`` from now on."""
        await self._do(partial(self._book.settle_on, machine))

    # --- commands -------------------------------------------------------------------------------------------

    async def commands(self) -> Commands:
        """Return the commands that are remembered."""
        return await self._do(self._book.commands)

    async def put_command(self, stamp: Stamp, taken: Taken, *, sayings: Sequence[Saying] = ()) -> Commands:
        """Remember a command, or what came of it, with the events that tell it; return all that are remembered."""
        known = await self._do(partial(self._book.put_command, stamp, taken, tuple(sayings)))
        if sayings:
            self._appended()
        return known

    # --- the outbox's other end -----------------------------------------------------------------------------

    async def unsent(self, after_seq: int, limit: int) -> tuple[Record, ...]:
        """Return up to ``limit`` records after ``after_seq`` that the hub is not known to have, in order."""
        return await self._do(partial(self._book.unsent, after_seq, limit))

    async def forget(self, stream: str, seq: int) -> Covered:
        """Forget what the hub has; any watermark is harmless, and may come any number of times.

        Args:
            stream: whose watermark it is.
            seq: up to here the hub has stored everything of it.
        """
        return await self._do(partial(self._book.forget, stream, seq))

    async def newest_stored(self) -> Event | None:
        """Return the newest event that the hub has said to have, as it was sent; to ask it whether it still has."""
        return await self._do(self._book.newest_stored)

    async def set_back(self) -> int:
        """Let all go again that is still here: the hub lacks what it had said to have. Return how many of those."""
        return await self._do(self._book.set_back)

    async def connections(self) -> int:
        """Return a number for a connection: larger than all before, not always by one."""
        return await self._do(self._book.connection)

    async def linked(self) -> None:
        """Note, before anything is sent, that a connection stands: all in the outbox may go now."""
        await self._do(self._book.linked)

    async def unlinked(self) -> None:
        """Note that the connection is gone."""
        await self._do(self._book.unlinked)

    # --- for people -----------------------------------------------------------------------------------------

    async def decisions(self, limit: int) -> tuple[tuple[Stamp, Decision], ...]:
        """Return the last decisions and when they were taken, newest first."""
        return await self._do(partial(self._book.decisions, limit))

    async def recent_events(self, limit: int) -> tuple[Event, ...]:
        """Return the last events, newest first, whether the hub has them or not."""
        return await self._do(partial(self._book.recent_events, limit))


def _with_room(step: Callable[[], _T], make_room: Callable[[], bool]) -> _T:
    """Do ``step``, which does all or nothing; on a full disk once more, if room was made."""
    try:
        return step()
    except Exception as error:
        cause = error.__cause__ if isinstance(error, NotNow) and isinstance(error.__cause__, Exception) else error
        if not is_full(cause) or not make_room():
            raise
    return step()
