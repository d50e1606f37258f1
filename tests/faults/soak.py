"""Real agents on a real engine, killed at durable operations until so many kills are done: ``./scripts/soak``.

First every operation of each way in turn: an update, a rollback, into safe mode, out of it by a commit, and the drain
of an outbox that waited. Then chains of up to four kills of updates and rollbacks, at operations drawn from the seed.
Beside that, one agent makes so many updates in a row undisturbed.
"""

from __future__ import annotations

import argparse
import random
import resource
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.faults.victim import Cycle, Kill, Victim
from tests.faults.witness import Witness
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import Broker
from tests.fixtures.engine import RealEngine

LONGEST_CHAIN: Final = 4
"""Kills of one commit: a trial that Compose was run for five times is given up, and rightly."""
TORN: Final = 0.2
"""Of the kills in chains, those in the middle of a write."""
BAD: Final = 0.35
"""Of the commits with chains, those that are bad."""
SURELY_OVER: Final = 3
"""Cycles in a row that were over before their operation came: the sweep is at its end. Of a sample one is enough."""
TELL_S: Final = 15.0


class Way(StrEnum):
    """What an agent is on, and killed at."""

    UPDATE = "update"
    ROLLBACK = "rollback"
    INTO_SAFE_MODE = "into safe mode"
    OUT_OF_SAFE_MODE = "out of safe mode"
    DRAIN = "drain"


USUALLY: Final = {
    Way.UPDATE: 160,
    Way.ROLLBACK: 190,
    Way.INTO_SAFE_MODE: 60,
    Way.OUT_OF_SAFE_MODE: 160,
    Way.DRAIN: 60,
}
"""Operations of each, about: what a sample and chains are drawn from before a sweep has found out."""
PUSHED: Final = frozenset({Way.UPDATE, Way.ROLLBACK, Way.OUT_OF_SAFE_MODE})
"""Those that are a commit's."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One way to go, and where to kill the agent meanwhile."""

    way: Way
    kills: tuple[Kill, ...]
    sweeps: bool = False


class Plan:
    """Which operation is whose turn; asked by all devices at once."""

    def __init__(self, seed: int, points: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._points = points
        self._started = 0
        self._stride = {way: max(1, round(2 * len(Way) * usual / max(points, 1))) for way, usual in USUALLY.items()}
        """Sweeps take at most about half of the kills."""
        self._next = {way: self._chance.randrange(stride) + 1 for way, stride in self._stride.items()}
        self._over = Counter[Way]()
        self.longest = dict.fromkeys(Way, 0)

    def next(self) -> Errand | None:
        """Return what to do next; ``None`` when enough kills are under way."""
        with self._lock:
            if self._started >= self._points:
                return None
            errand = self._sweeping() or self._drawn()
            self._started += len(errand.kills)
            return errand

    def end(self) -> None:
        """Give out no more."""
        with self._lock:
            self._points = 0

    def done(self, errand: Errand, cycle: Cycle) -> None:
        """Learn from what came of it."""
        with self._lock:
            self._started -= len(errand.kills) - len(cycle.kills)
            if errand.sweeps:
                way = errand.way
                self._over[way] = 0 if cycle.kills else self._over[way] + 1
                if cycle.kills:
                    self.longest[way] = max(self.longest[way], errand.kills[0].operation)

    def _sweeping(self) -> Errand | None:
        for way, at in self._next.items():
            if self._over[way] < (SURELY_OVER if self._stride[way] == 1 else 1):
                self._next[way] = at + self._stride[way]
                return Errand(way, (Kill(at),), sweeps=True)
        return None

    def _drawn(self) -> Errand:
        chance = self._chance
        way = Way.ROLLBACK if chance.random() < BAD else Way.UPDATE
        longest = self.longest[way] or USUALLY[way]
        kills = (
            Kill(chance.randrange(1, longest + 1), torn=chance.random() < TORN)
            for _ in range(chance.randrange(1, LONGEST_CHAIN + 1))
        )
        return Errand(way, tuple(kills))


@dataclass(slots=True)
class Tally:
    """What came of it all."""

    began_s: float = field(default_factory=time.monotonic)
    kills: int = 0
    chained: int = 0
    """Of them, the second and later of their commits."""
    ways: Counter[Way] = field(default_factory=Counter[Way])
    """Kills of each."""
    commits: int = 0
    in_a_row: int = 0
    at: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, errand: Errand, cycle: Cycle) -> None:
        """Count one cycle."""
        with self._lock:
            self.kills += len(cycle.kills)
            self.chained += max(0, len(cycle.kills) - 1)
            self.ways[errand.way] += len(cycle.kills)
            self.commits += errand.way in PUSHED
            self.at.update(_kind(kill) for kill in cycle.kills)
            if cycle.violations:
                self.violations.append("\n    ".join(cycle.violations))

    def line(self) -> str:
        """Return where it stands."""
        seconds = time.monotonic() - self.began_s
        pace = (
            f", {seconds / self.kills:.2f} s a kill ({_processor_s() / self.kills:.1f} of a core)" if self.kills else ""
        )
        ways = ", ".join(f"{way} {self.ways[way]}" for way in Way)
        return (
            f"{self.kills} kills ({ways}; {self.chained} in chains) over {self.commits} commits,"
            f" {self.in_a_row} updates in a row, {len(self.violations)} violations, {seconds:.0f} s{pace}"
        )


def _processor_s() -> float:
    """Return the processor time of this process and of the agents that ended, dockerd's not included."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _kind(killed_at: str) -> str:
    kind, _, path = killed_at.partition(" ")
    return f"{kind} {path.partition('/')[0]}"


def soak(*, points: int, seed: int, parallel: int, updates: int, tell: bool = True) -> Tally:
    """Kill until ``points`` kills are done on ``parallel`` devices, or a violation was found on each."""
    tally, plan = Tally(), Plan(seed, points)
    run = secrets.token_hex(3)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)))
        (folder / "broker").mkdir()
        broker = stack.enter_context(Broker(folder / "broker"))
        witness = stack.enter_context(Witness(broker.port, FLEET))
        victims = [_victim(stack, folder, f"pi-{n}", run, broker.port, witness) for n in range(parallel)]
        with ThreadPoolExecutor(parallel + 1) as pool:
            lives = [
                pool.submit(_live, victim, plan, tally, updates if number == 0 else 0)
                for number, victim in enumerate(victims)
            ]
            alive, told = set(lives), 0
            while tell and alive:
                ended, alive = wait(alive, TELL_S)
                for life in ended:
                    life.result()
                found = tally.violations[told:]
                told += len(found)
                print("\n".join([*(f"✘ {one}" for one in found), f"  {tally.line()}"]), flush=True)
            for life in lives:
                life.result()
    return tally


def _victim(stack: ExitStack, folder: Path, name: str, run: str, port: int, witness: Witness) -> Victim:
    engine = RealEngine(f"mt-soak-{run}-{name}")
    stack.callback(engine.clean)
    victim = Victim(folder / name, name, engine.project, broker_port=port, witness=witness)
    stack.callback(victim.end)
    return victim


def _live(victim: Victim, plan: Plan, tally: Tally, updates: int) -> None:
    try:
        _lived(victim, plan, tally, updates)
    except BaseException:
        plan.end()  # what the harness did not expect is no result
        raise


def _lived(victim: Victim, plan: Plan, tally: Tally, updates: int) -> None:
    nothing = Errand(Way.UPDATE, ())
    for _ in range(1 + updates):
        cycle = victim.cycle()
        tally.add(nothing, cycle)
        if cycle.violations:
            return
        tally.in_a_row += updates > 0
    while (errand := plan.next()) is not None:
        for step in _steps(errand):
            cycle = _gone(victim, step)
            tally.add(step, cycle)
            if step.way is errand.way:
                plan.done(errand, cycle)
            if cycle.violations:
                return  # what comes after would only be its echo


def _steps(errand: Errand) -> tuple[Errand, ...]:
    """Return ``errand`` with what leads to it, and back to where the next one begins."""
    match errand.way:
        case Way.INTO_SAFE_MODE:
            return errand, Errand(Way.OUT_OF_SAFE_MODE, ())
        case Way.OUT_OF_SAFE_MODE:
            return Errand(Way.INTO_SAFE_MODE, ()), errand
        case _:
            return (errand,)


def _gone(victim: Victim, errand: Errand) -> Cycle:
    match errand.way:
        case Way.INTO_SAFE_MODE:
            return victim.safe_mode(kills=errand.kills)
        case Way.DRAIN:
            return victim.drain(kills=errand.kills)
        case way:
            return victim.cycle(bad=way is Way.ROLLBACK, kills=errand.kills)


def main() -> None:
    """Run the command line: 0 without a violation, else 1."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--points", type=int, default=2000, metavar="N", help="kills (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=100, metavar="N", help="undisturbed ones (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="devices (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), metavar="N", help="default: a new one")
    asked = parser.parse_args()
    print(f"soak: --points {asked.points} --updates {asked.updates} --parallel {asked.parallel} --seed {asked.seed}")
    tally = soak(points=asked.points, seed=asked.seed, parallel=asked.parallel, updates=asked.updates)
    print("  killed at: " + ", ".join(f"{kind} {count}" for kind, count in tally.at.most_common()))
    enough = tally.kills >= asked.points and tally.in_a_row >= asked.updates
    well = enough and not tally.violations
    print(f"{'✔' if well else '✘'} soak: {tally.line()}, seed {asked.seed}")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
