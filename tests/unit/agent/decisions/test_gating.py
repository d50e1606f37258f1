from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import (
    BOOT,
    NEW,
    NEW_COMMIT,
    OLD,
    OLD_COMMIT,
    desired,
    init,
    observed,
    release,
    sample,
    settled,
    trial,
    web,
)

from metrica_agent.decisions import gating, remembering
from metrica_agent.decisions.next_step import decide, facts
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import Observed, Preflight, Settle, Wait
from metrica_agent.decisions.world import Asking, Deployed, Held, Memory, SafeMode, TrialKind
from metrica_fleet.gate import Gate, spread_s
from metrica_fleet.identity import BootId, CommitId
from metrica_fleet.policies import RolloutPolicy, RolloutStage, UpdatePolicy

NOW_S = 1000.0
STAGES = (
    RolloutStage(name="canary", tags=("canary",), soak_s=100.0),
    RolloutStage(name="all", share=1.0),
)
POLICY = RolloutPolicy(stages=STAGES, hub_silent_s=3600.0, prefetch_s=0.0)
GO_ON = replace(POLICY, hub_silent="go-on")
STAGED = replace(settled(), accepted=NEW_COMMIT, resolved=Deployed(commit=NEW_COMMIT, release=NEW))
ASKING = Asking(commit=NEW_COMMIT, boot_id=BOOT, since_s=NOW_S, told=("gate-closed",))
ASKED = replace(STAGED, asking=ASKING)
THIRD = CommitId("3" * 40)


def gate(**changes: object) -> Gate:
    base = Gate(fleet="demo", number=7, issued_at=datetime(2027, 3, 1, tzinfo=UTC), commit=NEW_COMMIT, stage=0)
    return replace(base, **changes)


OPEN = gate(stage=1, threshold=2**53)


def ready(memory: Memory = ASKED, policy: RolloutPolicy | None = POLICY, **changes: object) -> Observed:
    """A device that has all that it needs to begin, but for the gate."""
    seen: dict[str, object] = {
        "candidate": replace(desired(), rollout=policy),
        "preflighted": NEW,
        "preflighted_s": NOW_S,
        "offered": release(NEW),
        "sample": sample(NOW_S, web(OLD), init(OLD)),
        "began_s": 1.0,
    }
    return observed(memory, **{**seen, **changes})


def rule(seen: Observed, now_s: float = NOW_S) -> str:
    return decide(seen, now_s).rule


def settle(seen: Observed, now_s: float = NOW_S) -> Settle:
    step = decide(seen, now_s).step
    assert isinstance(step, Settle)
    return step


# --- before a commit begins -----------------------------------------------------------------------------------


def test_without_a_policy_nothing_is_asked() -> None:
    assert rule(ready(STAGED, None)) == "update.begin"


def test_a_commit_waits_for_the_gate_and_says_so_once() -> None:
    asked = settle(ready(STAGED))
    assert (decide(ready(STAGED), NOW_S).rule, asked.sayings) == ("gate.asked", ())
    told = settle(ready(asked.memory))
    assert [(one.kind, one.reason, one.commit) for one in told.sayings] == [
        ("release.waiting", "gate-closed", NEW_COMMIT)
    ]
    waits = decide(ready(told.memory), NOW_S)
    assert waits.rule == "gate.gate-closed"
    assert isinstance(waits.step, Wait)
    where = standing(told.memory, ready().candidate, waits)
    assert (where.reason, where.message) == ("gate-closed", "no gate was heard from the hub yet")


def test_it_begins_when_the_gate_opens_and_what_was_looked_at_before_is_looked_at_again() -> None:
    opened = replace(ASKED, gate=OPEN)
    assert rule(ready(opened)) == "update.begin"
    late = ready(opened, preflighted_s=NOW_S - 61)
    assert isinstance(decide(late, NOW_S).step, Preflight)
    assert settle(ready(opened)).memory.asking is None


def test_the_gate_comes_before_consent_and_closes_again_while_that_is_waited_for() -> None:
    closed = replace(desired(), rollout=POLICY, update=UpdatePolicy(windows=("01:00-02:00",)))
    opened = replace(ASKED, gate=OPEN)
    assert rule(ready(candidate=closed)) == "gate.gate-closed"
    assert rule(ready(opened, candidate=closed)) == "consent.outside-window"
    assert rule(ready(replace(ASKED, gate=replace(OPEN, number=8, state="halted")))) == "gate.rollout-halted"


def test_what_a_stick_brought_waits_for_no_hub_but_heeds_one_that_said_no() -> None:
    brought = replace(ASKED, brought=NEW_COMMIT)
    assert rule(ready(brought)) == "update.begin"
    early = ready(
        replace(brought, asking=replace(ASKING, told=())), replace(POLICY, prefetch_s=3600.0), preflighted=None
    )
    assert isinstance(decide(early, NOW_S).step, Preflight)
    for state in ("paused", "halted"):
        assert rule(ready(replace(brought, gate=gate(state=state)))) == f"gate.rollout-{state}"
    assert rule(ready(replace(brought, gate=gate(state="aborted")))) == "gate.aborted"
    assert rule(ready(replace(brought, gate=gate(state="halted", commit=THIRD)))) == "update.begin"
    assert rule(ready(replace(ASKED, brought=THIRD))) == "gate.gate-closed"
    assert rule(ready(replace(brought, asking=None, gate=gate(state="halted")))) == "gate.asked"


@pytest.mark.parametrize("state", ["paused", "halted"])
def test_a_device_that_runs_the_commit_or_tries_it_is_not_touched_by_a_halt(state: str) -> None:
    stopped = replace(OPEN, number=8, state=state)
    confirmed = replace(STAGED, confirmed=STAGED.resolved, gate=stopped, arrived=NEW_COMMIT)
    runs = ready(confirmed, current=NEW, release=release(NEW), sample=sample(NOW_S, web(NEW), init(NEW)))
    assert rule(runs).startswith(("rest", "drift.learn", "drift"))
    assert not isinstance(decide(runs, NOW_S).step, Settle) or not settle(runs).memory.refused
    trying = ready(replace(STAGED, trial=trial(applied_s=990.0), gate=stopped), current=NEW, release=release(NEW))
    assert rule(trying) == "trial.wait"


def test_a_first_release_and_the_way_out_of_safe_mode_ask_the_gate_too() -> None:
    first = replace(ASKED, confirmed=None)
    assert rule(ready(first, current=None, release=None)) == "gate.gate-closed"
    safe = replace(ASKED, safe=SafeMode(reason="ordered", message="m", commit=OLD_COMMIT, release=OLD, applied=True))
    assert rule(ready(safe)) == "gate.gate-closed"
    assert rule(ready(replace(safe, gate=OPEN))) == "update.begin"


def test_a_commit_that_changes_nothing_does_not_ask() -> None:
    same = replace(STAGED, resolved=Deployed(commit=NEW_COMMIT, release=OLD))
    assert rule(ready(same)) == "update.unchanged"


def test_downloads_are_put_off_by_the_devices_share_and_not_for_ever() -> None:
    policy = replace(POLICY, prefetch_s=300.0)
    share_s = spread_s(policy, NEW_COMMIT, desired().device)
    assert 0 < share_s < 300
    seen = ready(policy=policy, preflighted=None)
    choice = decide(seen, NOW_S)
    assert (choice.rule, choice.step) == ("gate.prefetch-spread", Wait(until_s=NOW_S + share_s))
    assert isinstance(decide(seen, NOW_S + share_s).step, Preflight)


# --- how long the hub is silent -------------------------------------------------------------------------------


def test_silence_is_counted_from_when_the_commit_waits_or_the_hub_was_heard() -> None:
    assert rule(ready(policy=GO_ON), NOW_S + 3699) == "gate.gate-closed"
    assert rule(ready(policy=GO_ON), NOW_S + 3700) != "gate.gate-closed"
    heard = ready(policy=GO_ON, gate_heard_s=NOW_S + 500)
    assert gating.silent_s(heard, ASKING, NOW_S + 3600) == 3100
    assert gating.silent_s(ready(gate_heard_s=NOW_S - 500), ASKING, NOW_S + 3600) == 3600


def test_what_an_agent_that_did_not_run_cannot_know_is_not_counted() -> None:
    asking = replace(ASKING, silent_s=700.0)
    assert gating.silent_s(ready(began_s=NOW_S + 50), asking, NOW_S + 60) == 710
    assert gating.silent_s(ready(boot_id=BootId("boot-2"), began_s=20.0), asking, 30.0) == 710


def test_silence_is_written_down_now_and_then_and_a_quiet_wait_writes_nothing() -> None:
    assert isinstance(decide(ready(), NOW_S + 899).step, Wait)
    written = settle(ready(), NOW_S + 900)
    assert written.sayings == ()
    assert written.memory.asking == replace(ASKING, since_s=NOW_S + 900, silent_s=900.0)
    rebooted = settle(ready(boot_id=BootId("boot-2"), began_s=20.0), 30.0)
    assert rebooted.memory.asking == replace(ASKING, boot_id=BootId("boot-2"), since_s=30.0, silent_s=10.0)


def test_a_silent_hub_is_waited_for_or_not_as_the_policy_says() -> None:
    held = settle(ready(), NOW_S + 3600)
    assert [one.reason for one in held.sayings] == ["hub-silent"]
    seen = sample(NOW_S + 3700, web(OLD), init(OLD))
    late = ready(policy=GO_ON, sample=seen, preflighted_s=NOW_S + 3700)
    assert rule(late, NOW_S + 3700) == "update.begin"


@given(st.lists(st.tuples(st.sampled_from(["time", "heard", "restart", "reboot"]), st.floats(1, 2000)), max_size=30))
def test_no_device_counts_more_silence_than_there_was(happens: list[tuple[str, float]]) -> None:
    boot, now_s, began_s, silent_s, heard_s = 1, 100.0, 1.0, 0.0, None
    memory = replace(STAGED, asking=replace(ASKING, since_s=100.0, boot_id=BootId("boot-1")))
    for what, seconds in happens:
        now_s += seconds
        silent_s += seconds
        if what == "heard":
            heard_s, silent_s = now_s, 0.0
        elif what == "restart":
            began_s, heard_s = now_s, None
        elif what == "reboot":
            boot, now_s, began_s, heard_s = boot + 1, 10.0, 10.0, None
        seen = ready(memory, boot_id=BootId(f"boot-{boot}"), began_s=began_s, gate_heard_s=heard_s)
        asking = memory.asking
        assert asking is not None
        counted_s = gating.silent_s(seen, asking, now_s)
        # What was heard since it was last written down is the one thing that a restart forgets.
        assert counted_s <= silent_s + gating.PROGRESS_S + 0.001
        step = decide(seen, now_s).step
        memory = step.memory if isinstance(step, Settle) else memory


# --- what is heard --------------------------------------------------------------------------------------------


def test_a_newer_gate_is_remembered_first_and_an_older_one_never() -> None:
    assert settle(ready(gate=OPEN)).memory.gate == OPEN
    assert "open up to stage 1 (gate 7)" in decide(ready(gate=OPEN), NOW_S).why
    known = replace(ASKED, gate=replace(OPEN, number=8, state="halted"))
    assert rule(ready(known, gate=OPEN)) == "gate.rollout-halted"
    assert facts(ready(known), NOW_S)["gate"] == "commit 22222222 is halted (gate 8)"


def test_a_gate_is_remembered_in_a_trial_and_on_hold_too() -> None:
    assert rule(ready(replace(STAGED, trial=trial(applied_s=990.0)), gate=OPEN)) == "gate.heard"
    assert rule(ready(replace(STAGED, held=Held(reason="ordered", message="m")), gate=OPEN)) == "gate.heard"


# --- after an abort -------------------------------------------------------------------------------------------

KEEP = replace(OPEN, number=9, state="aborted", reason="it leaks")
REVERT = replace(KEEP, revert=True)
ARRIVED = replace(
    settled(NEW_COMMIT, NEW),
    earlier=(Deployed(commit=OLD_COMMIT, release=OLD),),
    arrived=NEW_COMMIT,
)


def runs_new(memory: Memory, **changes: object) -> Observed:
    seen = ready(memory, current=NEW, release=release(NEW), sample=sample(NOW_S, web(NEW), init(NEW)))
    return replace(seen, **changes)


def test_who_has_not_begun_refuses_the_commit() -> None:
    refused = settle(ready(replace(ASKED, gate=KEEP)))
    assert [(one.kind, one.reason) for one in refused.sayings] == [("release.refused", "rollout-aborted")]
    refusal = refused.memory.refusal_of(NEW_COMMIT)
    assert refusal is not None
    assert (refusal.message, refusal.release) == ("its rollout was aborted: it leaks", None)
    assert refused.memory.asking is None, "nobody listens for the hub any more"
    assert rule(ready(refused.memory)).startswith(("rest", "drift"))


def test_who_runs_the_commit_keeps_it_or_goes_back_to_what_was_confirmed_before() -> None:
    assert not isinstance(decide(runs_new(replace(ARRIVED, gate=KEEP)), NOW_S).step, Settle)
    back = settle(runs_new(replace(ARRIVED, gate=REVERT)))
    assert [one.kind for one in back.sayings] == ["release.refused", "rollback.started"]
    memory = back.memory
    assert memory.trial is not None
    assert (memory.trial.kind, memory.trial.release, memory.trial.commit) == (TrialKind.BACK, OLD, OLD_COMMIT)
    assert memory.confirmed == Deployed(commit=OLD_COMMIT, release=OLD)
    assert memory.earlier == (ARRIVED.confirmed,), "what ran well is the last to fall back on"
    done = remembering.passed(memory, memory.trial, NOW_S).memory
    assert (done.confirmed, done.trial, done.arrived) == (Deployed(commit=OLD_COMMIT, release=OLD), None, None)
    quiet = ready(done, sample=sample(NOW_S, web(OLD), init(OLD)))
    assert rule(quiet).startswith(("rest", "drift")), "it does not go back twice, nor forward again"


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        (replace(ARRIVED, arrived=None, gate=REVERT), "the commit changed nothing here"),
        (replace(ARRIVED, arrived=THIRD, gate=REVERT), "the release came by another commit"),
        (replace(ARRIVED, earlier=(), gate=REVERT), "there is nothing to go back to"),
        (replace(ARRIVED, gate=replace(REVERT, commit=THIRD)), "it is another commit's gate"),
        (replace(ARRIVED, gate=REVERT, held=Held(reason="ordered", message="m")), "nothing is to change"),
    ],
)
def test_who_has_nothing_to_go_back_from_or_to_stays(memory: Memory, why: str) -> None:
    assert rule(runs_new(memory)) != "gate.aborted", why


def test_nobody_goes_back_to_a_release_that_is_not_on_the_disk() -> None:
    assert rule(runs_new(replace(ARRIVED, gate=REVERT), complete=frozenset({NEW}))) != "gate.aborted"


def test_a_trial_is_taken_back_where_the_fleet_goes_back_and_its_release_is_not_bad() -> None:
    trying = replace(STAGED, trial=trial(applied_s=990.0), gate=REVERT)
    taken = settle(runs_new(trying))
    assert [one.kind for one in taken.sayings] == ["release.refused", "rollback.started"]
    refusal = taken.memory.refusal_of(NEW_COMMIT)
    assert refusal is not None
    assert (refusal.reason, refusal.release) == ("rollout-aborted", None)
    assert rule(runs_new(replace(trying, gate=KEEP))) == "trial.wait"
    alone = replace(trying, confirmed=None)
    assert rule(runs_new(alone)) == "trial.wait", "there is nothing else to run"
