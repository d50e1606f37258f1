"""The one loop that changes the device: look at everything, decide one step, take it, write it down, look again.

It is level-triggered: whatever wakes it (a sample, a commit, a timer) carries nothing, and the wake-up is cleared
*before* looking, so one that is lost costs seconds and never correctness. It is also the only writer of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

import structlog
from msgspec.structs import replace

from metrica_agent.decisions import drift, guarding, remembering, repair, sparing, starting, stopping, upgrading
from metrica_agent.decisions.drift import Difference, Repair
from metrica_agent.decisions.gating import GATE
from metrica_agent.decisions.next_step import CONSENT, HELD, WORTH_REFUSING, decide, facts
from metrica_agent.decisions.orders import Failed, RedeployOrder, RestartOrder
from metrica_agent.decisions.sparing import RESTED, STRAINED, kept
from metrica_agent.decisions.steps import (
    SETBACK,
    Apply,
    ApplyFailed,
    Choice,
    Clean,
    Cleaning,
    Halt,
    Mend,
    Obey,
    Observed,
    Preflight,
    Rest,
    Setback,
    Settle,
    Stage,
    StageAgent,
    StageSafe,
    Step,
    Sweep,
    Switch,
    SwitchAgent,
    Wait,
    step_key,
)
from metrica_agent.decisions.trial import Ailments, noticed
from metrica_agent.decisions.world import (
    Decision,
    Desired,
    Memory,
    Refused,
    Release,
    Sample,
    Saying,
    TrialKind,
    Unacceptable,
)
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.ports import (
    Agents,
    Candidates,
    Clock,
    Files,
    Gates,
    Heads,
    Ledger,
    Machine,
    Orders,
    Releases,
    Runtime,
    Stops,
    Vigil,
)
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.identity import BootId, CommitId, DeviceId, ReleaseDigest, short
from metrica_fleet.retry import full_jitter
from metrica_fleet.stop import Level

log = structlog.stdlib.get_logger(__name__)
_T = TypeVar("_T")

RETRY_BASE_S = 2.0
RETRY_CAP_S = 60.0
SWEEP_REST_S = 600.0
"""Between sweeps: what the last one had to leave is still in use."""
BACK_PULL_S = 60.0
"""For images that are gone, on the way back: nothing good runs meanwhile, and the release before may have its own."""
CLEAN_S = 600.0
"""For one kind of cleaning; what is left then is left for the next time."""
CLEAN_REST_S = 3600.0
"""Between cleanings of one kind: what the last one left is in use, or not there."""
WITHHELD = (CONSENT, GATE, HELD, STRAINED, SETBACK)
"""How the rules begin by which a commit waits for somebody or something else than what runs."""
UP = frozenset({"running", "restarting", "paused"})
"""States in which a container counts as running."""
REST_BASE_S = 10.0
REST_CAP_S = 3600.0
REST_FORGOTTEN_S = 600.0
"""A rest that lasted this long is forgotten; before, who wakes what rests is stopped ever more rarely."""


class _StoppedError(Exception):
    """What was being done was ended, or not begun, because a stop begins or is lifted."""


@dataclass(slots=True)
class Convergence:
    """The state of the loop: memory, and what is only known to this process."""

    device: DeviceId
    boot_id: BootId
    memory: Memory
    ledger: Ledger
    releases: Releases
    runtime: Runtime
    vigil: Vigil
    machine: Machine
    files: Files
    candidates: Candidates
    recall: Callable[[CommitId], Awaitable[Desired | Unacceptable]]
    """What a commit of the mirror means for this device. Raises NotNow."""
    orders: Orders
    stops: Stops
    gates: Gates
    agents: Agents
    heads: Heads
    clock: Clock
    wake: Wake
    chance: Callable[[], float]
    on_record: Callable[[], None]
    """Called after anything was written down: there is something new to report."""
    steady_s: float = starting.STEADY_S
    agent_trial_s: float = upgrading.TRIAL_S
    """How long another version of the agent may take to prove itself."""
    pulse: Pulse = field(default_factory=Pulse)
    started_s: float = 0.0
    preflighted: ReleaseDigest | None = None
    preflighted_s: float = 0.0
    setbacks: dict[str, Setback] = field(default_factory=dict)
    differs_since_s: float | None = None
    ailments: Ailments = field(default_factory=Ailments)
    repaired_s: float = 0.0
    """When Compose was last run for the confirmed release: older samples say nothing about it."""
    last_choice: Choice | None = None
    halted: bool = False
    """Whether the workloads were stopped since they were to be: after a start nobody knows."""
    unwritten: int = 0
    """How often in a row the ledger could not be written."""
    _unsaid: list[Saying] = field(default_factory=list[Saying])
    """What was done while it could not be, to be told when it can."""
    _loaded: dict[ReleaseDigest, Release] = field(default_factory=dict["ReleaseDigest", "Release"])
    _working: asyncio.Task[object] | None = None
    """What a stop ends."""

    def heed(self) -> None:
        """Look at once: a stop may begin, or be lifted. What is being done then ends, whichever way it leads.

        The way back ends too, to be taken again a moment later: what is in force must be written down before.
        """
        self.wake.nudge()
        if self._working is not None and self._stop_begins():
            self._working.cancel()

    def _stop_begins(self) -> bool:
        begun = self._stop_begun()
        return begun is not None and begun.rule != stopping.NOTED  # which can wait for the step's end

    def _stop_begun(self) -> Choice | None:
        heard, candidate = self.stops.heard, self.candidates.candidate
        return stopping.begun(
            self.memory, heard, candidate, device=self.device, boot_id=self.boot_id, now_s=self.clock.now_s()
        )

    async def _unless_stopped(self, doing: Coroutine[object, object, _T]) -> _T:
        """Return what ``doing`` returns, in a task of its own that ends when a stop begins; it may have since the look.

        A full disk may have to be cleaned before a stop can be written down: what is done while the ledger can't be
        written goes on.
        """
        if self._stop_begins() and not self.unwritten:
            doing.close()
            raise _StoppedError
        working = asyncio.create_task(doing, name="step")  # noqa: TID251 - owned and awaited here
        self._working = None if self.unwritten else working
        try:
            await asyncio.wait([working])
        finally:
            self._working = None
            working.cancel()
            await asyncio.wait([working])
        if working.cancelled():
            raise _StoppedError
        return working.result()

    async def run(self) -> None:
        """Converge until cancelled. A ledger that can't write now (a full disk) holds everything up; nothing ends."""
        self.started_s = self.clock.now_s()
        while True:
            self.wake.clear()
            try:
                await self._become_steady()
                await self._look_and_step()
            except NotNow as error:
                self.unwritten += 1
                log.warning("ledger_unwritten", reason=error.reason, error=error.message)
                self.pulse.back_within(RETRY_CAP_S, "waits for the ledger")
                await asyncio.sleep(full_jitter(self.unwritten, self.chance(), RETRY_BASE_S, RETRY_CAP_S))

    async def _look_and_step(self) -> None:
        if await self._obeyed_at_once():
            return
        observed = await self._observe()
        now_s = self.clock.now_s()
        choice = decide(observed, now_s)
        if isinstance(choice.step, Wait):
            await self._note(choice, observed, now_s)
            steady_s = self.started_s + self.steady_s if self.memory.starts else choice.step.until_s
            await self.wake.wait_until(min(choice.step.until_s, steady_s))
        else:
            await self._take(choice, observed, now_s)

    async def _obeyed_at_once(self) -> bool:
        """Write down that a stop begins or ends, before anything else is looked at.

        While the ledger can't be written, that waits for its turn in the decision: a full disk may be cleaned first.
        """
        choice = None if self.unwritten or self.orders.given is not None else self._stop_begun()
        if choice is None or not isinstance(choice.step, Settle):
            return False
        trial = self.memory.trial
        facts = {"now_s": round(self.clock.now_s(), 1), "trial": short(trial.release) if trial else None}
        await self._record(choice.step, Decision(rule=choice.rule, step="settle", why=choice.why, facts=facts))
        self.last_choice = choice
        return True

    async def _become_steady(self) -> None:
        if self.memory.starts and self.clock.now_s() >= self.started_s + self.steady_s:
            await self._record(Settle(memory=starting.steady(self.memory)), None)

    # --- looking --------------------------------------------------------------------------------------------

    async def _observe(self) -> Observed:
        memory, candidate = self.memory, self.candidates.candidate
        complete = await self.releases.complete()
        subject = memory.trial.release if memory.trial else memory.standing
        release = await self._load(subject, complete)
        offered = await self._load(memory.resolved.release if memory.resolved else None, complete)
        sample = self.vigil.sample
        differs = self._differences(release, sample)
        self._notice(release, sample)
        level = stopping.level(memory)
        wanting = level is None and self._wanting() and not self._withheld()
        closely = memory.trial is not None or wanting or (differs != () and level in {None, Level.SAFE})
        self.vigil.look_at(release, memory.trial, closely=closely)
        self.files.look_at(memory.standing if memory.trial is None else None)
        return Observed(
            boot_id=self.boot_id,
            memory=memory,
            candidate=candidate,
            current=await self.releases.current(),
            complete=complete,
            release=release,
            sample=sample,
            watch=self.vigil.watch,
            preflighted=self.preflighted,
            preflighted_s=self.preflighted_s,
            ailing_since_s=dict(self.ailments.since_s) if memory.confirmed else {},
            differs=differs,
            differs_since_s=self.differs_since_s,
            setbacks=dict(self.setbacks),
            given=self.orders.given,
            strain=self.machine.strain,
            need=self.machine.need,
            awake=self._awake(sample),
            unwritten=self.unwritten > 0,
            gate=self.gates.heard,
            gate_heard_s=self.gates.heard_s,
            head=self.heads.heard,
            began_s=self.started_s,
            altered=self.files.altered,
            offered=offered,
            locks=await self.releases.locks(release.role) if release and self._wanting() else frozenset(),
            wall=self.clock.time_in(candidate.update.zone) if isinstance(candidate, Desired) else None,
            device=self.device,
            heard=self.stops.heard,
            halted=self.halted,
            running=self._running(sample),
            agents=self.agents.versions.seen if self.agents.versions is not None else None,
            git_answered_s=self.agents.answered_s,
        )

    def _running(self, sample: Sample | None) -> tuple[str, ...]:
        """Return what was seen to run since the workloads were stopped."""
        if not self._is_halted():
            self.halted = False
        if not self.halted or sample is None or sample.containers is None or sample.at_s < self.repaired_s:
            return ()
        return tuple(sorted({one.service or one.name for one in sample.containers if one.state in UP}))

    def _is_halted(self) -> bool:
        memory, level = self.memory, stopping.level(self.memory)
        empty = memory.confirmed is None and memory.safe is None and memory.trial is None
        return level is Level.HALT or (level is Level.FREEZE and empty)

    def _notice(self, release: Release | None, sample: Sample | None) -> None:
        if self.memory.trial is not None or self.memory.safe is not None or self._is_halted():
            self.ailments = Ailments()
        elif release is not None and sample is not None and sample.at_s >= self.repaired_s:
            self.ailments = noticed(self.ailments, release, sample, self.memory.resting)

    def _awake(self, sample: Sample | None) -> tuple[str, ...]:
        if sample is None or sample.at_s < self.repaired_s:
            return ()
        awake = drift.awake(sample, self.memory.resting)
        for key, setback in list(self.setbacks.items()):
            lasted_s = sample.at_s - setback.not_before_s
            if setback.reason == RESTED and not awake and lasted_s > REST_FORGOTTEN_S:
                del self.setbacks[key]
        return awake

    def _wanting(self) -> bool:
        candidate, memory = self.candidates.candidate, self.memory
        if not isinstance(candidate, Desired) or memory.refusal_of(candidate.commit):
            return False
        return memory.confirmed is None or memory.confirmed.commit != candidate.commit

    def _withheld(self) -> bool:
        """Whether a release waits for what may take days, and shows in no container: nothing is looked at closely then.

        What runs is looked at anew before it begins all the same.
        """
        return self.last_choice is not None and self.last_choice.rule.startswith(WITHHELD)

    async def _load(self, digest: ReleaseDigest | None, complete: frozenset[ReleaseDigest]) -> Release | None:
        if digest is None or digest not in complete:
            return None
        if digest not in self._loaded:
            release = await self.releases.load(digest)
            if release is None:
                return None
            needed = kept(self.memory)
            self._loaded = {one: known for one, known in self._loaded.items() if one in needed} | {digest: release}
        return self._loaded[digest]

    def _differences(self, release: Release | None, sample: Sample | None) -> tuple[Difference, ...]:
        """Return what differs, and keep the time since when: memory of one process, cleared when all is well."""
        stale = sample is None or sample.at_s < self.repaired_s
        if self.memory.trial is not None or self._is_halted() or release is None or sample is None or stale:
            self.differs_since_s = None
            return ()
        differs = drift.differences(release, sample, self.memory.portrait, self.boot_id, self.memory.resting)
        if not differs:
            self.differs_since_s = None
        elif self.differs_since_s is None:
            self.differs_since_s = sample.at_s
        return differs

    # --- taking a step --------------------------------------------------------------------------------------

    async def _take(self, choice: Choice, observed: Observed, now_s: float) -> None:
        """Take one step, and write down the decision with what came of it."""
        step, began_s = choice.step, self.clock.now_s()
        within_s = guarding.DISK_S if isinstance(step, Settle | Switch) else guarding.STAGE_S
        self.pulse.back_within(within_s, f"takes the step {type(step).__name__.lower()}")
        try:
            settled = await self._performed(step, began_s)
        except _StoppedError:
            log.info("step_ended", step=type(step).__name__.lower(), reason="stopped")
            self.pulse.works()
            return
        self.pulse.works()
        try:
            await self._record(settled, _decision(choice, observed, now_s))
        except NotNow:
            if isinstance(step, Clean):  # its effect is there, and there are only so many kinds of it
                self._unsaid += settled.sayings
            raise
        self.last_choice = choice
        if isinstance(step, Preflight) and step_key(step) not in self.setbacks:
            self.preflighted = step.release if self.memory.refusal_of(step.desired.commit) is None else None
            self.preflighted_s = now_s

    async def _performed(self, step: Step, began_s: float) -> Settle:
        """Perform ``step``, and return what came of it, be it a setback."""
        try:
            settled = await self._perform(step)
        except ApplyFailed as error:
            settled = self._not_applied(step, error)
        except Unusable as error:
            settled = self._given_up(step, error)
            self.setbacks.pop(step_key(step), None)
        except NotNow as error:
            settled = self._put_off(step, error, began_s)
        except Ours as error:
            log.error("promise_broken", reason=error.reason, error=error.message, exc_info=error)  # noqa: TRY400
            settled = self._put_off(step, NotNow(error.message, reason=error.reason, retry_after_s=RETRY_CAP_S))
        else:
            if not isinstance(step, Sweep | Rest | Clean) and (not isinstance(step, Apply) or step.trial):
                self.setbacks.pop(step_key(step), None)
        return settled

    async def _perform(self, step: Step) -> Settle:
        memory = self.memory
        match step:
            case Settle():
                return step
            case Stage():
                staged = await self._unless_stopped(self.runtime.stage(step.desired))
                return remembering.staged(memory, staged)
            case Preflight():
                return await self._preflight(step)
            case StageAgent() | SwitchAgent():
                return await self._change_agent(step)
            case StageSafe():
                safe = await self._unless_stopped(self.runtime.stage_safe())
                return remembering.safe_mode_staged(memory, safe)
            case Switch():
                await self.releases.switch(step.release)
            case Apply() | Mend() | Obey():
                return await self._touch(step)
            case Rest() | Halt() | Clean() | Sweep():
                return await self._spare(step)
            case Wait():
                pass
            case _:
                assert_never(step)
        return Settle(memory=memory)

    async def _change_agent(self, step: StageAgent | SwitchAgent) -> Settle:
        versions = self.agents.versions
        if versions is None:
            raise Ours("an agent without a launcher is to change its version", reason="no-launcher")
        match step:
            case StageAgent():
                self.pulse.back_within(guarding.INSTALL_S, "installs another version of the agent")
                await self._unless_stopped(versions.stage(step.agent, step.commit))
                return upgrading.staged(self.memory, step)
            case SwitchAgent():
                await versions.begin(step.agent.name, within_s=self.agent_trial_s, needs_git=step.needs_git)
                self.agents.restart()
                await asyncio.sleep(guarding.WORK_S)  # this process is being ended
                return Settle(memory=self.memory)
            case _:
                assert_never(step)

    async def _touch(self, step: Apply | Mend | Obey) -> Settle:
        """Do something to what runs."""
        match step:
            case Apply():
                return await self._apply(step)
            case Mend():
                return await self._mend(step)
            case Obey():
                return await self._obey(step)
            case _:
                assert_never(step)

    async def _preflight(self, step: Preflight) -> Settle:
        release = await self._loaded_now(step.release)
        self.pulse.back_within(
            guarding.preflight_s(release, step.desired.limits.pull_deadline_s), "preflights a release"
        )
        await self._unless_stopped(self.runtime.preflight(self._with_time_left(step), release))
        self._loaded.pop(step.release, None)  # a stick may have led to its being staged anew
        return remembering.preflighted(self.memory, step.desired.commit, step.release)

    def _with_time_left(self, step: Preflight) -> Desired:
        """Return what is wanted, with as much time for its images as earlier tries have left."""
        setback, limits = self.setbacks.get(step_key(step)), step.desired.limits
        if setback is None or setback.reason not in WORTH_REFUSING:
            return step.desired
        left_s = setback.first_s + limits.pull_deadline_s - self.clock.now_s()
        return replace(step.desired, limits=replace(limits, pull_deadline_s=max(left_s, 1.0)))

    async def _apply(self, step: Apply) -> Settle:
        release, trial = await self._loaded_now(step.release), self.memory.trial
        self.pulse.back_within(guarding.apply_s(release), "applies a release")
        if trial is None or not step.trial:
            return await self._set_right(step, release)
        counted = remembering.applying(self.memory, trial)
        await self._record(Settle(memory=counted), None)
        pull_s = BACK_PULL_S if trial.kind is TrialKind.BACK else None
        try:
            await self._unless_stopped(self.runtime.apply(release, pull_s=pull_s))
        except ApplyFailed:
            raise
        except NotNow:
            await self._record(Settle(memory=remembering.not_applied(self.memory, trial)), None)
            raise
        return Settle(memory=remembering.applied(counted, self.clock.now_s()))

    async def _obey(self, step: Obey) -> Settle:
        """Whatever comes of it is the answer: what is broken then is found, and mended, as ever."""
        try:
            release = await self._loaded_now(step.release)
            self.pulse.back_within(guarding.apply_s(release), "does what was ordered")
            match step.work:
                case RestartOrder(service=service):
                    await self._unless_stopped(self.runtime.restart(release, service))
                case RedeployOrder():
                    names = tuple(one.name for one in release.services if one.name not in self.memory.resting)
                    wanted = Repair(services=names, recreate=names)
                    await self._unless_stopped(self.runtime.repair(release, wanted))
                case _:
                    assert_never(step.work)
        except (NotNow, Unusable) as error:
            failed = Failed(reason=error.reason, message=error.message)
            return Settle(memory=self.memory, obeyed=step.given.id, failed=failed)
        finally:
            self._note_repair()
        return Settle(memory=self.memory, obeyed=step.given.id)

    async def _loaded_now(self, digest: ReleaseDigest) -> Release:
        release = await self.releases.load(digest)
        if release is None:
            raise NotNow(f"release {short(digest)} is not on this disk any more", reason="release-lost")
        return release

    async def _spare(self, step: Rest | Halt | Clean | Sweep) -> Settle:
        match step:
            case Halt():
                await self._unless_stopped(self.runtime.halt())
                self.halted = True
                self._note_repair()
                return Settle(memory=self.memory)
            case Rest():
                return await self._rest(step)
            case Clean():
                return await self._clean(step)
            case Sweep():
                await self._remember_images(step.keep)
                await self._unless_stopped(self.runtime.sweep(step.keep))
                self._note_setback(step_key(step), "swept", "it was swept just now", SWEEP_REST_S)
                return Settle(memory=self.memory)
            case _:
                assert_never(step)

    async def _rest(self, step: Rest) -> Settle:
        """Written down first: what is stopped before that, and then forgotten, would be taken for broken."""
        settled = sparing.rested(self.memory, step.services)
        await self._record(Settle(memory=settled.memory), None)
        await self._unless_stopped(self.runtime.rest(step.services))
        before = self.setbacks.get(step_key(step))
        attempts = before.attempts + 1 if before else 1
        wait_s = full_jitter(attempts, self.chance(), REST_BASE_S, REST_CAP_S)
        self._note_setback(step_key(step), RESTED, "it was put to rest just now", wait_s)
        self._note_repair()
        return settled

    async def _clean(self, step: Clean) -> Settle:
        """What can't be written down now is told later: on a full disk this must go on all the same."""
        self._note_setback(step_key(step), "cleaned", "it was cleaned just now", CLEAN_REST_S)
        if step.what is Cleaning.RELEASES and not self.unwritten:
            await self._record(Settle(memory=sparing.least(self.memory)), None)
            await self._remember_images(step.keep)
        try:
            async with asyncio.timeout(CLEAN_S):
                came = await self._unless_stopped(self.runtime.clean(step))
        except TimeoutError as error:
            message = f"cleaning {step.what} did not end within {CLEAN_S:g} s"
            raise NotNow(message, reason="cleaning-unfinished") from error
        await self.machine.look()
        return sparing.cleaned(self.memory, step.what, came)

    async def _remember_images(self, keep: frozenset[ReleaseDigest]) -> None:
        """Note, before releases go, which images they leave behind."""
        images = await self.runtime.images(await self.releases.complete() - keep)
        await self._record(Settle(memory=sparing.spared(self.memory, images)), None)

    async def _set_right(self, step: Apply, release: Release) -> Settle:
        """Make what runs be what it is to be: told and counted before, so that a crash in it counts too."""
        if not step.differences:
            await self._unless_stopped(self.runtime.apply(release, step.resting))
        else:
            counted = repair.repairing(self.memory, step, self.boot_id, self.clock.now_s())
            await self._record(counted, None)
            anew = any(one.repairs > 1 and one.subject in _subjects(step) for one in counted.memory.contests)
            wanted = drift.repair_of(step.differences, release, self.memory.portrait, anew=anew)
            await self._unless_stopped(self.runtime.repair(release, wanted))
        self._note_repair()
        if self.memory.safe is None and self.memory.resting != step.resting:
            return sparing.resumed(self.memory, step.resting)
        return remembering.set_right(self.memory, step.release, tuple(one.message for one in step.differences))

    async def _mend(self, step: Mend) -> Settle:
        digest = step.altered.release
        now_s = self.clock.now_s()
        await self._record(repair.mending(self.memory, step.altered, digest, self.boot_id, now_s), None)
        await self._unless_stopped(self.runtime.mend(digest, await self._meaning(digest)))
        self._loaded.pop(digest, None)
        self.files.mended()
        mending = self.memory.mending
        if mending is not None and mending.contents:
            release = await self._loaded_now(digest)
            await self._unless_stopped(self.runtime.repair(release, Repair(contents=mending.contents)))
            self._note_repair()
        return repair.mended(self.memory, digest, step.altered.differences)

    def _note_repair(self) -> None:
        """What runs was changed just now: what ailed it before says nothing any more, nor do older samples."""
        self.repaired_s = self.clock.now_s()
        self.ailments = Ailments()

    async def _meaning(self, digest: ReleaseDigest) -> Desired | None:
        """Return the commit that means the confirmed release, when the mirror has it."""
        confirmed = self.memory.confirmed
        if self.memory.safe is not None or confirmed is None or confirmed.release != digest:
            return None
        try:
            meant = await self.recall(confirmed.commit)
        except (NotNow, Unusable) as error:
            log.info("commit_not_recalled", commit=confirmed.commit, reason=error.reason, error=error.message)
            return None
        return meant if isinstance(meant, Desired) else None

    def _note_setback(self, key: str, reason: str, message: str, wait_s: float, began_s: float | None = None) -> None:
        now_s, before = self.clock.now_s(), self.setbacks.get(key)
        first_s = now_s if began_s is None else began_s
        if before is not None and before.reason == reason:
            first_s = before.first_s
        self.setbacks[key] = Setback(
            reason=reason,
            message=message,
            first_s=first_s,
            attempts=before.attempts + 1 if before else 1,
            not_before_s=now_s + wait_s,
        )

    # --- when a step can't be taken -------------------------------------------------------------------------

    def _given_up(self, step: Step, error: Unusable) -> Settle:
        """The step will never work: the commit or release that asks for it is refused."""
        memory = self.memory
        match step:
            case Stage(desired=desired):
                refusal = Refused(commit=desired.commit, reason=error.reason, message=error.message)
                return remembering.refused(memory, refusal)
            case StageAgent(in_place=False):
                return upgrading.unstageable(memory, step, error.reason, error.message)
            case Preflight(desired=desired):
                refusal = Refused(commit=desired.commit, reason=error.reason, message=error.message)
                return remembering.refused(memory, refusal)
            case _:
                return self._put_off(step, NotNow(error.message, reason=error.reason))

    def _not_applied(self, step: Step, error: ApplyFailed) -> Settle:
        """Compose refused the release: that ends a trial, and puts a repair off."""
        trial = self.memory.trial
        if trial is None or not isinstance(step, Apply) or not step.trial:
            return self._put_off(step, error)
        why = remembering.Failure(reason=error.reason, message=error.message, output=error.output)
        now_s = self.clock.now_s()
        return remembering.failed(self.memory, trial, why, boot_id=self.boot_id, now_s=now_s)

    def _put_off(self, step: Step, error: NotNow, began_s: float | None = None) -> Settle:
        """The world is in the way: try again later, and say so once for each reason. ``began_s``: when it was tried."""
        key = step_key(step)
        before = self.setbacks.get(key)
        attempts = before.attempts + 1 if before else 1
        if isinstance(step, StageAgent):
            jittered_s = upgrading.again_in(attempts, self.chance())
        else:
            jittered_s = full_jitter(attempts, self.chance(), RETRY_BASE_S, RETRY_CAP_S)
        self._note_setback(key, error.reason, error.message, max(error.retry_after_s or 0.0, jittered_s), began_s)
        if isinstance(step, Preflight) and error.reason in {"release-altered", "release-lost"}:
            return remembering.staged_again(self.memory)
        if error.reason == "commit-missing":
            self.candidates.forget()
        told_already = before is not None and before.reason == error.reason
        memory = self.memory
        if isinstance(step, Apply) and not step.trial:
            memory = remembering.safe_mode_doubted(memory, step.release)
        if told_already or isinstance(step, Sweep | Clean):
            return Settle(memory=memory)
        return remembering.waiting(memory, _commit_of(step), error.reason, error.message)

    # --- writing down ---------------------------------------------------------------------------------------

    async def _note(self, choice: Choice, observed: Observed, now_s: float) -> None:
        """Write down a wait when it is for something else than the last one: a quiet device writes nothing."""
        last = self.last_choice
        if last is None or (last.rule, last.why) != (choice.rule, choice.why):
            await self._record(Settle(memory=self.memory), _decision(choice, observed, now_s))
            self.last_choice = choice

    async def _record(self, settled: Settle, decision: Decision | None) -> None:
        changed = settled.memory if settled.memory != self.memory else None
        if changed is None and settled.obeyed is None and not settled.sayings and decision is None:
            return
        sayings = (*self._unsaid, *settled.sayings)
        await self.ledger.record(self.clock.stamp(), memory=changed, sayings=sayings, decision=decision)
        self._unsaid, self.unwritten = [], 0
        self.memory = settled.memory
        if settled.obeyed is not None:
            await self.orders.done(settled.obeyed, settled.failed)
        for saying in settled.sayings:
            log.info(saying.kind, reason=saying.reason, message=saying.message, commit=short(saying.commit))
        self._forget_other_releases()
        self.on_record()

    def _forget_other_releases(self) -> None:
        """Setbacks and preflights of releases that are no longer wanted would only grow."""
        keep = kept(self.memory)
        if self.preflighted not in keep:
            self.preflighted = None
        wanted = self.candidates.candidate.commit if self.candidates.candidate else None
        for key in list(self.setbacks):
            _, _, subject = key.partition(":")
            if subject and subject not in keep and subject != wanted:
                del self.setbacks[key]


def _subjects(step: Apply) -> frozenset[str]:
    return frozenset(one.subject for one in step.differences)


def _commit_of(step: Step) -> CommitId | None:
    match step:
        case Stage() | Preflight():
            return step.desired.commit
        case StageAgent():
            return step.commit
        case _:
            return None


def _decision(choice: Choice, observed: Observed, now_s: float) -> Decision:
    name = type(choice.step).__name__.lower()
    return Decision(rule=choice.rule, step=name, why=choice.why, facts=facts(observed, now_s))
