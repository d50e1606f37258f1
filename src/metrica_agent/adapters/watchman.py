"""A thread beside the event loop: it feeds the supervisor's watchdog while all is well, and ends a stuck process.

Before the end it writes down where every thread and task stands, to the journal and into ``stuck.txt``; the next start
of the agent tells it as ``agent.stuck``. Where even this thread can't run (something holds the interpreter, the process
is stopped) the watchdog is not fed: the supervisor's SIGABRT then makes the interpreter write the same file.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from metrica_agent.decisions.guarding import LOOK_S, START_S, Stillness, stillness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_STUCK: Final = 3
"""What the process ends with."""
STUCK: Final = "stuck.txt"
UNTOLD: Final = "stuck-untold.txt"
LAST: Final = "stuck-last.txt"
"""The last dump that was told, for people."""
_MERCY_LOOKS: Final = 2
"""For a task that is stuck to come back after all, once it is written down."""
_STDERR_S: Final = 2.0
"""Nobody may read what we say: then it is in the file only."""
_TOLD_CHARACTERS: Final = 3000
_READ_BYTES: Final = 256 * 1024
_TASKS: Final = 100
_FRAMES: Final = 30
_NANOSECONDS: Final = 1e9
_WAITED_FIELD, _MAJOR_FAULTS_FIELD = 1, 9
"""Of /proc/<pid>/task/<tid>/schedstat, and of its stat behind the name."""


class Supervisor(Protocol):
    """Who started the agent and watches over it."""

    @property
    def watchdog_s(self) -> float | None: ...
    def feed(self) -> bool: ...
    def tell(self, status: str) -> bool: ...


class Watchman:
    """Watches over the thread that makes it, once ``begin`` is called, until the process ends."""

    def __init__(
        self,
        folder: Path,
        supervisor: Supervisor,
        *,
        look_s: float = LOOK_S,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._folder = folder
        self._supervisor = supervisor
        self._look_s = look_s if supervisor.watchdog_s is None else min(look_s, supervisor.watchdog_s / 4)
        self._end = end
        self._pause = threading.Event()
        self._watched = threading.get_native_id()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beats = 0
        self._within_s = START_S
        self._late: tuple[str, ...] = ()
        self._status = ""
        self._kernel: tuple[float, int] | None = None
        self._dump: IO[bytes] | None = None
        self.last_words = self._take_over()
        """What an earlier process left that was stuck, and nobody told yet."""

    # --- called on the loop ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Watch from now on."""
        threading.Thread(target=self._watch, name="watchman", daemon=True).start()

    def beat(self, within_s: float, late: tuple[str, ...] = ()) -> None:
        """Say that the loop comes round, again within ``within_s``, and which of its tasks do not."""
        self._loop = asyncio.get_running_loop()
        self._within_s, self._late = within_s, late
        self._beats += 1

    def tell(self, status: str) -> None:
        """Tell the supervisor, when it is something new, how things stand."""
        if status != self._status:
            self._supervisor.tell(status)
            self._status = status

    def told(self) -> None:
        """Note that ``last_words`` are in the ledger."""
        with suppress(OSError):  # then they are told once more
            (self._folder / UNTOLD).replace(self._folder / LAST)

    def close(self) -> None:
        """Let go of the file; the thread must have ended, or never have begun."""
        faulthandler.enable()  # to standard error, as before
        if self._dump is not None:
            self._dump.close()

    # --- in the thread --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        known, looked_s = Stillness(), time.monotonic()
        while True:
            self._supervisor.feed()
            self._pause.wait(self._look_s)
            now_s = time.monotonic()
            hindered_s = self._hindered_s() if self._beats == known.beats else 0.0
            known = stillness(
                known, self._beats, elapsed_s=now_s - looked_s, hindered_s=hindered_s, look_s=self._look_s
            )
            looked_s = now_s
            if known.still_s > self._within_s:
                self._give_up(f"the event loop has not come round for {known.still_s:.0f} s")
            if self._late:
                self._wait_for_the_late()
                looked_s = time.monotonic()

    def _wait_for_the_late(self) -> None:
        """Write it down, do not feed the watchdog, and end the process unless they come back."""
        late = self._late
        self._write_down("; ".join(late), tasks_last=True)
        for _ in range(_MERCY_LOOKS):
            self._pause.wait(self._look_s)
        if self._late:
            self._end(EXIT_STUCK)
        self._forget_dump()

    def _hindered_s(self) -> float:
        """Return for how long, since it was asked last, the kernel kept the loop's thread from running."""
        try:
            waited_ns = int(self._of_kernel("schedstat").split()[_WAITED_FIELD])
            faults = int(self._of_kernel("stat").rpartition(")")[2].split()[_MAJOR_FAULTS_FIELD])
        except (OSError, ValueError, IndexError):
            return 0.0  # a kernel that does not say
        before, self._kernel = self._kernel, (waited_ns / _NANOSECONDS, faults)
        if before is None:
            return 0.0
        waited_s, paged = waited_ns / _NANOSECONDS - before[0], faults > before[1]
        return 2 * self._look_s if paged else waited_s

    def _of_kernel(self, name: str) -> str:
        return Path(f"/proc/self/task/{self._watched}/{name}").read_text(encoding="utf-8", errors="replace")

    def _give_up(self, why: str) -> None:
        self._write_down(why, tasks_last=False)
        self._end(EXIT_STUCK)

    # --- the dump -------------------------------------------------------------------------------------------

    def _take_over(self) -> str:
        """Return what an earlier process wrote down, and open the file for this one."""
        try:
            left = self._folder / STUCK
            if left.exists() and left.stat().st_size > 0:
                left.replace(self._folder / UNTOLD)
            self._dump = left.open("w+b", buffering=0)
            faulthandler.enable(self._dump)
            untold = self._folder / UNTOLD
            return _end_of(untold.read_bytes()[:_READ_BYTES]) if untold.is_file() else ""
        except OSError:
            faulthandler.enable()  # to standard error: a full disk must not keep the agent from starting
            return ""

    def _forget_dump(self) -> None:
        if self._dump is not None:
            with suppress(OSError):  # told as stuck at the next start, though it came back
                self._dump.truncate(0)
                self._dump.seek(0)

    def _write_down(self, why: str, *, tasks_last: bool) -> None:
        """Write where everybody stands; what matters most stands last, for the end is what is told."""
        head = f"metrica-agent is stuck: {why}\n".encode()
        tasks = "\n".join(self._tasks(self._late)).encode()
        try:
            if self._dump is not None:
                self._forget_dump()
                self._dump.write(head if tasks_last else head + tasks + b"\n\n")
                faulthandler.dump_traceback(self._dump, all_threads=True)
                if tasks_last:
                    self._dump.write(b"\n" + tasks + b"\n")
                self._dump.seek(0)
                head = self._dump.read(_READ_BYTES)
        except OSError as error:
            head += f"(it could not be written down: {error})\n".encode()
        self._say(head)

    def _tasks(self, late: tuple[str, ...]) -> Iterator[str]:
        """Yield where the tasks of the loop stand, those that are late last."""
        tasks = list(asyncio.all_tasks(self._loop))[:_TASKS] if self._loop is not None else []
        named = {task: any(words.startswith(f"task {task.get_name()},") for words in late) for task in tasks}
        for task in sorted(tasks, key=lambda one: (named[one], one.get_name())):
            yield f"Task {task.get_name()} waits at (innermost call last):"
            yield from list(_awaited(task))[-_FRAMES:]

    @staticmethod
    def _say(text: bytes) -> None:
        """Write to standard error, and wait no longer than a moment for whoever reads it."""

        def write() -> None:
            with suppress(OSError):  # nobody is there
                sys.stderr.buffer.write(text)
                sys.stderr.buffer.flush()

        writer = threading.Thread(target=write, name="last-words", daemon=True)
        writer.start()
        writer.join(_STDERR_S)


def _awaited(task: asyncio.Task[object]) -> Iterator[str]:
    """Yield the lines at which ``task`` waits, from the outermost to the innermost."""
    waiting: object = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            return
        yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def _end_of(dump: bytes) -> str:
    """Return the first line, which says what happened, and the end, which says where."""
    text = dump.decode("utf-8", "replace").strip()
    if len(text) <= _TOLD_CHARACTERS:
        return text
    first, _, rest = text.partition("\n")
    return f"{first[:500]}\n…\n{rest[-_TOLD_CHARACTERS + 600 :]}"
