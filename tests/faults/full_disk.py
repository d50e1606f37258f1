"""Real agents whose disk is full at each operation in turn that needs room: ``./scripts/soak full``.

A write, a sync, a name that is made: of a device's first start and commit, of an update, of a rollback, of the ways
into safe mode and out of it, of a start and of a stop, each finds no room (ENOSPC), once; and then each again, and all
after it, until somebody makes room. How many there are is found out by going on until one is not reached any more.

The agent must not end and not stumble, must keep the ledger, every record and what runs, and come to the same rest as
if there had been room. What is not refused is what a filesystem that overwrites in place always has room for: to
remove, to make shorter, to change a mode.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.victim import Cycle, Full, Victim
from tests.faults.witness import Witness
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker
from tests.fixtures.engine import RealEngine

if TYPE_CHECKING:
    from collections.abc import Generator

SURELY_OVER: Final = 3
"""Operations in a row that were not reached: there are no more. Of a share one is enough."""


class Way(StrEnum):
    """What an agent is on when its disk is full."""

    FIRST = "first"
    UPDATE = "update"
    ROLLBACK = "rollback"
    INTO_SAFE_MODE = "into safe mode"
    OUT_OF_SAFE_MODE = "out of safe mode"
    START = "start"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Point:
    """One operation of one way."""

    way: Way
    full: Full

    def __str__(self) -> str:
        return f"{self.way}, {'from operation' if self.full.stays else 'operation'} {self.full.operation}"


class Sweep:
    """Which operation is whose turn; asked by all devices at once."""

    def __init__(self, ways: tuple[Way, ...], *, first: int, stride: int) -> None:
        """Visit every ``stride``-th operation of each way, from the ``first`` (1 is the first of all) on."""
        self._lock = threading.Lock()
        self._surely_over = SURELY_OVER if stride == 1 else 1
        self._stride = stride
        self._next = dict.fromkeys(product(ways, (False, True)), first)
        self._over = Counter[tuple[Way, bool]]()

    def next(self) -> Point | None:
        """Return what is to be visited next; ``None`` when nothing is left."""
        with self._lock:
            for (way, stays), at in self._next.items():
                if self._over[way, stays] < self._surely_over:
                    self._next[way, stays] = at + self._stride
                    return Point(way, Full(at, stays=stays))
        return None

    def done(self, point: Point, *, reached: bool) -> None:
        """Learn whether there was such an operation."""
        with self._lock:
            key = point.way, point.full.stays
            self._over[key] = 0 if reached else self._over[key] + 1


@dataclass(slots=True)
class Tally:
    """What came of it all."""

    began_s: float = field(default_factory=time.monotonic)
    reached: Counter[tuple[Way, bool]] = field(default_factory=Counter[tuple[Way, bool]])
    at: Counter[str] = field(default_factory=Counter[str])
    slowest: tuple[float, str] = (0.0, "")
    violations: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, point: Point, cycle: Cycle) -> None:
        """Count one visit."""
        with self._lock:
            self.reached[point.way, point.full.stays] += bool(cycle.refused)
            if cycle.refused:
                kind, _, path = cycle.refused.partition(" ")
                self.at[f"{kind} {path.partition('/')[0]}"] += 1
                self.slowest = max(self.slowest, (cycle.took_s, f"{point}, {cycle.refused}"))
            if cycle.violations:
                self.violations.append("\n    ".join([str(point), *cycle.violations]))

    def line(self) -> str:
        """Return where it stands."""
        known = [way for way in Way if self.reached[way, False] or self.reached[way, True]]
        ways = ", ".join(f"{way} {self.reached[way, False]} + {self.reached[way, True]}" for way in known)
        seconds, where = self.slowest
        return (
            f"{self.reached.total()} operations without room (once + until there is some: {ways}),"
            f" {len(self.violations)} violations, the slowest {seconds:.1f} s ({where}),"
            f" {time.monotonic() - self.began_s:.0f} s"
        )


@dataclass(frozen=True)
class Bench:
    """Where devices are made, all of them heard by one witness."""

    folder: Path
    broker_port: int
    witness: Witness
    run: str

    @contextmanager
    def device(self, name: str) -> Generator[Victim]:
        """Make one that was never started."""
        engine = RealEngine(f"mt-full-{self.run}-{name}")
        victim = Victim(self.folder / name, name, engine.project, broker_port=self.broker_port, witness=self.witness)
        try:
            yield victim
        finally:
            victim.end()
            engine.clean()


@contextmanager
def bench() -> Generator[Bench]:
    """Make a bench."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="full-", ignore_cleanup_errors=True)))
        (folder / "broker").mkdir()
        broker = stack.enter_context(Broker(folder / "broker"))
        witness = stack.enter_context(Witness(broker.port, FLEET))
        yield Bench(folder, broker.port, witness, secrets.token_hex(3))


def swept(
    *, ways: tuple[Way, ...] = tuple(Way), first: int = 1, stride: int = 1, parallel: int = 4, tell: bool = False
) -> Tally:
    """Visit every ``stride``-th operation of ``ways``, on ``parallel`` devices; each ends at its first violation."""
    tally, sweep = Tally(), Sweep(ways, first=first, stride=stride)
    with bench() as made, ThreadPoolExecutor(parallel) as pool:
        lives = [pool.submit(_live, made, f"pi-{number}", sweep, tally, tell=tell) for number in range(parallel)]
        for life in lives:
            life.result()
    return tally


def _live(made: Bench, name: str, sweep: Sweep, tally: Tally, *, tell: bool) -> None:
    with made.device(name) as victim:
        undisturbed = victim.cycle()
        assert undisturbed.violations == [], "\n".join(undisturbed.violations)
        while (point := sweep.next()) is not None:
            cycle = _visited_first(made, name, point) if point.way is Way.FIRST else _visited(victim, point)
            sweep.done(point, reached=bool(cycle.refused))
            tally.add(point, cycle)
            if tell:
                mark = "✘" if cycle.violations else "✔"
                print(f"{mark} {point}: {cycle.refused or 'not reached'} ({cycle.took_s:.1f} s)", flush=True)
            if cycle.violations:
                return  # what comes after would only be its echo


def _visited_first(made: Bench, name: str, point: Point) -> Cycle:
    with made.device(f"{name}-{point.full.operation}{'-on' if point.full.stays else ''}") as new:
        return new.cycle(full=point.full)


def _visited(victim: Victim, point: Point) -> Cycle:
    match point.way:
        case Way.FIRST | Way.UPDATE | Way.ROLLBACK:
            return victim.cycle(bad=point.way is Way.ROLLBACK, full=point.full)
        case Way.INTO_SAFE_MODE:
            cycle = victim.safe_mode(full=point.full)
            if not cycle.violations:
                cycle.violations += victim.cycle().violations
            return cycle
        case Way.OUT_OF_SAFE_MODE:
            before = victim.safe_mode()
            return before if before.violations else victim.cycle(full=point.full)
        case Way.START:
            return victim.rest(full=point.full)
        case Way.STOP:
            return victim.stop(full=point.full)


def main() -> None:
    """Run the command line: 0 without a violation, else 1."""
    parser = argparse.ArgumentParser(prog="scripts/soak full", description=__doc__)
    parser.add_argument("ways", nargs="*", type=Way, default=[], metavar="WAY", help=f"default: {', '.join(Way)}")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="operation (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="from one to the next (default: each)")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="devices (default: %(default)s)")
    asked = parser.parse_args()
    ways = tuple(asked.ways) or tuple(Way)
    tally = swept(ways=ways, first=asked.first, stride=asked.stride, parallel=asked.parallel, tell=True)
    print("".join(f"✘ {one}\n" for one in tally.violations), end="")
    print("  no room for: " + ", ".join(f"{kind} {count}" for kind, count in tally.at.most_common()))
    print(f"{'✘' if tally.violations else '✔'} full disk: {tally.line()}")
    sys.exit(1 if tally.violations else 0)


if __name__ == "__main__":
    main()
