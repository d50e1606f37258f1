"""A real agent on a real engine that is killed at durable operations, again and again, and must always come back.

One cycle is one commit: it is pushed, the agent dies at the n-th operation from then (and, in a chain, at the m-th of
its next life), is started again, and must come to rest with P1 held. The agent of one cycle goes on into the next:
a cycle costs one start and one update. Scenarios say which way the commit goes.

Or the disk is full at the n-th operation that needs room, once, or from it on until somebody makes some: then the agent
must not end, and come to the same rest, with every record that it had.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.faults import invariants
from tests.faults.board import Board
from tests.faults.commits import Commits
from tests.faults.containers import running
from tests.faults.machine import settled
from tests.fixtures.agent import Agent, Wiring, fleet_files
from tests.fixtures.broker import free_port

from metrica_agent import console_orders
from metrica_agent.adapters.clock import Clock, boot_clock_s
from metrica_agent.adapters.ledger import Ledger, recent_decisions, recent_events
from metrica_agent.adapters.spool import Spool
from metrica_agent.decisions.orders import SafeModeOrder
from metrica_agent.decisions.starting import CRASH_LOOP_STARTS
from metrica_agent.decisions.world import Saying
from metrica_agent.main import EXIT_USAGE
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId, short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.faults.witness import Witness

    from metrica_agent.decisions.orders import Order
    from metrica_fleet.records import Event

LOOK_S: Final = 0.1
SAMPLE_S: Final = 0.25
"""Each look at what runs is two processes of docker's: oftener, and they are most of what a kill costs."""
COME_BACK_S: Final = 60.0
"""Within which an agent must be at rest again, on a machine that does four of these at once."""
PAGE: Final = "roles/camera/site/index.html"
READER: Final[dict[str, Any]] = {"volumes": ["./site:/www:ro"], "restart": "no"}
GOOD: Final = {"web": READER, "twin": READER}
"""Two that read the same folder: a mixture of releases shows."""
BAD: Final = {"web": READER, "twin": {**READER, "command": ["false"]}}
STORY_CHARACTERS: Final = 6000
WAITED: Final = "git.reachable"
"""The kind of the events that wait for the bus; whose they are is known by what they say."""
BACKLOG: Final = 60
"""Three times what is sent at once."""
HEALTH: Final = "soak_s = 0.2\nstart_deadline_s = 20"
HELD_S: Final = 1.5
"""A disk that stays full is full for so long after the first operation that finds no room, …"""
HELD: Final = 12
"""… or for so many of them."""
STUMBLED: Final = ("Traceback", "promise_broken", "tasks_stuck")
"""Words of the agent's log that a full disk is no reason for."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Where the agent dies: at the n-th operation from now."""

    operation: int
    torn: bool = False


@dataclass(frozen=True, slots=True)
class Full:
    """When the disk has no room: at the n-th operation from now that needs some; or from it on, until there is room."""

    operation: int
    stays: bool = False


@dataclass(slots=True)
class Cycle:
    """What came of one commit."""

    kills: list[str] = field(default_factory=list[str])
    """What it was killed at, each time."""
    refused: str = ""
    """What was the first to find no room."""
    violations: list[str] = field(default_factory=list[str])
    took_s: float = 0.0
    noticed_s: float = 0.0
    """From the last death to the event that says that the agent was started."""
    recovered_s: float = 0.0
    """From the last death to rest."""
    operations: int = 0


@dataclass(frozen=True, kw_only=True)
class Errand:
    """Something to come to rest from."""

    begin: Callable[[], object]
    may_be: frozenset[CommitId]
    """Confirmed at any time meanwhile; empty while nothing is yet."""
    rests: Callable[[str], bool]
    """Whether it is over, by the rule of the last decision and all else."""
    judge: Callable[[], list[str]]
    """Says what does not hold then."""


class Victim:
    """One device."""

    def __init__(
        self,
        folder: Path,
        name: str,
        project: str,
        *,
        broker_port: int,
        witness: Witness,
        poll_s: float = 0.3,
        heartbeat_s: float = 3600.0,
    ) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self.project = project
        self._commits = Commits(folder / "fleet.git")
        self._witness = witness
        wiring = Wiring(
            device=name,
            project=project,
            remotes=(str(self._commits.path),),
            broker_port=broker_port,
            poll_s=poll_s,
            sample_s=SAMPLE_S,
            settings={"": {"heartbeat_s": heartbeat_s}, "guard": {"steady_s": 0.01}},
        )
        self.agent = Agent(folder, wiring)
        self.board = Board(folder / "shim", self.agent.state)
        self.agent.environment = {**os.environ, **self.board.environment, "PYTHONPATH": str(_as_on_a_device(folder))}
        self._page = ""
        self._pushed = 0
        self._drains = 0
        self._started_s = 0.0
        self._pending: list[Kill] = []
        self._armed = False
        """Whether this life has had its turn to be killed."""
        self._confirmed: CommitId | None = None
        self._full_since_s: float | None = None
        """When the disk that stays full was first met; zero once there is room again."""

    # --- what is done to it ---------------------------------------------------------------------------------

    def cycle(self, *, bad: bool = False, kills: Sequence[Kill] = (), full: Full | None = None) -> Cycle:
        """Push a commit, kill the agent as ``kills`` say or let its disk be ``full``; wait until it is at rest."""
        commit = self._committed(bad=bad)
        before = {self._confirmed} - {None}
        return self._through(
            kills,
            Errand(
                begin=lambda: self._commits.publish(commit),
                may_be=frozenset({*filter(None, before), commit}) if before else frozenset(),
                rests=lambda rule: rule == "rest" and settled(self.agent.memory(), commit),
                judge=lambda: self._at_rest(commit, bad=bad),
            ),
            full,
        )

    def rest(self, *, kills: Sequence[Kill] = (), full: Full | None = None) -> Cycle:
        """Start the agent anew, with nothing new to do; kill it as ``kills`` say, or let its disk be ``full``."""
        if self.agent.runs:
            self.agent.terminate()
        commit = self._confirmed
        assert commit is not None
        return self._through(
            kills,
            Errand(
                begin=lambda: None,
                may_be=frozenset({commit}),
                rests=lambda rule: rule == "rest" and settled(self.agent.memory(), commit),
                judge=lambda: invariants.at_rest(
                    self.agent.state, confirmed=frozenset({commit}), wanted=commit, told=False
                ),
            ),
            full,
        )

    def stop(self, *, full: Full) -> Cycle:
        """Tell the agent to stop while its disk is ``full``, and start it again."""
        before, log_before = self._outbox(), len(self.agent.log)
        self.board.fill(full.operation, stays=full.stays)
        code, _ = self.agent.terminate()
        refused = self.board.refused_at if self.board.refused else ""
        self.board.free()
        cycle = self.rest()
        cycle.refused = refused
        cycle.violations += self._stumbles(log_before) + self._lost(before)
        if code != 0:
            cycle.violations += [f"told to stop, it ended with {code}", self.agent.story()[-STORY_CHARACTERS:]]
        return cycle

    def drain(self, *, kills: Sequence[Kill] = ()) -> Cycle:
        """Let events wait as if it had been cut off, start the agent, kill it as ``kills`` say: each is told once."""
        told = self._backlogged()
        cycle = self.rest(kills=kills)
        waited = frozenset(told)
        heard = [event.message for event in self.heard() if event.kind == WAITED and event.message in waited]
        if heard != told:
            cycle.violations.append(f"{len(told)} events waited, and the hub heard {heard}")
        return cycle

    def _backlogged(self) -> list[str]:
        """Put events into the ledger of an agent that does not run; return what they say."""
        if self.agent.runs:
            self.agent.terminate()
        self._drains += 1
        told = [f"drain {self._drains}: event {number}" for number in range(BACKLOG)]

        async def write() -> None:
            ledger = await Ledger.open(self.agent.state / invariants.LEDGER)
            stamp = Clock.of_this_machine().stamp()
            for text in told:
                await ledger.record(stamp, sayings=[Saying(kind=WAITED, message=text)])
            await ledger.close()

        asyncio.run(write())
        return told

    def safe_mode(self, *, kills: Sequence[Kill] = (), full: Full | None = None) -> Cycle:
        """Order safe mode; kill the agent on its way there, or let its disk be ``full``."""
        spool = Spool(self.agent.state / console_orders.SPOOL)
        mark = len(self.heard())
        return self._through(
            kills,
            Errand(
                begin=lambda: self._ordered(spool, SafeModeOrder(on=True, reason="a test")),
                may_be=frozenset(filter(None, {self._confirmed})),
                rests=lambda rule: rule == "rest.safe",
                judge=lambda: self._in_safe_mode(mark),
            ),
            full,
        )

    def _ordered(self, spool: Spool, order: Order) -> None:
        """Give an order and ring, as the console does: an agent that nobody rings for looks by itself after a while."""
        spool.give(order)
        console_orders.ring(self.agent.state / console_orders.LOCK)

    def heard(self) -> Sequence[Event]:
        """Return all events that came to the hub."""
        return self._witness.events(self.name)

    def cut_off(self) -> None:
        """Start the agent anew, with a broker that is not there."""
        self.agent.terminate()
        self.agent.config.write_text(replace(self.agent.wiring, broker_port=free_port()).toml(self.agent.state))
        self._start()

    def last_seq(self) -> int:
        """Return the number of the last record in its ledger."""
        address = f"file:{self.agent.state / invariants.LEDGER}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5.0)) as db:
            (found,) = db.execute("SELECT max(seq) FROM outbox").fetchone()
        return int(found)

    def end(self) -> None:
        """End the agent."""
        self.agent.end()

    # --- one errand -----------------------------------------------------------------------------------------

    def _through(self, kills: Sequence[Kill], errand: Errand, full: Full | None = None) -> Cycle:
        cycle, began_s, count = Cycle(), time.monotonic(), self.board.count
        began_boot_s = boot_clock_s()
        self._pending, self._full_since_s = list(kills), None
        before, log_before = self._outbox(), len(self.agent.log)
        if not self.agent.runs:
            self.board.born()
            self._arm(full)
            self._start()
        else:
            self._arm(full)
        errand.begin()
        died_s = began_s
        while not self._came_to_rest(errand, cycle, full):
            if cycle.violations:
                break
            cycle.kills.append(self.board.killed_at)
            died_s = time.monotonic()
            if errand.may_be:
                cycle.violations += invariants.after_a_crash(self.agent.state, confirmed=errand.may_be)
            self.board.born()
            self._armed = False
            if not self._would_loop():
                self._arm()
            self._start()
        cycle.recovered_s = time.monotonic() - died_s
        if not cycle.violations:
            cycle.violations += self._judged(errand)
            if self._started_s > began_boot_s:
                cycle.noticed_s = self.agent.told("agent.started")[-1].uptime_s - self._started_s
        if full is not None:
            cycle.refused = self.board.refused_at if self.board.refused else ""
            cycle.violations += self._stumbles(log_before) + self._lost(before)
        cycle.took_s = time.monotonic() - began_s
        cycle.operations = self.board.count - count
        if cycle.violations:
            story = self.agent.story()[-STORY_CHARACTERS:]
            where = f"full ({full}) at {cycle.refused or 'nothing'}" if full else ", ".join(cycle.kills) or "nothing"
            cycle.violations += [f"killed at {where}" if full is None else where, story]
        return cycle

    def _judged(self, errand: Errand) -> list[str]:
        """Return what does not hold. A spare copy may be begun after all else rests: what stays of it is a leftover."""
        found, deadline = errand.judge(), time.monotonic() + COME_BACK_S
        while found and time.monotonic() < deadline:
            if not self._works():
                return errand.judge()  # what was being made a moment ago is ready by now
            time.sleep(LOOK_S)
        return found

    def _arm(self, full: Full | None = None) -> None:
        self._armed = True
        if full is not None:
            self.board.fill(full.operation, stays=full.stays)
        if self._pending:
            kill = self._pending.pop(0)
            self.board.arm(kill.operation, torn=kill.torn)

    def _would_loop(self) -> bool:
        """Whether the life after the next start is a crash loop's if that next one is short: other tests' matter."""
        return len(self.agent.memory().starts) + 2 >= CRASH_LOOP_STARTS

    def _start(self) -> None:
        self._started_s = boot_clock_s()
        self.agent.start()

    def _committed(self, *, bad: bool) -> CommitId:
        self._pushed += 1
        page = f"{self.name} {self._pushed}"
        files = fleet_files(self.name, BAD if bad else GOOD, health=HEALTH, also={PAGE: page})
        if not bad:
            self._page = page
        return self._commits.commit(files)

    # --- waiting --------------------------------------------------------------------------------------------

    def _came_to_rest(self, errand: Errand, cycle: Cycle, full: Full | None) -> bool:
        """Wait until the agent rests and all it said is stored, or until it was killed."""
        deadline = time.monotonic() + COME_BACK_S
        while time.monotonic() < deadline:
            if not self.agent.runs:
                if full is not None and not errand.may_be and self.agent.ended == EXIT_USAGE:
                    self._start()  # nothing can be kept yet, it said so: its supervisor starts it again
                    continue
                if not self.board.killed:
                    cycle.violations.append(f"the agent ended by itself, with {self.agent.ended}")
                return False
            if not self._armed and not self.agent.memory().starts:
                self._arm()
            if full is not None and full.stays:
                cycle.violations += self._made_room(errand)
            if errand.rests(self._rule()) and self._is_all_stored():
                if self.board.disarm():
                    continue  # it dies this very moment
                return True
            time.sleep(LOOK_S)
        cycle.violations.append(f"it was not at rest within {COME_BACK_S:g} s")
        return False

    def _made_room(self, errand: Errand) -> list[str]:
        """Make room, once the disk was full for long enough; return what of P1 does not hold just before."""
        if not self.board.refused or self._full_since_s == 0.0:
            return []
        if self._full_since_s is None:
            self._full_since_s = time.monotonic()
        if self.board.refused < HELD and time.monotonic() < self._full_since_s + HELD_S:
            return []
        found = invariants.after_a_crash(self.agent.state, confirmed=errand.may_be) if errand.may_be else []
        self._full_since_s = 0.0
        self.board.free()
        return found

    def _outbox(self) -> dict[int, bytes]:
        """Return what the ledger has to say, and has said, by number."""
        if not (self.agent.state / invariants.LEDGER).exists():
            return {}
        with closing(self._read_ledger()) as db:
            return dict(db.execute("SELECT seq, document FROM outbox ORDER BY seq"))

    def _read_ledger(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.agent.state / invariants.LEDGER}?mode=ro", uri=True, timeout=5.0)

    def _lost(self, before: Mapping[int, bytes]) -> list[str]:
        """Say what is wrong with the ledger, which records of ``before`` changed, and which the hub never got."""
        with closing(self._read_ledger()) as db:
            (integrity,) = db.execute("PRAGMA integrity_check").fetchone()
            (stored,) = db.execute("SELECT stored FROM life").fetchone()
        found = [] if integrity == "ok" else [f"the ledger is damaged: {integrity}"]
        now = self._outbox()
        for seq, document in before.items():
            if seq in now and now[seq] != document:
                found.append(f"record {seq} became another")
            elif seq not in now and seq > stored:
                found.append(f"record {seq} is gone, and the hub is not known to have it")
        missing = self._witness.missing(self.name)
        return [*found, f"the hub never got {missing}"] if missing else found

    def _stumbles(self, log_before: int) -> list[str]:
        said = self.agent.log[log_before:]
        return [f"its log says {word}" for word in STUMBLED if word in said]

    def _works(self) -> list[str]:
        """Return what is being made: a spare copy is, in the background, when all else rests already."""
        return [path.name for path in self.agent.state.glob("incoming/*")]

    def _rule(self) -> str:
        """Return the rule of the last decision of the process that runs now."""
        try:
            [(stamp, decision)] = recent_decisions(self.agent.state / invariants.LEDGER, 1)
        except (NotNow, ValueError):
            return ""
        return decision.rule if stamp.uptime_s > self._started_s else ""

    def _is_all_stored(self) -> bool:
        [last] = recent_events(self.agent.state / invariants.LEDGER, 1)
        return self._witness.stored(self.name, last.stream) >= last.seq

    # --- judging --------------------------------------------------------------------------------------------

    def _at_rest(self, commit: CommitId, *, bad: bool) -> list[str]:
        expected = self._confirmed if bad else commit
        memory = self.agent.memory()
        found = [] if memory.confirmed and memory.confirmed.commit == expected else [f"{short(expected)} should run"]
        if expected is not None:
            found += invariants.at_rest(self.agent.state, confirmed=frozenset({expected}), wanted=commit)
        found += self._runs_whole()
        found += self._witness.contradictions(self.name)
        found += self._heard(commit, bad=bad)
        self._confirmed = expected
        return found

    def _in_safe_mode(self, mark: int) -> list[str]:
        memory, found = self.agent.memory(), list[str]()
        if memory.safe is None or not memory.safe.applied:
            found.append("it is not in safe mode")
        elif invariants.current(self.agent.state) != memory.safe.release:
            found.append("the safe-mode stack is not current")
        found += [f"{one.service} runs in safe mode" for one in running(self.project) if one.state == "running"]
        told = [event.kind for event in self.heard()[mark:]]
        for kind in ("safe_mode.entered", "safe_mode.running"):
            if told.count(kind) != 1:
                found.append(f"the hub heard {kind} {told.count(kind)} times")
        return found

    def _heard(self, commit: CommitId, *, bad: bool) -> list[str]:
        """Say what the hub heard too often or not at all since the commit was pushed."""
        events = self._witness.events(self.name)
        since = next((number for number, event in enumerate(events) if event.commit == commit), len(events))
        told = [event.kind for event in events[since:]]
        expected = {"release.confirmed": not bad, "release.refused": bad, "rollback.finished": bad}
        return [
            f"the hub heard {kind} {told.count(kind)} times for {short(commit)}"
            for kind, once in expected.items()
            if told.count(kind) != once
        ]

    def _runs_whole(self) -> list[str]:
        release = self.agent.state / "releases" / (invariants.current(self.agent.state) or "none")
        plans = {one["name"]: one["inputs"] for one in _read(release / "release.json")["services"]}
        seen = {one.service: one for one in running(self.project)}
        if seen.keys() != plans.keys():
            return [f"{sorted(seen)} run, {sorted(plans)} should"]
        found = [f"{name} was not made from the current release" for name in plans if seen[name].inputs != plans[name]]
        page = self._page
        return found + [
            f"{name} is {one.state} and reads {one.reads!r}, not {page!r}"
            for name, one in seen.items()
            if (one.state, one.reads) != ("running", page)
        ]


def _as_on_a_device(folder: Path) -> Path:
    """Hide what the tests install and a device does not have: structlog imports rich for 0.2 s, at every start."""
    hiding = folder / "device"
    hiding.mkdir()
    (hiding / "rich.py").write_text('raise ImportError("a device has no rich")\n')
    return hiding


def _read(path: Path) -> dict[str, Any]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
