"""Every state that a power cut may leave behind, and the agent's recovery from it: thousands in a minute.

One life of a device is recorded operation by operation; for each operation the states are made that may be on the disk
if the power goes there (``powercut``); on each of them the agent starts anew, and must come to rest with P1 held.

    python -m tests.faults.replay --states 200 --seed 7 update rollback
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.faults import invariants, machine
from tests.faults.board import Board, Mode, Operation
from tests.faults.commits import Commits
from tests.faults.powercut import Disk, State, states
from tests.fixtures.agent import fleet_files

from metrica_agent.adapters.ledger import remembered
from metrica_agent.adapters.releases.scan import differences
from metrica_agent.adapters.spool import Spool
from metrica_agent.console_orders import SPOOL
from metrica_agent.decisions.orders import SafeModeOrder
from metrica_agent.decisions.trial import MAX_APPLIES, MAX_BOOTS
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import CommitId, ReleaseDigest

if TYPE_CHECKING:
    from metrica_agent.decisions.world import Trial

PAGE: Final = "roles/camera/site/index.html"
READER: Final[dict[str, Any]] = {"volumes": ["./site:/www:ro"], "restart": "unless-stopped"}
EXITS: Final = {**READER, "labels": {"fleet.metrica.sim": "exits"}}
FLEET_FILE: Final = 'name = "cut"\n[health]\nsoak_s = 3\nstart_deadline_s = 30\n'
BACKLOG: Final = 80
"""Records that wait when the network comes back: more than are struck out at a time."""
RECORD_S: Final = 60.0
NOTHING_YET: Final = frozenset[CommitId]()
"""What may be confirmed where nothing was, or where nobody knows it any more."""
SCRATCH: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - thousands of small trees, in memory


def files(page: str, *, bad: bool = False) -> dict[str, str]:
    """Return the fleet repository."""
    services = {"web": READER, "twin": EXITS if bad else READER}
    made = fleet_files(str(machine.DEVICE), services, also={PAGE: page, "roles/camera/site/more/plain.txt": page * 9})
    return {**made, "fleet.toml": FLEET_FILE}


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One life, as it was written down."""

    before: Disk
    operations: tuple[Operation, ...]
    remote: Path
    wanted: CommitId
    confirmed: CommitId
    """At the end."""
    may_be: frozenset[CommitId]
    """Confirmed at any time; empty while nothing is yet."""
    told: bool = True
    """Whether the ledger of the time before is there."""
    edited: ReleaseDigest | None = None
    """Of a release whose files somebody had edited: it need not be whole but at rest."""
    safe: bool = False
    """Whether it rests in safe mode."""
    also_told: tuple[str, ...] = ()
    """Kinds of events that the hub must hear, each once."""


@dataclass
class Place:
    """A folder for one scenario: a machine, and the repository that it follows."""

    folder: Path
    commits: Commits = field(init=False)
    boots: int = 0

    def __post_init__(self) -> None:
        self.commits = Commits(self.folder / "fleet.git")

    @property
    def machine(self) -> Path:
        """The machine."""
        return self.folder / "machine"

    def lived(
        self, commit: CommitId, *, until: machine.Cut | None = None, away: bool = False, same_boot: bool = False
    ) -> CommitId:
        """Live once, in a new boot mostly; return ``commit``."""
        self.boots += not same_boot
        life = machine.live(self.machine, self.commits.path, f"boot-{self.boots}", until=until, away=away)
        if not life.rested:
            raise Violation("\n    ".join(["undisturbed, it did not come to rest", *life.story]))
        return commit

    def recorded(
        self,
        wanted: CommitId,
        confirmed: CommitId,
        may_be: frozenset[CommitId],
        *,
        told: bool = True,
        edited: ReleaseDigest | None = None,
        safe: bool = False,
        also_told: tuple[str, ...] = (),
    ) -> Recording:
        """Live one boot in a process of its own, and write it down; for the rest see ``Recording``."""
        (self.machine / "world").mkdir(parents=True, exist_ok=True)
        disk = Disk.read(self.machine)
        board = Board(self.folder / f"shim-{secrets.token_hex(4)}", self.machine)
        board.born(Mode.JOURNAL)
        how = ("recorded", "safe") if safe else ("recorded",)
        command = [sys.executable, "-m", "tests.faults.machine", str(self.machine), str(self.commits.path), *how]
        environment = {**os.environ, **board.environment}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=RECORD_S
            )
        except subprocess.TimeoutExpired:
            raise Violation(f"undisturbed, it did not come to rest within {RECORD_S:g} s") from None
        if done.returncode != 0:
            raise Violation(f"undisturbed, it did not come to rest\n{done.stderr[-3000:]}")
        return Recording(
            before=disk,
            operations=tuple(board.operations()),
            remote=self.commits.path,
            wanted=wanted,
            confirmed=confirmed,
            may_be=may_be,
            told=told,
            edited=edited,
            safe=safe,
            also_told=also_told,
        )


class Violation(Exception):
    """A state from which the agent does not recover."""


# --- what is recorded -------------------------------------------------------------------------------------------


def history(place: Place, updates: int = 4) -> CommitId:
    """Deploy so many commits: releases to fall back on, and one that is swept by the next."""
    for number in range(updates - 1):
        place.lived(place.commits.push(files(f"before {number}")))
    return place.lived(place.commits.push(files("last")))


def first(place: Place) -> Recording:
    """The first commit of a new device."""
    commit = place.commits.push(files("first"))
    return place.recorded(commit, commit, NOTHING_YET)


def update(place: Place) -> Recording:
    """A good commit, on a device that has several releases."""
    before = history(place)
    commit = place.commits.push(files("next"))
    return place.recorded(commit, commit, frozenset({before, commit}))


def rollback(place: Place) -> Recording:
    """A bad commit."""
    before = history(place, 2)
    return place.recorded(place.commits.push(files("bad", bad=True)), before, frozenset({before}))


def drain(place: Place) -> Recording:
    """The network comes back after a while."""
    before = history(place, 1)
    place.lived(before, until=lambda look: look.last_seq > BACKLOG, away=True)
    return place.recorded(before, before, frozenset({before}))


def renewed(place: Place) -> Recording:
    """The ledger can't be read."""
    before = history(place, 1)
    ledger = place.machine / "state" / invariants.LEDGER
    ledger.write_bytes(b"no ledger at all" * 512)
    return place.recorded(before, before, NOTHING_YET, told=False)


def mend(place: Place) -> Recording:
    """Files of the release that runs were edited, removed and added by hand, on a device without the network."""
    before = history(place, 2)
    state = place.machine / "state"
    deployed = remembered(state / invariants.LEDGER).confirmed
    if deployed is None or not (state / "spare" / deployed.release).is_file():
        raise Violation("there is no copy of the release that runs")
    _edited(state / "releases" / deployed.release / "files" / "site")
    return place.recorded(before, before, frozenset({before}), edited=deployed.release)


def _edited(site: Path) -> None:
    page, more = site / "index.html", site / "more"
    for path in (page, more):
        path.chmod(0o700)
    page.write_bytes(b"by hand")
    (more / "plain.txt").unlink()
    (more / "by hand").write_text("by hand")


INTO_SAFE_MODE: Final = ("safe_mode.entered", "safe_mode.running")


def into_safe_mode(place: Place) -> Recording:
    """Somebody at the console ordered safe mode while the agent was down."""
    before = history(place, 2)
    _ordered(place, on=True)
    return place.recorded(before, before, frozenset({before}), safe=True, also_told=INTO_SAFE_MODE)


def out_of_safe_mode(place: Place) -> Recording:
    """A good commit comes to a device in safe mode."""
    before = history(place, 2)
    _ordered(place, on=True)
    place.lived(before, until=machine.is_safe)
    commit = place.commits.push(files("next"))
    return place.recorded(commit, commit, frozenset({before, commit}), also_told=(*INTO_SAFE_MODE, "safe_mode.left"))


def ordered_out(place: Place) -> Recording:
    """Somebody at the console ordered the way out of safe mode while the agent was down."""
    before = history(place, 2)
    _ordered(place, on=True)
    place.lived(before, until=machine.is_safe)
    _ordered(place, on=False)
    return place.recorded(before, before, frozenset({before}), also_told=(*INTO_SAFE_MODE, "safe_mode.left"))


def _ordered(place: Place, *, on: bool) -> None:
    Spool(place.machine / "state" / SPOOL).give(SafeModeOrder(on=on, reason="a test"))


def again(place: Place, chance: random.Random) -> Recording:
    """The power is cut in an update or a rollback, and what is recorded is the recovery."""
    recording = chance.choice((update, rollback))(place)
    state = chance.choice(list(cut_at(recording, chance.randrange(len(recording.operations)), chance)))
    shutil.rmtree(place.machine)
    place.machine.mkdir()
    state.write(place.machine)
    return place.recorded(recording.wanted, recording.confirmed, recording.may_be)


SCENARIOS: Final[Mapping[str, Callable[[Place, random.Random], Recording]]] = {
    "first": lambda place, _: first(place),
    "update": lambda place, _: update(place),
    "rollback": lambda place, _: rollback(place),
    "drain": lambda place, _: drain(place),
    "renewed": lambda place, _: renewed(place),
    "mend": lambda place, _: mend(place),
    "into-safe-mode": lambda place, _: into_safe_mode(place),
    "out-of-safe-mode": lambda place, _: out_of_safe_mode(place),
    "ordered-out": lambda place, _: ordered_out(place),
    "again": again,
}


INTERRUPTIONS: Final = ("boots", "applies")
"""Not recorded: a trial is interrupted until it ends."""


# --- what a power cut leaves, and what comes of it ----------------------------------------------------------------


def cut_at(recording: Recording, number: int, chance: random.Random) -> Iterator[State]:
    """Yield what may be on the disk when the power is cut after ``number`` operations."""
    disk = copy.deepcopy(recording.before)
    for operation in recording.operations[:number]:
        disk.apply(operation)
    yield from states(disk, chance)


def every_state(recording: Recording, chance: random.Random) -> Iterator[tuple[int, State]]:
    """Yield (number of operations, state) for every place, each state once."""
    disk = copy.deepcopy(recording.before)
    seen: set[int] = set()
    for number in range(len(recording.operations) + 1):
        for state in states(disk, chance):
            if state.key() not in seen:
                seen.add(state.key())
                yield number, state
        if number < len(recording.operations):
            disk.apply(recording.operations[number])


def recovered(recording: Recording, folder: Path, boot_id: str) -> list[str]:
    """Start the agent on the machine in ``folder``; say what of P1 does not hold once it is at rest."""
    state, found = folder / "state", list[str]()
    try:
        life = machine.live(folder, recording.remote, boot_id, safe=recording.safe)
    except Exception as error:  # noqa: BLE001 - whatever ended the agent is what is looked for
        return [*found, f"the agent ended: {error!r} {[str(one) for one in getattr(error, 'exceptions', ())]}"]
    if not life.rested:
        return [*found, "it did not come to rest", *life.story]
    if life.set_aside and recording.may_be:
        found.append("the ledger was damaged")
    found += life.lost
    found += life.hub.contradictions
    confirmed = frozenset({recording.confirmed})
    found += invariants.at_rest(state, confirmed=confirmed, wanted=recording.wanted, told=recording.told)
    if not recording.told and not any(event.kind == "ledger.renewed" for event in life.hub.events()):
        found.append("that the ledger was lost was not told")
    if recording.told:
        heard = [event.kind for event in life.hub.events() if event.commit == recording.wanted]
        verdicts = [kind for kind in heard if kind in invariants.VERDICTS]
        if len(verdicts) != 1:
            found.append(f"the hub heard {verdicts} of the commit")
    kinds = [event.kind for event in life.hub.events()]
    found += [
        f"the hub heard {kind} {kinds.count(kind)} times" for kind in recording.also_told if kinds.count(kind) != 1
    ]
    if recording.edited is not None:
        told = sorted(event.kind for event in life.hub.events() if event.reason == "files")
        if told != ["drift.found", "drift.repaired"]:
            found.append(f"of what was edited the hub heard {told or 'nothing'}")
    return found + _runs_whole(life)


def _runs_whole(life: machine.Life) -> list[str]:
    release = life.state / "releases" / (invariants.current(life.state) or "none") / "release.json"
    plans = msgspec.json.decode(release.read_bytes(), type=dict[str, Any])["services"]
    expected = {one["name"]: one["inputs"] for one in plans}
    return [] if life.inputs == expected else [f"what runs is not the current release: {life.inputs}, not {expected}"]


def rotten(state: Path) -> bool:
    """Damage the release that is staged and not yet tried, if there is one: a card loses bits, too."""
    try:
        memory = remembered(state / invariants.LEDGER)
    except NotNow:
        return False
    staged, confirmed = memory.resolved, memory.confirmed
    if staged is None or memory.trial is not None or (confirmed and staged.release == confirmed.release):
        return False
    page = state / "releases" / staged.release / "files" / "site" / "index.html"
    if not page.is_file():
        return False
    page.chmod(0o600)
    page.write_bytes(page.read_bytes()[::-1])
    page.chmod(0o444)
    return True


@dataclass
class Verdict:
    """What came of a scenario."""

    operations: int = 0
    states: int = 0
    """That were judged as they lie."""
    recoveries: int = 0
    """States from which an agent was started."""
    violations: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is looked at."""

    states: int | None = None
    """To judge as they lie; ``None``: all."""
    recoveries: int
    seed: int
    stop_at: int = 3


def replay(name: str, effort: Effort, folder: Path) -> Verdict:
    """Record scenario ``name``; judge the states that a power cut may leave, and recover from some of them."""
    chance, verdict = random.Random(f"{effort.seed} {name}"), Verdict()
    recording = SCENARIOS[name](Place(folder), chance)
    verdict.operations = len(recording.operations)
    found = list(every_state(recording, chance))
    found = chance.sample(found, min(effort.states or len(found), len(found)))
    judge = _Judge(name, recording, folder / "again")
    for number, state in found:
        verdict.states += 1
        verdict.violations += judge.as_it_lies(number, state)
        if len(verdict.violations) >= effort.stop_at:
            return verdict
    for number, state in found[: effort.recoveries]:
        for damaged in (False, True):
            recovery = judge.recovery(number, state, damaged=damaged)
            verdict.recoveries += recovery is not None
            verdict.violations += recovery or []
        if len(verdict.violations) >= effort.stop_at:
            return verdict
    return verdict


JUDGED_ANEW: Final = ("world", f"state/{invariants.LEDGER}", "state/current", f"state/{SPOOL}")
"""What is judged of each state; the releases are the same in most."""


@dataclass(frozen=True)
class _Judge:
    name: str
    recording: Recording
    folder: Path
    _known: dict[tuple[str, frozenset[tuple[str, Any]]], tuple[str, ...]] = field(
        default_factory=dict[tuple[str, frozenset[tuple[str, Any]]], tuple[str, ...]]
    )
    """A release's name, and all that is on the disk of releases and contents -> how they differ from its MANIFEST."""

    def as_it_lies(self, number: int, state: State) -> list[str]:
        """Judge the disk before an agent touches it."""
        if not self.recording.may_be:
            return []
        self._write(state.only(*JUDGED_ANEW))

        def differing(release: Path, _contents: Path) -> tuple[str, ...]:
            return () if release.name == self.recording.edited else self._differing(release.name, state)

        found = invariants.after_a_crash(self.folder / "state", confirmed=self.recording.may_be, differing=differing)
        if self.recording.safe:
            found += order_lost(self.folder / "state")
        return self._told(number, state.how, [*found, *forgotten(self.folder)])

    def recovery(self, number: int, state: State, *, damaged: bool) -> list[str] | None:
        """Start an agent on it; ``None`` where there is nothing to damage."""
        self._write(state)
        if damaged and not rotten(self.folder / "state"):
            return None
        how = f"{state.how}{', a staged release damaged' if damaged else ''}"
        return self._told(number, how, recovered(self.recording, self.folder, f"after-{number}"))

    def _differing(self, digest: str, state: State) -> tuple[str, ...]:
        there = state.only(f"state/releases/{digest}", "state/content")
        key = digest, frozenset(there.entries.items())
        if key not in self._known:
            whole = self.folder.with_name("whole")
            self._write(there, whole)
            self._known[key] = differences(whole / "state" / "releases" / digest, whole / "state" / "content")
        return self._known[key]

    def _write(self, state: State, folder: Path | None = None) -> None:
        folder = folder or self.folder
        if folder.exists():
            _removed(folder)
        folder.mkdir()
        state.write(folder)

    def _told(self, number: int, how: str, violations: list[str]) -> list[str]:
        if not violations:
            return []
        last = self.recording.operations[number - 1] if number else None
        after = f"{last.kind.name.lower()} {last.path} {last.other}".strip() if last else "nothing"
        head = f"{self.name}: cut after operation {number} ({after}), {how}:"
        return ["\n    ".join([head, *violations])]


def forgotten(folder: Path) -> list[str]:
    """Say what the hub has seen and the ledger does not know any more."""
    hub = machine.Hub(folder / "world" / "sent")
    with closing(sqlite3.connect(folder / "state" / invariants.LEDGER)) as db:
        (stored,) = db.execute("SELECT stored FROM life").fetchone()
        (last,) = db.execute("SELECT max(seq) FROM outbox").fetchone()
    last_seq = max(stored, last or 0)
    return hub.lost(last_seq, stored) if last_seq else []


def order_lost(state: Path) -> list[str]:
    """Say that the order for safe mode is gone, and was not obeyed."""
    is_obeyed = remembered(state / invariants.LEDGER).safe is not None
    return [] if is_obeyed or any(state.glob(f"{SPOOL}/*.json")) else ["the order is forgotten, and not obeyed"]


def _removed(folder: Path) -> None:
    for at, _, _ in os.walk(folder):
        os.chmod(at, 0o700)  # noqa: PTH101 - os.walk gives text
    shutil.rmtree(folder)


def interrupted_again_and_again(folder: Path, how: str) -> Verdict:
    """Every life ends in the trial, by a boot in its soak or a crash in Compose: it ends, and the way back is taken."""
    place, verdict = Place(folder), Verdict()
    before = history(place, 1)
    commit = place.commits.push(files("interrupted"))
    applies = 0

    def in_soak(trial: Trial) -> bool:
        return trial.boot_id == f"boot-{place.boots}" and trial.applied_s is not None

    def over(look: machine.Look) -> bool:
        trial = look.memory.trial
        if trial is None or trial.kind == "back":
            return look.memory.refusal_of(commit) is not None
        return in_soak(trial) if how == "boots" else trial.applies > applies

    most = MAX_BOOTS + 2 if how == "boots" else MAX_APPLIES + 1
    for _ in range(most):
        verdict.recoveries += 1
        place.lived(commit, until=over, same_boot=how == "applies")
        memory = remembered(place.machine / "state" / invariants.LEDGER)
        applies = memory.trial.applies if memory.trial else 0
        if memory.refusal_of(commit) is not None:
            break
    else:
        verdict.violations.append(f"a trial outlives {place.boots} interruptions ({how})")
        return verdict
    place.lived(commit)
    verdict.violations += invariants.at_rest(place.machine / "state", confirmed=frozenset({before}), wanted=commit)
    return verdict


def main() -> None:
    """Run the command line: 0 without a violation, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.replay", description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=[*SCENARIOS, *INTERRUPTIONS], help="default: all")
    parser.add_argument("--states", type=int, metavar="N", help="to judge as they lie, of each (default: all)")
    parser.add_argument("--recoveries", type=int, default=60, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), metavar="N", help="default: a new one")
    parser.add_argument("--stop-at", type=int, default=3, metavar="N", help="violations (default: %(default)s)")
    asked = parser.parse_args()
    effort = Effort(states=asked.states, recoveries=asked.recoveries, seed=asked.seed, stop_at=asked.stop_at)
    print(f"replay: --recoveries {effort.recoveries} --seed {effort.seed}")
    began_s, verdicts = time.monotonic(), list[Verdict]()
    for name in asked.scenarios:
        verdict = _scratched(name, effort)
        verdicts.append(verdict)
        mark = "✘" if verdict.violations else "✔"
        print(
            f"{mark} {name}: {verdict.operations} operations, {verdict.states} states, {verdict.recoveries} recoveries",
            flush=True,
        )
        for violation in verdict.violations:
            print(f"  {violation}")
    failed = any(verdict.violations for verdict in verdicts)
    states, recoveries = (sum(getattr(one, what) for one in verdicts) for what in ("states", "recoveries"))
    summary = f"{states} states, {recoveries} recoveries, {time.monotonic() - began_s:.0f} s, seed {effort.seed}"
    print(f"{'✘' if failed else '✔'} replay: {summary}")
    sys.exit(failed)


def _scratched(name: str, effort: Effort) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="replay-", dir=SCRATCH, ignore_cleanup_errors=True) as folder:
        try:
            if name in INTERRUPTIONS:
                return interrupted_again_and_again(Path(folder), name)
            return replay(name, effort, Path(folder))
        except Violation as error:
            return Verdict(violations=[f"{name}: {error}"])


if __name__ == "__main__":
    main()
