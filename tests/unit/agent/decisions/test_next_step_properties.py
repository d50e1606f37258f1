"""``decide`` under whatever may happen, in any order: commits, effects that fail, deaths, reboots, orders."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import desired, init, observed, release, sample, silence, web

from metrica_agent.decisions import remembering, starting, stopping
from metrica_agent.decisions.gating import GATE
from metrica_agent.decisions.next_step import decide, kept
from metrica_agent.decisions.orders import (
    Given,
    HistoryOrder,
    HoldOrder,
    Order,
    RedeployOrder,
    RestartOrder,
    SafeModeOrder,
)
from metrica_agent.decisions.steps import (
    Apply,
    Choice,
    Clean,
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
    Sweep,
    Switch,
    SwitchAgent,
    Wait,
    step_key,
)
from metrica_agent.decisions.trial import Finding, Watch
from metrica_agent.decisions.world import Deployed, Desired, Heard, Memory, Refused, Sample, TrialKind, Unacceptable
from metrica_fleet.gate import EVERYBODY, Gate
from metrica_fleet.identity import BootId, CommitId, DeviceId, ReleaseDigest
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.stop import Level, Stop, StopOrder

COMMITS = [CommitId(str(number) * 40) for number in range(1, 9)]
RELEASES = [ReleaseDigest(letter * 64) for letter in "abcd"]
SAFE = ReleaseDigest("e" * 64)
MEANS = dict(zip(COMMITS, RELEASES * 2, strict=True))
"""Two commits mean each release: a refused release comes again under another name."""
PATIENCE = 80
"""Steps within which a world that helps must come to rest."""
ILL = Finding(subject="web", reason="unhealthy", message="web is unhealthy", hopeless=True)
OUTCOMES = st.sampled_from(["done", "done", "done", "unusable", "not-now"])
ORDERS: list[Order] = [
    SafeModeOrder(on=True, reason="test"),
    SafeModeOrder(on=False, reason="test"),
    HoldOrder(on=True, reason="test"),
    HoldOrder(on=False, reason="test"),
    *(HistoryOrder(commit=commit, reason="test") for commit in COMMITS[:2]),
    RestartOrder(service="web", reason="test"),
    RestartOrder(service="none", reason="test"),
    RedeployOrder(reason="test"),
]


DEVICE = DeviceId("pi-01")
STOPS = st.lists(
    st.builds(
        Stop,
        level=st.sampled_from(Level),
        scope=st.sampled_from(["fleet", "role:camera", "device:pi-01", "device:pi-02", "tag:north"]),
    ),
    max_size=2,
).map(tuple)


GATED = RolloutPolicy(stages=(RolloutStage(name="all", share=1.0),), prefetch_s=0.0)


GATE_STATES = ("open", "open", "open", "done", "paused", "halted", "aborted", "aborted-back")
RESTS = {"rest", "rest.empty", "rest.safe", "rest.unwell", "held", "stop"}


class Deciding(RuleBasedStateMachine):
    """A device without effects: each step of ``decide`` is taken as the converge loop takes it, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.boots = 1000.0, 1
        self.memory = Memory()
        self.candidate: Desired | Unacceptable | None = None
        self.current: ReleaseDigest | None = None
        self.complete: set[ReleaseDigest] = set()
        self.preflighted: ReleaseDigest | None = None
        self.setbacks: dict[str, Setback] = {}
        self.watch, self.sample = Watch(), self.well()
        self.given: Given | None = None
        self.orders = self.fresh = self.numbers = 0
        self.heard: Heard | None = None
        self.halted, self.up = False, True
        self.refused: dict[CommitId, set[str]] = {}
        self.gate: Gate | None = None

    # --- what is seen ---

    @property
    def boot(self) -> BootId:
        return BootId(f"boot-{self.boots}")

    def well(self) -> Sample | None:
        if self.current is None:
            return replace(sample(self.now_s), containers=())
        return sample(self.now_s, web(self.current), init(self.current))

    def observed(self) -> Observed:
        memory = self.memory
        subject = memory.trial.release if memory.trial else memory.standing
        return replace(
            observed(memory),
            boot_id=self.boot,
            candidate=self.candidate,
            current=self.current,
            complete=frozenset(self.complete),
            release=release(subject) if subject in self.complete and subject is not None else None,
            sample=self.sample,
            watch=self.watch if memory.trial else Watch(),
            preflighted=self.preflighted,
            setbacks=dict(self.setbacks),
            given=self.given,
            device=DEVICE,
            heard=self.heard,
            halted=self.halted,
            running=("web",) if self.halted and self.up else (),
            gate=self.gate,
        )

    def chosen(self) -> Choice:
        seen = self.observed()
        choice = decide(seen, self.now_s)
        assert decide(seen, self.now_s) == choice
        return choice

    # --- what happens ---

    @rule(commit=st.sampled_from(COMMITS), gated=st.booleans())
    def offer(self, commit: CommitId, *, gated: bool) -> None:
        self.candidate = replace(desired(commit), rollout=GATED if gated else None)

    @rule(commit=st.sampled_from(COMMITS), state=st.sampled_from(GATE_STATES), stage=st.sampled_from([-1, 0, 0]))
    def the_hub_says(self, commit: CommitId, state: str, stage: int) -> None:
        self.numbers += 1
        self.gate = Gate(
            fleet="home",
            number=self.numbers,
            issued_at=datetime(2026, 1, 1, tzinfo=UTC),
            commit=commit,
            stage=stage,
            threshold=EVERYBODY * (stage + 1),
            state=state.removesuffix("-back"),  # type: ignore[arg-type]
            revert=state.endswith("-back"),
        )

    @rule(commit=st.sampled_from(COMMITS))
    def offer_what_can_not_be_used(self, commit: CommitId) -> None:
        self.candidate = Unacceptable(commit=commit, reason="not-toml", message="m")

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def all_is_seen_well(self) -> None:
        self.sample, steady_s = self.well(), self.watch.steady_since_s
        self.watch = Watch(steady_since_s=self.now_s if steady_s is None else steady_s, last_sample_s=self.now_s)

    @rule()
    def something_is_seen_ill(self) -> None:
        self.watch = Watch(verdict=ILL, last_sample_s=self.now_s)

    @rule()
    def the_engine_is_silent(self) -> None:
        self.sample = silence(self.now_s)
        lost = Finding(subject="engine", reason="engine-unresponsive", message="m")
        self.watch = Watch(engine_lost=True, waiting_for=lost, last_sample_s=self.now_s)

    @rule()
    def the_engine_is_back(self) -> None:
        self.watch = replace(self.watch, waiting_for=None)
        self.sample = self.well()

    @rule()
    def the_agent_dies(self) -> None:
        self.preflighted, self.setbacks, self.sample, self.watch = None, {}, None, Watch()
        self.halted, self.up = False, True
        counted = starting.started(self.memory, self.boot, self.now_s)
        self.settle(counted)

    @rule()
    def the_machine_reboots(self) -> None:
        self.boots += 1
        self.the_agent_dies()

    @rule()
    def the_agent_is_steady(self) -> None:
        self.memory = starting.steady(self.memory)

    @precondition(lambda self: self.given is None)
    @rule(order=st.sampled_from(ORDERS))
    def somebody_orders(self, order: Order) -> None:
        self.orders += 1
        self.given = Given(id=str(self.orders), order=order)

    @rule(stops=STOPS)
    def somebody_stops_or_lifts(self, stops: tuple[Stop, ...]) -> None:
        self.numbers += 1
        order = StopOrder(fleet="home", number=self.numbers, issued_at=datetime(2026, 1, 1, tzinfo=UTC), stops=stops)
        self.heard = Heard(order=order, by="alice")

    @rule(commit=st.sampled_from(COMMITS), stops=STOPS, usable=st.booleans())
    def git_stops_or_lifts(self, commit: CommitId, stops: tuple[Stop, ...], *, usable: bool) -> None:
        refused = Unacceptable(commit=commit, reason="not-toml", message="m", stops=stops)
        self.candidate = replace(desired(commit), stops=stops) if usable else refused

    @rule()
    def something_starts_a_workload(self) -> None:
        self.up = True

    @rule(lost=st.sampled_from(RELEASES))
    def a_release_is_lost(self, lost: ReleaseDigest) -> None:
        self.complete.discard(lost)

    @rule(steps=st.integers(min_value=2, max_value=8))
    def all_goes_well_for_a_while(self, steps: int) -> None:
        self.sample = self.well()
        for _ in range(steps):
            self.take(self.chosen(), "done")

    @rule(commit=st.sampled_from(COMMITS))
    def a_trial_fails(self, commit: CommitId) -> None:
        self.candidate = desired(commit)
        self.all_goes_well_for_a_while(6)
        self.something_is_seen_ill()
        self.all_goes_well_for_a_while(1)

    @rule(commit=st.sampled_from(COMMITS), state=st.sampled_from(GATE_STATES), stage=st.sampled_from([-1, 0, 0]))
    def a_commit_meets_its_gate(self, commit: CommitId, state: str, stage: int) -> None:
        self.offer(commit, gated=True)
        self.the_hub_says(commit, state, stage)
        self.all_goes_well_for_a_while(9)

    @rule(outcome=OUTCOMES)
    def step(self, outcome: str) -> None:
        self.take(self.chosen(), outcome)

    # --- what must come of it ---

    @property
    def free(self) -> bool:
        """Whether nothing is stopped, and nothing will be once all that was heard is obeyed."""
        memory = self.memory
        known = stopping.known(memory, self.heard, self.candidate)
        was = stopping.level(memory) is not None
        return not was and stopping.in_force(known, memory, DEVICE) is None and not (known.in_git or known.ordered)

    @precondition(
        lambda self: self.memory.safe is not None and self.memory.held is None and self.given is None and self.free
    )
    @rule()
    def a_newer_commit_leads_out_of_safe_mode(self) -> None:
        self.fresh += 1
        commit = CommitId(f"{self.fresh:040x}")
        self.candidate, self.setbacks = desired(commit), {}
        self.help_until(lambda: self.memory.safe is None or self.memory.refusal_of(commit) is not None)
        assert self.memory.safe is None
        assert self.memory.trial is not None or self.memory.confirmed is not None

    @precondition(lambda self: self.memory.safe is not None and self.given is None and self.free)
    @rule()
    def an_order_leads_out_of_safe_mode(self) -> None:
        self.given = Given(id="out", order=SafeModeOrder(on=False, reason="test"))
        self.take(self.chosen(), "done")
        assert self.memory.safe is None

    @rule()
    def a_world_that_helps_lets_it_come_to_rest(self) -> None:
        self.help_until(lambda: False)

    def help_until(self, done: object) -> None:
        """Let every effect succeed and everything be well, until ``done`` or a wait that is a rest."""
        assert callable(done)
        choice = self.chosen()
        for _ in range(PATIENCE):
            if done():
                return
            self.all_is_seen_well()
            choice = self.chosen()
            self.take(choice, "done")
            if isinstance(choice.step, Wait):
                if choice.rule == "stop":
                    self.is_obeyed()
                if choice.rule in RESTS or choice.rule.startswith(GATE):
                    return
                self.now_s = max(choice.step.until_s, self.now_s)
        pytest.fail(f"no rest within {PATIENCE} steps; the last was {choice.rule}")

    def is_obeyed(self) -> None:
        """A device at rest under a stop stands where that wants it."""
        memory = self.memory
        assert memory.stop is not None
        assert memory.stop.done
        assert memory.trial is None
        match stopping.level(memory):
            case Level.HALT:
                assert not self.up
            case Level.SAFE:
                assert memory.safe is not None
                assert memory.safe.applied
                assert self.current == memory.safe.release
            case _:
                assert memory.confirmed is not None or memory.safe is not None or not self.up
        if memory.standing is not None and memory.standing in self.complete:
            assert self.current == memory.standing

    @invariant()
    def what_runs_is_accounted_for(self) -> None:
        memory = self.memory
        if memory.trial is not None and memory.trial.kind is TrialKind.BACK:
            assert memory.confirmed is not None
            assert memory.trial.release == memory.confirmed.release
        assert len({refused.commit for refused in memory.refused}) == len(memory.refused)

    # --- taking a step, as the converge loop does ---

    def take(self, choice: Choice, outcome: str) -> None:  # noqa: C901, PLR0912 one case for each step
        step = choice.step
        self.may_be_taken(choice)
        if outcome != "done" and not isinstance(step, Settle | Obey | Wait):
            self.fail(step, outcome)
            return
        self.setbacks.pop(step_key(step), None)
        match step:
            case Settle():
                self.settle(step)
            case Stage():
                digest = MEANS.get(step.desired.commit, ReleaseDigest(f"f{step.desired.commit}".ljust(64, "0")))
                self.complete.add(digest)
                self.settle(remembering.staged(self.memory, Deployed(commit=step.desired.commit, release=digest)))
            case StageAgent() | SwitchAgent():
                raise AssertionError("this device has no launcher")
            case StageSafe():
                self.complete.add(SAFE)
                self.settle(remembering.safe_mode_staged(self.memory, SAFE))
            case Preflight():
                assert step.release in self.complete
                self.preflighted = step.release
            case Switch():
                self.may_run(step.release)
                self.current = step.release
            case Apply():
                self.apply(step)
            case Mend():
                self.complete.add(step.altered.release)  # of its spare copy, or exported again
            case Halt():
                self.halted, self.up = True, False
            case Rest() | Clean():
                raise AssertionError("a machine that is well needs neither")
            case Sweep():
                assert kept(self.memory) <= step.keep
                self.complete &= step.keep
            case Obey():
                self.may_run(step.release)
                assert self.memory.trial is None
                assert self.current == step.release
                self.settle(Settle(memory=self.memory, obeyed=step.given.id))
            case Wait():
                pass

    def may_be_taken(self, choice: Choice) -> None:
        """While a stop is in force no step is begun but the way back and what leads into safe mode."""
        level, memory, step = stopping.level(self.memory), self.memory, choice.step
        if choice.rule.startswith("stop"):
            return
        if memory.held is not None and memory.trial is None and self.given is None and self.free:
            assert isinstance(step, Wait) or choice.rule == "gate.heard", choice.rule
        if level is None or isinstance(step, Settle | Wait):
            return
        assert level is not Level.HALT
        assert isinstance(step, StageSafe | Switch | Apply | Mend)
        back = memory.trial is not None and memory.trial.kind is TrialKind.BACK
        assert memory.safe is not None or (back and level is Level.FREEZE)

    def may_run(self, digest: ReleaseDigest) -> None:
        """Nothing runs but what the ledger names: never two releases, never one that it does not know."""
        memory = self.memory
        assert digest == (memory.trial.release if memory.trial else memory.standing)
        assert digest in self.complete

    def apply(self, step: Apply) -> None:
        self.may_run(step.release)
        assert self.current == step.release
        if step.trial:
            assert self.memory.trial is not None
            self.memory = remembering.applying(self.memory, self.memory.trial)
            self.memory = remembering.applied(self.memory, self.now_s)
            self.watch = Watch()
        else:
            self.settle(remembering.set_right(self.memory, step.release, ()))

    def fail(self, step: object, outcome: str) -> None:
        if outcome == "unusable" and isinstance(step, Stage | Preflight):
            refusal = Refused(commit=step.desired.commit, reason="bad", message="m")
            self.settle(remembering.refused(self.memory, refusal))
            return
        assert isinstance(step, Stage | StageSafe | Preflight | Switch | Apply | Mend | Halt | Sweep)
        key = step_key(step)
        before = self.setbacks.get(key)
        self.setbacks[key] = Setback(
            reason="image-unreachable",
            message="m",
            first_s=before.first_s if before else self.now_s,
            attempts=before.attempts + 1 if before else 1,
            not_before_s=self.now_s + 5,
        )

    def settle(self, settled: Settle) -> None:
        """Let memory be another; what may not happen between the two is checked here."""
        before, after = self.memory, settled.memory
        if after.trial is not None and (before.trial is None or before.trial.release != after.trial.release):
            self.begin(before, after)
        if before.confirmed is not None:
            assert after.confirmed is not None
        for refused in after.refused:
            if before.refusal_of(refused.commit) is None and refused.release is not None:
                assert before.trial is not None
        forgotten = {one.commit for one in before.refused} - {one.commit for one in after.refused}
        assert forgotten <= set(after.allowed) or len(after.refused) == remembering.REFUSED_KEPT
        self.memory = after
        if settled.obeyed is not None:
            self.given = None
        if self.preflighted not in kept(after):
            self.preflighted = None

    def begin(self, before: Memory, after: Memory) -> None:
        trial = after.trial
        assert trial is not None
        self.watch = Watch()
        if trial.kind is TrialKind.BACK:
            return
        assert before.trial is None
        assert before.held is None
        assert stopping.level(before) is None
        assert before.refusal_of(trial.commit) is None
        assert trial.release not in {refused.release for refused in before.refused}
        assert trial.release in self.complete
        assert trial.release == self.preflighted
        if isinstance(self.candidate, Desired) and self.candidate.rollout is not None:
            gate = before.gate
            assert gate is not None
            assert (gate.commit, gate.number) == (trial.commit, self.gate.number if self.gate else None)
            assert gate.state == "done" or (gate.state == "open" and gate.stage == 0)


Deciding.TestCase.settings = settings(
    max_examples=settings().max_examples * 3 // 2,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestDeciding = Deciding.TestCase
