"""What must hold on a device, looked at whenever its ledger, its engine or its disk changed (DESIGN.md section 8).

The witness keeps its own memory of all that it was told. What it expects it takes from the world that made the commits
and the faults, never from the agent.

    P1  what runs, and what ``current`` names, is a complete release: on trial or confirmed, nothing between
    P2  a bad commit is never confirmed, is taken back in time and is never tried again; a good one is not refused
    P4  what was accepted comes after what was accepted before
    P5  the outbox stays within its bound; no number means two things
    P8  what runs is the confirmed release, or the safe-mode stack, again within the hour
    and while somebody has said that nothing is to change, nothing does

P11 (emergency stop) and P12 (rollout gates) are looked at here as soon as the agent knows them: ``remembered`` sees
every trial that is begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.adapters.releases.scan import MANIFEST, differences
from metrica_agent.decisions.trial import MAX_APPLIES
from metrica_agent.decisions.world import Memory, Release, TrialKind
from metrica_fleet.identity import short
from metrica_sim.virtual.condition import COOLS
from metrica_sim.virtual.engine import inputs_by_service
from metrica_sim.virtual.history import (
    APPLY_DEADLINE_S,
    LEAST,
    PULL_DEADLINE_S,
    SOAK_S,
    START_DEADLINE_S,
    History,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metrica_agent.decisions.world import Deployed, Refused, Trial
    from metrica_fleet.identity import CommitId, ReleaseDigest, StreamId
    from metrica_fleet.records import Event
    from metrica_sim.virtual.machine import Machine

GRACE_S: Final = 60.0
FELT_S: Final = 300.0
"""Until a strain is known: two looks at the machine, and the least time between two stages."""
RESTED_S: Final = 1200.0
"""Until what matters least rests: known, and stopped; longer where somebody started it again meanwhile."""
TAKEN_BACK_S: Final = APPLY_DEADLINE_S + START_DEADLINE_S + 2 * SOAK_S + GRACE_S
"""From the beginning of a trial to the confirmed release applied again, on a device with no other trouble."""
NOT_PULLED_S: Final = PULL_DEADLINE_S + GRACE_S
"""From staged to refused, when an image does not come."""
TRIAL_S: Final = MAX_APPLIES * (APPLY_DEADLINE_S + START_DEADLINE_S + 2 * SOAK_S + GRACE_S)
"""Of a trial, as far as agent, engine and disk are there at all."""
UNREST_S: Final = 3600.0 + 600.0
"""Until what runs is the confirmed release again: the longest pause between two repairs, and one repair."""
UNBLAMED_S: Final = 2 * 3600.0
"""A device that had no trouble for so long has no excuse to refuse a good commit."""
REFUSED_KEPT: Final = 100
THINNED_BYTES: Final = 4 * 64 * 640
"""By how much the outbox may pass its bound: thinning a quarter of the heartbeats must free 64 to be worth telling."""
_ITS_OWN_FAULT: Final = frozenset({"history-diverged", "history-unproven", "refused-before", "same-release-refused"})


class Witness:
    """Of one machine."""

    def __init__(self, machine: Machine, history: History) -> None:
        self._machine = machine
        self._history = history
        self._refused: dict[CommitId, str] = {}
        self._bad: set[ReleaseDigest] = set()
        self._releases: dict[ReleaseDigest, Release] = {}
        self._trial_able_s = 0.0
        self._trial_troubles = 0
        self._trial_begun_s = 0.0
        self._staged_s: tuple[float, int] = (0.0, 0)
        self._back: ReleaseDigest | None = None
        """What a trial that failed is taken back to."""
        self._unrest_since_s: float | None = None
        self._looked_s: float | None = None
        self.events: dict[StreamId, dict[int, tuple[str, str]]] = {}
        self.safe_entered_s = -1.0
        self.worst_taken_back_s = 0.0
        self.trials = 0

    # --- the ledger ---------------------------------------------------------------------------------------------

    def remembered(self, before: Memory, after: Memory) -> None:
        """Compare what the ledger held with what it holds."""
        self._check_accepted(before, after)
        self._check_refusals(before, after)
        self._check_confirmed(before, after)
        self._check_trial(before, after)
        if after.resolved is not None and after.resolved != before.resolved:
            self._staged_s = (self._now_s, self._machine.troubles)

    def wrote(self, event: Event) -> None:
        """Keep an event that stands in the outbox: the hub must come to have it."""
        rows = self.events.setdefault(event.stream, {})
        if event.seq in rows:
            self._breach(f"number {event.seq} was given to {rows[event.seq][0]} and to {event.kind}")
        rows[event.seq] = (event.kind, event.message)
        if event.kind == "safe_mode.entered":
            self.safe_entered_s = self._now_s
        if event.kind == "task.failed" and "PoisonError" not in event.message:
            self._breach(event.message)
        reason = f" ({event.reason})" if event.reason else ""
        commit = f" {self._history.name(event.commit)}" if event.commit else ""
        self._tell(f"{event.kind}{commit}{reason}")

    def renumbered(self, stream: StreamId, events: Sequence[Event]) -> None:
        """Take the numbers that the events have in a new stream."""
        self.events[stream] = {event.seq: (event.kind, event.message) for event in events}

    def holds(self, unsettled_bytes: int, event_bytes: int) -> None:
        """Compare what the outbox takes with its bound; events are never thinned."""
        if unsettled_bytes > self._machine.outbox_bytes + event_bytes + THINNED_BYTES:
            self._breach(f"the outbox takes {unsettled_bytes} bytes, {event_bytes} of them events")

    # --- the link -----------------------------------------------------------------------------------------------

    def switched(self) -> None:
        """``current`` was just made to lead to another release: the ledger knew of it before."""
        memory, current = self._machine.memory(), self._machine.current()
        meant = memory.trial.release if memory.trial else memory.standing
        if current != meant:
            self._breach(f"current leads to release {short(current)}, and the ledger names {short(meant)}")

    # --- the engine ---------------------------------------------------------------------------------------------

    def applying(self, release: Path) -> None:
        """Compose is run for nothing but what the ledger names, and ``current`` too."""
        memory = self._machine.memory()
        meant = memory.trial.release if memory.trial else memory.standing
        if memory.held is not None and memory.trial is None:
            self._breach(f"release {release.name[:8]} is applied, and nothing is to change")
        if meant != release.name:
            self._breach(f"release {release.name[:8]} is applied, and the ledger names {short(meant)}")
        elif self._machine.current() != release.name:
            self._breach(f"release {release.name[:8]} is applied, and is not current")
        elif not self._machine.edited:
            self._check_whole(release, "applied")

    # --- from time to time --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the whole of the machine; cheap enough to be done every few minutes."""
        elapsed_s = 0.0 if self._looked_s is None else self._now_s - self._looked_s
        self._looked_s = self._now_s
        self.look_at_disk()
        memory = self._machine.memory()
        if memory.trial is not None and self._machine.is_able:
            self._trial_able_s += elapsed_s
            if self._trial_able_s > TRIAL_S + 2 * elapsed_s:
                self._breach(f"the trial of {_shown(memory.trial)} does not end")
        self._look_at_rest()
        self._look_at_strain()
        self._look_at_files()

    def look_at_disk(self) -> None:
        """``current`` leads to a release that is all there."""
        current = self._machine.current()
        if current is not None and not (self._machine.folder / "releases" / current / MANIFEST).is_file():
            self._breach(f"current names release {current[:8]}, which is not complete")

    def unrest(self) -> str | None:
        """Return in which way what runs is not the confirmed release; ``None`` when it is, or need not be."""
        memory = self._machine.memory()
        if memory.trial is not None:
            return f"{_shown(memory.trial)} is on trial"
        if memory.safe is not None and not memory.safe.applied:
            return "the safe-mode stack is not applied"
        if memory.standing is None:
            return None
        release = self._release(memory.standing)
        if release is None:
            return f"release {short(memory.standing)} is to run and not on the disk"
        runs = inputs_by_service(self._machine.engine.lives())
        wanted = {plan.name: [plan.inputs] * plan.replicas for plan in release.services}
        if runs != wanted:
            odd = sorted(name for name in runs.keys() | wanted.keys() if runs.get(name) != wanted.get(name))
            return f"{', '.join(odd)} is not as in release {release.digest[:8]}"
        return self._stopped(release)

    def _stopped(self, release: Release) -> str | None:
        once = {plan.name for plan in release.services if plan.runs_once}
        for life in self._machine.engine.lives():
            done = life.service in once and life.exit_code == 0
            if life.state.value == "exited" and not done:
                return f"{life.service} has ended"
        return None

    def _look_at_rest(self) -> None:
        memory = self._machine.memory()
        able = self._machine.is_able and memory.trial is None and memory.held is None and not self._machine.strains
        if not able or self.unrest() is None:
            self._unrest_since_s = None
            return
        since_s = self._unrest_since_s
        if since_s is None or self._machine.troubled_s > since_s:
            self._unrest_since_s = self._now_s
        elif self._now_s > since_s + UNREST_S:
            self._breach(f"for {self._now_s - since_s:.0f} s {self.unrest()}")

    def _look_at_strain(self) -> None:
        """A strain that lasts is known, and what matters least rests in it; a trial goes on to its verdict."""
        strains, memory = self._machine.strains, self._machine.memory()
        lasted_s = self._now_s - self._machine.troubled_s
        if not strains or not self._machine.is_able or lasted_s < FELT_S:
            return
        if not any(memory.strain.levels):
            self._breach(f"it is strained by {_listed(strains)}, and the agent does not know")
        if not strains & COOLS or memory.trial is not None or memory.safe is not None:
            return
        running = {life.service for life in self._machine.engine.lives() if life.state.value == "running"}
        if LEAST in running and lasted_s > RESTED_S:
            self._breach(f"{LEAST} runs, and it is strained by {_listed(strains)}")

    def _look_at_files(self) -> None:
        """What somebody edited is as it was published again, or gone, within the hour."""
        machine, edited = self._machine, self._machine.edited
        if edited is None:
            return
        release = machine.folder / "releases" / edited
        if not release.exists() or not differences(release, machine.folder / "content"):
            machine.edited = None
            self._tell(f"release {short(edited)} is as it was published again")
        elif machine.memory().held is not None or not machine.is_able or machine.current() != edited:
            machine.troubled_s = self._now_s
        elif self._now_s > machine.troubled_s + UNREST_S:
            self._breach(f"for {self._now_s - machine.troubled_s:.0f} s release {short(edited)} is not as published")

    # --- comparing ----------------------------------------------------------------------------------------------

    def _check_accepted(self, before: Memory, after: Memory) -> None:
        if before.accepted is None or after.accepted == before.accepted:
            return
        if after.accepted is None:
            self._breach("what was accepted is forgotten")
            return
        forward = before.accepted in self._history.commits[after.accepted].ancestors
        if not forward and after.accepted not in before.allowed:
            names = self._history.name(before.accepted), self._history.name(after.accepted)
            self._breach(f"{names[1]} is accepted and does not come after {names[0]}")

    def _check_refusals(self, before: Memory, after: Memory) -> None:
        known = {refused.commit for refused in before.refused}
        for refused in after.refused:
            if refused.commit not in known:
                self._note_refusal(refused)
        lost = known - {refused.commit for refused in after.refused} - set(after.allowed)
        if lost and len(after.refused) < REFUSED_KEPT:
            self._breach(f"the refusal of {self._history.name(min(lost))} is forgotten")

    def _note_refusal(self, refused: Refused) -> None:
        self._refused[refused.commit] = refused.reason
        if refused.release is not None:
            self._bad.add(refused.release)
        ill = self._history.commits[refused.commit].content.ill_for(self._machine.role)
        staged_s, troubles = self._staged_s
        if ill == "pull-stalls" and troubles == self._machine.troubles and self._now_s > staged_s + NOT_PULLED_S:
            self._breach(f"an image that does not come was waited for {self._now_s - staged_s:.0f} s")
        if ill or refused.reason in _ITS_OWN_FAULT:
            return
        quiet_s = self._now_s - self._machine.troubled_s
        if self._machine.is_quiet and quiet_s > UNBLAMED_S:
            self._breach(f"{self._history.name(refused.commit)} is good and was refused: {refused.message}")

    def _check_confirmed(self, before: Memory, after: Memory) -> None:
        if before.confirmed == after.confirmed:
            return
        if after.confirmed is None:
            self._breach("the confirmed release is forgotten")
            return
        release, trial = after.confirmed.release, before.trial
        if before.confirmed is not None and before.confirmed.release == release:
            return
        if trial is None:
            self._breach(f"{_shown(after.confirmed)} is confirmed without a trial")
        elif trial.kind is TrialKind.FORWARD:
            self._check_proven(trial, after.confirmed)
        elif release not in {deployed.release for deployed in before.earlier}:
            self._breach(f"{_shown(after.confirmed)} was gone back to and was never confirmed")

    def _check_proven(self, trial: Trial, confirmed: Deployed) -> None:
        name = self._history.name(trial.commit)
        if trial.release != confirmed.release:
            self._breach(f"{_shown(trial)} was on trial and {_shown(confirmed)} is confirmed")
        ill = self._history.commits[trial.commit].content.ill_for(self._machine.role)
        if ill is not None and not trial.excused:
            self._breach(f"{name} is bad ({ill}) and is confirmed")
        if trial.applied_s is None or self._machine.boot_clock_s() < trial.applied_s + SOAK_S:
            self._breach(f"{name} is confirmed before its soak has ended")

    def _check_trial(self, before: Memory, after: Memory) -> None:
        old, new = before.trial, after.trial
        goes_on = new is not None and new.kind is TrialKind.FORWARD
        if old is not None and not goes_on and old.kind is TrialKind.FORWARD:
            confirmed = after.confirmed is not None and after.confirmed.release == old.release
            ordered = after.safe is not None and after.safe.reason == "ordered"
            if not confirmed and not ordered and after.refusal_of(old.commit) is None:
                self._breach(f"the trial of {self._history.name(old.commit)} ended without a verdict")
        if new is None:
            return
        if old is not None and (old.kind, old.release) == (new.kind, new.release):
            if new.kind is TrialKind.BACK and old.applied_s is None and new.applied_s is not None:
                self._note_taken_back(new)
            return
        self._trial_able_s = 0.0
        self._back = new.release if old is not None and old.kind is TrialKind.FORWARD else None
        if new.kind is TrialKind.FORWARD:
            self._check_begun(old, new)
        elif after.confirmed is None or new.release != after.confirmed.release:
            self._breach(f"{_shown(new)} is gone back to, and {_shown(after.confirmed)} is confirmed")

    def _check_begun(self, old: Trial | None, new: Trial) -> None:
        name = self._history.name(new.commit)
        self.trials += 1
        self._trial_begun_s, self._trial_troubles = self._now_s, self._machine.troubles
        if self._machine.memory().held is not None:
            self._breach(f"{name} is put on trial, and nothing is to change")
        if self._machine.strains and self._now_s > self._machine.troubled_s + FELT_S:
            self._breach(f"{name} is put on trial on a machine that is strained by {_listed(self._machine.strains)}")
        if old is not None:
            self._breach(f"{name} is put on trial while {self._history.name(old.commit)} is")
        if new.commit in self._refused:
            self._breach(f"{name} is put on trial again; it was refused: {self._refused[new.commit]}")
        if new.release in self._bad:
            self._breach(f"{name} is put on trial; its release failed one before")
        if not (self._machine.folder / "releases" / new.release / MANIFEST).is_file():
            self._breach(f"{name} is put on trial, and its release is not complete")

    def _note_taken_back(self, back: Trial) -> None:
        if back.release != self._back:
            return
        took_s = self._now_s - self._trial_begun_s
        if self._trial_troubles != self._machine.troubles or not self._machine.is_quiet:
            return
        self.worst_taken_back_s = max(self.worst_taken_back_s, took_s)
        if took_s > TAKEN_BACK_S:
            self._breach(f"the confirmed release ran again only after {took_s:.0f} s")

    def _check_whole(self, release: Path, what: str) -> None:
        found = differences(release, self._machine.folder / "content")
        if found:
            self._breach(f"release {release.name[:8]} is {what} and is not as it was published: {found[0]}")

    def _release(self, digest: ReleaseDigest) -> Release | None:
        if digest not in self._releases:
            path = self._machine.folder / "releases" / digest / "release.json"
            if not path.is_file():
                return None
            self._releases[digest] = msgspec.json.decode(path.read_bytes(), type=Release)
        return self._releases[digest]

    @property
    def _now_s(self) -> float:
        return self._machine.now_s()

    def _tell(self, what: str) -> None:
        self._machine.tell(what)

    def _breach(self, what: str) -> None:
        self._machine.breach(what)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _shown(deployed: Deployed | Trial | None) -> str:
    return "nothing" if deployed is None else f"release {deployed.release[:8]}"
