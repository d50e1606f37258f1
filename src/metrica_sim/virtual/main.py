"""``scripts/simulate``: worlds from seeds, until enough device-hours are over or a promise is broken."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from typing import Final

from metrica_fleet.errors import FleetError, Unusable
from metrica_sim.virtual.faults import KINDS
from metrica_sim.virtual.story import quiet_logs
from metrica_sim.virtual.world import Outcome, Plan, simulated

EXIT_BROKEN: Final = 1
EXIT_USAGE: Final = 2
HASH_SEED: Final = "PYTHONHASHSEED"
TOLD_LINES: Final = 400
SHRINKS: Final = 40
"""Worlds that are run at most to find a smaller one that breaks as well."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 every promise held, 1 one did not, 2 a mistake in the call."""
    asked = _parser().parse_args(arguments)
    _fix_hashes()
    quiet_logs()
    try:
        sys.exit(_run(asked))
    except FleetError as error:
        print(f"simulate: {error.message}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, Unusable) else EXIT_BROKEN)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./scripts/simulate",
        description="Simulates fleets in virtual time, with faults drawn from a seed, and checks what is promised.",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the first world (default: a fresh one)")
    parser.add_argument("--hours", type=float, default=200.0, metavar="H", help="of each world (default: 200)")
    parser.add_argument("--devices", type=int, default=4, metavar="D", help="in each world (default: 4)")
    parser.add_argument("--worlds", type=int, default=1, metavar="W", help="with the seeds N, N+1 … (default: 1)")
    parser.add_argument("--device-hours", type=float, metavar="T", help="as many worlds as it takes, instead")
    parser.add_argument(
        "--intensity", type=float, default=0.15, metavar="I", help="faults an hour and device (default: 0.15)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="worlds at a time (default: 1)")
    parser.add_argument("--kinds", metavar="K,K…", help=f"let only these kinds of faults happen: {', '.join(KINDS)}")
    parser.add_argument("--only", metavar="N,N…", help="let only these of the planned faults happen")
    parser.add_argument("--story", action="store_true", help="print everything that happens")
    parser.add_argument("--shrink", action="store_true", help="look for fewer faults that break it as well")
    return parser


def _fix_hashes() -> None:
    """Begin again with a fixed order of sets, on which the course of a world depends."""
    if os.environ.get(HASH_SEED) != "0":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, HASH_SEED: "0"})  # noqa: S606


def _run(asked: argparse.Namespace) -> int:
    if asked.hours <= 0 or asked.devices <= 0 or asked.worlds <= 0 or asked.jobs <= 0 or asked.intensity < 0:
        raise Unusable("--hours, --devices, --worlds, --jobs and --intensity are above 0", reason="bad-argument")
    seed: int = secrets.randbelow(10**9) if asked.seed is None else asked.seed
    only = None if asked.only is None else frozenset(int(number) for number in asked.only.split(",") if number)
    first = Plan(
        seed=seed,
        hours=asked.hours,
        devices=asked.devices,
        intensity=asked.intensity,
        kinds=_kinds(asked.kinds),
        only=only,
    )
    began_s, total = time.monotonic(), _Total(asked.device_hours)
    print(f"seeds from {seed}", flush=True)
    for outcome in _outcomes(first, asked, total):
        total.add(outcome)
        _tell(outcome, whole=asked.story)
        if not outcome.is_well:
            if asked.shrink:
                _tell(_shrunk(outcome), whole=False)
            return EXIT_BROKEN
    print(total.summary(time.monotonic() - began_s), flush=True)
    return 0


def _kinds(text: str | None) -> tuple[str, ...]:
    kinds = tuple(text.split(",")) if text else ()
    for kind in kinds:
        if kind not in KINDS:
            raise Unusable(f'--kinds: there is no fault "{kind}"; --help names them', reason="bad-argument")
    return kinds


class _Total:
    """What all worlds came to."""

    def __init__(self, wanted_hours: float | None) -> None:
        self._wanted_hours = wanted_hours
        self._hours = 0.0
        self._processor_s = 0.0
        self._counts = {"worlds": 0, "faults": 0, "trials": 0, "kills": 0, "events": 0}
        self._worst_s = 0.0

    def is_enough(self, worlds: int, begun: int, coming_hours: float = 0.0) -> bool:
        """Whether no further world is needed, beside those that are running and bring ``coming_hours`` at least."""
        if self._wanted_hours is None:
            return begun >= worlds
        return self._hours + coming_hours >= self._wanted_hours

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self._hours += outcome.device_hours
        self._processor_s += outcome.processor_s
        self._worst_s = max(self._worst_s, outcome.worst_taken_back_s)
        new = (1, outcome.happened, outcome.trials, outcome.crashes, outcome.events)
        self._counts = {key: value + more for (key, value), more in zip(self._counts.items(), new, strict=True)}

    def summary(self, took_s: float) -> str:
        """Return one line."""
        counts = ", ".join(f"{value} {key}" for key, value in self._counts.items())
        return (
            f"well: {self._hours:.0f} device-hours in {took_s:.0f} s, {self._processor_s:.0f} s of one core"
            f" ({self._hours / self._processor_s:.0f} a second): {counts};"
            f" slowest way back {self._worst_s:.0f} s"
        )


def _outcomes(first: Plan, asked: argparse.Namespace, total: _Total) -> Iterator[Outcome]:
    """Run worlds, ``jobs`` at a time, and yield what came of each, in the order of their seeds."""
    if asked.jobs == 1:
        for number in count():
            if total.is_enough(asked.worlds, number):
                return
            yield simulated(replace(first, seed=first.seed + number))
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn"), initializer=quiet_logs) as pool:
        running = [pool.submit(simulated, replace(first, seed=first.seed + number)) for number in range(asked.jobs)]
        for number in count(asked.jobs):
            if not running or (asked.device_hours is None and number - asked.jobs >= asked.worlds):
                break
            yield running.pop(0).result()
            if not total.is_enough(asked.worlds, number, len(running) * first.hours * first.devices):
                running.append(pool.submit(simulated, replace(first, seed=first.seed + number)))
        for left in running:
            left.cancel()


def _tell(outcome: Outcome, *, whole: bool) -> None:
    plan, story = outcome.plan, outcome.story
    if outcome.is_well:
        if whole:
            print("\n".join(map(str, story.lines)))
        print(
            f"seed {plan.seed}: {outcome.device_hours:.0f} device-hours, {outcome.happened} faults,"
            f" {outcome.trials} trials, {outcome.crashes} kills, {story.digest()[:12]}",
            flush=True,
        )
        return
    lines = story.lines if whole else story.lines[-TOLD_LINES:]
    print("\n".join(map(str, lines)))
    print(f"seed {plan.seed}: a promise is broken; to see it again:\n{plan.command()}", flush=True)


def _shrunk(broken: Outcome) -> Outcome:
    """Return a world with fewer faults that breaks as well, as far as a bounded search finds one."""
    best, runs = broken, 0
    numbers = sorted(broken.numbers)
    size = max(1, len(numbers) // 2)
    while size and runs < SHRINKS:
        for start in range(0, len(numbers), size):
            fewer = frozenset(numbers[:start] + numbers[start + size :])
            tried = simulated(replace(broken.plan, only=fewer))
            runs += 1
            if not tried.is_well:
                best, numbers = tried, sorted(fewer)
                break
            if runs >= SHRINKS:
                break
        else:
            size //= 2
    return best
