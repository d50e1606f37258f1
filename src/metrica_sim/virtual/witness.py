"""What must hold on a device, looked at whenever its ledger, its engine or its disk changed (DESIGN.md section 8).

The witness keeps its own memory of all that it was told. What it expects it takes from the world that made the commits
and the faults, never from the agent.

    P1  what runs, and what ``current`` names, is a complete release: on trial or confirmed, nothing between
    P2  a bad commit is never confirmed, is taken back in time and is never tried again; a good one is not refused
    P4  what was accepted comes after what was accepted before, and where it is to be signed, somebody did who may
    P5  the outbox stays within its bound; no number means two things
    P8  what runs is the confirmed release, or the safe-mode stack, again within the hour
    P11 while a stop is in force nothing goes forward, under a halt nothing runs; none counts that no operator gave, and
        each device that can hear of one does
    P12 no commit is begun but by a device whose stage the hub has opened, or by the policy while the hub says nothing
    and while somebody has said that nothing is to change, nothing does
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.adapters.releases.scan import MANIFEST, differences
from metrica_agent.decisions.gating import ABORTED, PROGRESS_S
from metrica_agent.decisions.trial import MAX_APPLIES
from metrica_agent.decisions.world import Memory, Release, TrialKind
from metrica_fleet.identity import short
from metrica_fleet.stop import Level, Whom, strongest
from metrica_sim.virtual.condition import COOLS
from metrica_sim.virtual.engine import inputs_by_service
from metrica_sim.virtual.history import (
    APPLY_DEADLINE_S,
    LEAST,
    LOCK_PATIENCE_S,
    LOCKS,
    PULL_DEADLINE_S,
    SOAK_S,
    START_DEADLINE_S,
    WINDOW_PATIENCE_S,
    History,
    is_in_window,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metrica_agent.decisions.commanding import Taken
    from metrica_agent.decisions.world import Deployed, Refused, Trial
    from metrica_fleet.identity import CommitId, ReleaseDigest, StreamId
    from metrica_fleet.records import Event
    from metrica_fleet.signed import Signed
    from metrica_sim.virtual.commands import Commands
    from metrica_sim.virtual.machine import Machine
    from metrica_sim.virtual.rollouts import Rollouts
    from metrica_sim.virtual.stops import Stops

GRACE_S: Final = 60.0
CLOCK_SEEN_S: Final = 10.0
"""From a look at the clock to what is done because of it."""
LOCK_SEEN_S: Final = 10.0
"""A lock that is taken in the moment in which an update begins may be missed."""
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
HEARD_S: Final = 900.0
"""Until an order is heard and done by whoever can hear: connected again, and an engine that is asked again."""
THINNED_BYTES: Final = 4 * 64 * 640
"""By how much the outbox may pass its bound: thinning a quarter of the heartbeats must free 64 to be worth telling."""
_ITS_OWN_FAULT: Final = frozenset(
    {"history-diverged", "history-unproven", "refused-before", "same-release-refused", "rollout-aborted"}
)
SILENCE_S: Final = PROGRESS_S + GRACE_S
"""By so much more than it lasts a device may take the hub's silence for, after a restart."""


class Witness:
    """Of one machine."""

    def __init__(
        self,
        machine: Machine,
        history: History,
        stops: Stops,
        commands: Commands,
        rollouts: Rollouts | None = None,
    ) -> None:
        self._machine = machine
        self._history = history
        self._stops = stops
        self._commands = commands
        self._ended: set[int] = set()
        """Commands of which was told what came of them."""
        self._rebooted: set[int] = set()
        """Commands by which the machine was started anew."""
        self._rollouts = rollouts
        self._gate = 0
        """The highest number of a gate that it was seen to remember."""
        self._gate_said_s = 0.0
        """When the hub's word last reached it."""
        self._refused: dict[CommitId, str] = {}
        self._bad: set[ReleaseDigest] = set()
        self._releases: dict[ReleaseDigest, Release] = {}
        self._trial_able_s = 0.0
        self._trial_troubles = 0
        self._trial_begun_s = 0.0
        self._staged_s: tuple[float, int] = (0.0, 0)
        self._back: ReleaseDigest | None = None
        """What a trial that failed is taken back to."""
        self._waits: tuple[ReleaseDigest, float] | None = None
        """What waits for consent, and since when it was seen to."""
        self._lock_waited_s, self._timed_s = 0.0, 0.0
        """For how long the lock alone may have put that off, and until when this was reckoned."""
        self._unrest_since_s: float | None = None
        self._looked_s: float | None = None
        self.events: dict[StreamId, dict[int, tuple[str, str]]] = {}
        self.safe_entered_s = -1.0
        self.worst_taken_back_s = 0.0
        self.trials = 0

    # --- the ledger ---------------------------------------------------------------------------------------------

    def remembered(self, before: Memory, after: Memory) -> None:
        """Compare what the ledger held with what it holds."""
        self.time_waiting(before)
        self._check_gate(before, after)
        self._check_accepted(before, after)
        self._check_signed(before, after)
        self._check_refusals(before, after)
        self._check_confirmed(before, after)
        self._check_trial(before, after)
        self._check_stop(before, after)
        self._note_waiting(after)
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
        if event.kind in {"command.done", "command.failed"}:
            self._check_command(event)
        reason = f" ({event.reason})" if event.reason else ""
        commit = f" {self._history.name(event.commit)}" if event.commit else ""
        self._tell(f"{event.kind}{commit}{reason}")

    def holds(self, unsettled_bytes: int, event_bytes: int) -> None:
        """Compare what the outbox takes with its bound; events are never thinned."""
        if unsettled_bytes > self._machine.outbox_bytes + event_bytes + THINNED_BYTES:
            self._breach(f"the outbox takes {unsettled_bytes} bytes, {event_bytes} of them events")

    # --- commands ------------------------------------------------------------------------------------------------

    def _check_command(self, event: Event) -> None:
        """What was done was asked for by the hub, of this device, and it is done once."""
        number, verb = event.detail.get("number"), event.detail.get("verb")
        sent = self._commands.sent.get(number) if isinstance(number, int) else None
        if sent is None or (sent.device, sent.verb) != (self._machine.id, verb):
            self._breach(f"command {number} ({verb}) was taken, and the hub never gave it to this device")
            return
        if number in self._ended:
            self._breach(f"command {number} ({verb}) came to an end twice")
        self._ended.add(int(str(number)))
        self._machine.trouble()

    def rebooting(self, doing: Sequence[Taken]) -> None:
        """The agent starts the machine anew: a command that is written down asks for it, and never did before."""
        numbers = {one.number for one in doing if one.verb == "reboot"} - self._rebooted
        if not numbers:
            self._breach("the machine is started anew, and no command that is written down asks for that")
        self._rebooted |= numbers

    def _redeploys(self) -> bool:
        return any(one.verb == "redeploy" for one in self._machine.commanded())

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
        asked = bool(memory.resting) or self._redeploys()  # what rested goes on, and a person's word outranks a hold
        if memory.held is not None and memory.trial is None and _level(memory) is None and not asked:
            self._breach(f"release {release.name[:8]} is applied, and nothing is to change")
        if not self._may_apply(memory):
            self._breach(f"release {release.name[:8]} is applied, and it is stopped: {_level(memory)}")
        if meant != release.name:
            self._breach(f"release {release.name[:8]} is applied, and the ledger names {short(meant)}")
        elif self._machine.current() != release.name:
            self._breach(f"release {release.name[:8]} is applied, and is not current")
        elif not self._machine.edited:
            self._check_whole(release, "applied")

    @staticmethod
    def _may_apply(memory: Memory) -> bool:
        """Whether a stop leaves what is done: the way back under a freeze, the stack that always works under both."""
        back = memory.trial is not None and memory.trial.kind is TrialKind.BACK
        match _level(memory):
            case None:
                return True
            case Level.FREEZE:
                return back or (memory.trial is None and memory.safe is not None)
            case Level.SAFE:
                return memory.trial is None and memory.safe is not None
            case Level.HALT:
                return False

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
        self._look_at_stop()

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
        able = able and _level(memory) is None
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
        elif (
            machine.memory().held is not None
            or _level(machine.memory()) is not None
            or not machine.is_able
            or machine.current() != edited
        ):
            machine.troubled_s = self._now_s
        elif self._now_s > machine.troubled_s + UNREST_S:
            self._breach(f"for {self._now_s - machine.troubled_s:.0f} s release {short(edited)} is not as published")

    # --- comparing ----------------------------------------------------------------------------------------------

    def _check_stop(self, before: Memory, after: Memory) -> None:
        """Only what operators gave is obeyed, newer over older, and by its own measure of strength."""
        old, new = before.stop, after.stop
        if new is None or new == old:
            if new is None and old is not None:
                self._breach("what is stopped is forgotten")
            return
        if old is not None and new.number < old.number:
            self._breach(f"order {new.number} is obeyed after {old.number}")
        if new.number and self._stops.given.get(new.number) != new.ordered:
            self._breach(f"order {new.number} is obeyed, and nobody gave it")
        if new.commit is not None and self._history.commits[new.commit].content.stop is None:
            self._breach(f"{self._history.name(new.commit)} stops it, and has no STOP")
        wanted = strongest((*new.ordered, *new.in_git), self._whom(after))
        if new.obeyed != (old.obeyed if old is not None else None) and (wanted is None) != (new.obeyed is None):
            self._breach(f"it obeys {_level(after)}, and {wanted} is in force")

    def _whom(self, memory: Memory) -> Whom:
        return Whom(device=self._machine.id, role=memory.role, tags=memory.tags)

    def _look_at_stop(self) -> None:
        """An order reaches whoever can hear, and is done; what is halted does not run."""
        machine, stop = self._machine, self._machine.memory().stop
        broker = self._stops.broker
        since_s = max(self._stops.given_s, machine.troubled_s, broker.since_s)
        hears = machine.is_able and machine.network.is_up and broker.up and machine.is_on
        if not hears or self._now_s < since_s + HEARD_S or not self._stops.number:
            return
        if stop is None or stop.number != self._stops.number:
            self._breach(f"order {self._stops.number} is not obeyed {self._now_s - since_s:.0f} s after it was given")
        elif stop.obeyed is not None and not stop.done and self._machine.memory().trial is None:
            self._breach(f"{_level(machine.memory())} is not done {self._now_s - since_s:.0f} s after it was given")
        running = [life.service for life in machine.engine.lives() if life.state.value != "exited"]
        if _level(machine.memory()) is Level.HALT and running:
            self._breach(f"{', '.join(sorted(running))} runs, and it is halted")

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

    def _check_signed(self, before: Memory, after: Memory) -> None:
        """What is accepted was made by somebody who may, and what it says of who may is what counts from then on."""
        if not self._history.signed or after.accepted is None:
            return
        accepted = self._history.commits[after.accepted]
        if after.accepted != before.accepted and accepted.forged:
            self._breach(f"{accepted} is accepted, and may not be")
        if after.trust is None or after.trust.signers != accepted.content.signers:
            self._breach(f"{accepted} is accepted, and other signers than its are in force")

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
        commit = self._history.commits[refused.commit]
        ill = "forged" if commit.forged else commit.content.ill_for(self._machine.role)
        staged_s, troubles = self._staged_s
        waited = ill == "pull-stalls" and refused.release is not None  # without a release nothing was pulled
        if waited and troubles == self._machine.troubles and self._now_s > staged_s + NOT_PULLED_S:
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
        if trial is None and _was_aborted(before, after):
            return
        if trial is None:
            self._breach(f"{_shown(after.confirmed)} is confirmed without a trial")
        elif trial.kind is TrialKind.FORWARD:
            self._check_proven(trial, after.confirmed)
        elif trial.kind is TrialKind.BACK and release not in {deployed.release for deployed in before.earlier}:
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
            ordered = (after.safe is not None and after.safe.reason == "ordered") or _level(after) is not None
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
        if _level(self._machine.memory()) is not None:
            self._breach(f"{name} is put on trial, and it is stopped")
        if self._machine.strains and self._now_s > self._machine.troubled_s + FELT_S:
            self._breach(f"{name} is put on trial on a machine that is strained by {_listed(self._machine.strains)}")
        self._check_open(new)
        self._check_lock(new)
        self._check_window(new)
        if old is not None:
            self._breach(f"{name} is put on trial while {self._history.name(old.commit)} is")
        if new.commit in self._refused:
            self._breach(f"{name} is put on trial again; it was refused: {self._refused[new.commit]}")
        if new.release in self._bad:
            self._breach(f"{name} is put on trial; its release failed one before")
        if not (self._machine.folder / "releases" / new.release / MANIFEST).is_file():
            self._breach(f"{name} is put on trial, and its release is not complete")

    def _note_waiting(self, memory: Memory) -> None:
        waiting = memory.waiting
        if waiting is None:
            self._waits = None
        elif self._waits is None or self._waits[0] != waiting.release:
            self._waits = waiting.release, self._now_s
            self._lock_waited_s = 0.0

    def time_waiting(self, memory: Memory | None = None) -> None:
        """Reckon how long a lock was waited for, before anything of it changes: not under a hold, a stop, a strain."""
        memory = memory or self._machine.memory()
        elapsed_s, self._timed_s = self._now_s - self._timed_s, self._now_s
        others = memory.held is not None or _level(memory) is not None or any(memory.strain.levels)
        if self._waits is not None and self._machine.locked_since_s is not None and not others:
            self._lock_waited_s += elapsed_s

    def _check_window(self, trial: Trial) -> None:
        """Outside of a window nothing begins before its patience ends, and while the time is not known none is open."""
        machine, memory, windows = self._machine, self._machine.memory(), self._history.windows
        if not windows or memory.confirmed is None or memory.safe is not None:
            return
        if self._now_s < machine.clock_set_s + CLOCK_SEEN_S:
            return  # what was looked at before may still be acted on
        seen = [machine.wall_clock(ago_s) for ago_s in (0.0, CLOCK_SEEN_S)]
        may = machine.clock_known and any(is_in_window(windows, at) for at in seen)
        waited_s = self._now_s - self._waits[1] if self._waits and self._waits[0] == trial.release else 0.0
        if not may and waited_s < WINDOW_PATIENCE_S - CLOCK_SEEN_S:
            name, clock = self._history.name(trial.commit), f"{seen[0]:%H:%M}" if machine.clock_known else "unknown"
            self._breach(
                f"{name} is put on trial outside of {', '.join(windows)} (clock {clock}, waited {waited_s:.0f} s)"
            )

    def _check_lock(self, trial: Trial) -> None:
        """Who holds a lock is not restarted before its patience ends; a first release and a way out do not ask.

        Its patience is for one release: it goes on where the lock was given back meanwhile and taken anew.
        """
        memory, since_s = self._machine.memory(), self._machine.locked_since_s
        if since_s is None or memory.confirmed is None or memory.safe is not None:
            return
        release = self._release(trial.release)
        wanted = {plan.name: plan.inputs for plan in release.services} if release is not None else {}
        asks = any(
            life.service == LOCKS and life.state.value == "running" and life.inputs != wanted.get(LOCKS)
            for life in self._machine.engine.lives()
        )
        held_s = self._now_s - since_s
        waited_s = self._lock_waited_s if self._waits and self._waits[0] == trial.release else 0.0
        if asks and held_s > LOCK_SEEN_S and waited_s < LOCK_PATIENCE_S - LOCK_SEEN_S:
            name = self._history.name(trial.commit)
            self._breach(f"{name} is put on trial, and {LOCKS} holds its lock for {held_s:.0f} s ({waited_s:.0f} s)")

    def hears_gate(self, signed: Signed) -> None:
        """Something was just said to the agent as a gate; only what the hub says now is a sign of its life."""
        if self._rollouts is not None and self._rollouts.is_said_now(signed):
            self._gate_said_s = self._now_s

    def _check_gate(self, before: Memory, after: Memory) -> None:
        """What is remembered of gates was said by the hub, and is never older than before."""
        gate, rollouts = after.gate, self._rollouts
        if gate is None or gate == before.gate or rollouts is None:
            return
        said = rollouts.said.get(gate.number)
        if said is None or msgspec.structs.replace(gate, issued_at=said.issued_at) != said:
            self._breach(f"gate {gate.number} is believed, and the hub never said it")
        if gate.number < self._gate:
            self._breach(f"gate {gate.number} is believed after gate {self._gate}")
        self._gate = max(self._gate, gate.number)

    def _check_open(self, trial: Trial) -> None:
        """A commit is begun in its stage, as the last gate has it that was heard; or by time."""
        rollouts = self._rollouts
        if rollouts is None:
            return
        gate, name = rollouts.said.get(self._gate), self._history.name(trial.commit)
        ours = gate is not None and gate.commit == trial.commit
        if gate is not None and ours and gate.state in {"paused", "halted", "aborted"}:
            self._breach(f"{name} is begun, and its rollout is {gate.state} (gate {gate.number} was heard)")
            return
        stage = rollouts.stage_of(trial.commit, self._machine.id)
        if gate is not None and ours and (gate.state == "done" or (stage is not None and stage <= gate.stage)):
            return
        unheard = self._machine.troubled_s > self._gate_said_s  # it may have been killed before it understood
        if rollouts.go_on_after_s is None:
            self._breach(f"{name} is begun outside of an open stage")
        elif not unheard and self._now_s < self._gate_said_s + rollouts.go_on_after_s - SILENCE_S:
            self._breach(f"{name} is begun outside of an open stage, and the hub was heard not long ago")

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


def _level(memory: Memory) -> Level | None:
    obeyed = memory.stop.obeyed if memory.stop is not None else None
    return obeyed.stop.level if obeyed is not None else None


def _was_aborted(before: Memory, after: Memory) -> bool:
    """Whether the way back was begun from a release that runs well, because its rollout was aborted."""
    left, back = before.confirmed, after.trial
    refusal = None if left is None else after.refusal_of(left.commit)
    if refusal is None or refusal.reason != ABORTED or back is None or back.kind is not TrialKind.BACK:
        return False
    return back.release in {deployed.release for deployed in before.earlier}


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _shown(deployed: Deployed | Trial | None) -> str:
    return "nothing" if deployed is None else f"release {deployed.release[:8]}"
