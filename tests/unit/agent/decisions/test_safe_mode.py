"""How safe mode is entered, what is done in it, and that a way leads out."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import (
    BOOT,
    NEW,
    NEW_COMMIT,
    OLD,
    OLD_COMMIT,
    desired,
    observed,
    release,
    settled,
    trial,
)

from metrica_agent.decisions import remembering, starting
from metrica_agent.decisions.drift import Difference
from metrica_agent.decisions.next_step import decide, kept
from metrica_agent.decisions.orders import Given, HistoryOrder, HoldOrder, Order, SafeModeOrder
from metrica_agent.decisions.remembering import Failure
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import Apply, Settle, Stage, StageSafe, Switch, Wait
from metrica_agent.decisions.trial import Watch
from metrica_agent.decisions.world import Deployed, Memory, Portrait, Refused, SafeMode, TrialKind
from metrica_fleet.identity import BootId, ReleaseDigest
from metrica_fleet.records import Mode

NOW_S = 1000.0
SAFE = ReleaseDigest("5" * 64)
CRASHED = SafeMode(reason="crash-loop", message="m", commit=OLD_COMMIT)
IN_SAFE_MODE = replace(settled(), safe=CRASHED)
RUNNING_SAFE = replace(settled(), safe=replace(CRASHED, release=SAFE, applied=True))
QUIET_SAFE = {"current": SAFE, "release": release(SAFE), "complete": frozenset({OLD, SAFE})}


def taken(step: object) -> Settle:
    assert isinstance(step, Settle)
    return step


def kinds(settle: Settle) -> list[str]:
    return [saying.kind for saying in settle.sayings]


# --- entered ------------------------------------------------------------------------------------------------


def test_three_starts_in_three_minutes_without_steadiness_are_a_crash_loop() -> None:
    memory = settled()
    for at_s in (10.0, 80.0):
        memory = starting.started(memory, BOOT, at_s).memory
        assert memory.safe is None
    third = starting.started(memory, BOOT, 10.0 + starting.CRASH_LOOP_S - 1)
    assert kinds(third) == ["safe_mode.entered"]
    assert third.memory.safe is not None
    assert third.memory.safe.reason == "crash-loop"


def test_slow_starts_steady_starts_and_starts_that_ended_well_are_no_crash_loop() -> None:
    slow = steady = well = settled()
    for number in range(12):
        slow = starting.started(slow, BOOT, number * (starting.CRASH_LOOP_S / 2 + 1)).memory
        steady = starting.steady(starting.started(steady, BOOT, number * 10.0).memory)
        well = starting.ended_well(starting.started(well, BOOT, number * 10.0).memory)
    assert (slow.safe, steady.safe, well.safe) == (None, None, None)


def test_power_that_goes_again_and_again_is_no_crash_loop() -> None:
    memory = settled()
    for number in range(12):
        memory = starting.started(memory, BootId(f"boot {number}"), 20.0).memory
    assert memory.safe is None


def test_a_crash_loop_in_a_trial_refuses_the_commit() -> None:
    memory = replace(settled(), trial=trial(), accepted=NEW_COMMIT, starts=())
    for at_s in (1.0, 2.0, 3.0):
        settle = starting.started(memory, BOOT, at_s)
        memory = settle.memory
    assert kinds(settle) == ["release.refused", "safe_mode.entered"]
    assert memory.trial is None
    refusal = memory.refusal_of(NEW_COMMIT)
    assert refusal is not None
    assert (refusal.reason, refusal.release) == ("crash-loop-in-trial", NEW)


def test_a_way_back_that_leads_nowhere_ends_in_safe_mode() -> None:
    back = replace(settled(), trial=trial(TrialKind.BACK, commit=OLD_COMMIT, release=OLD))
    why = Failure(reason="unhealthy", message="m")
    settle = remembering.failed(back, trial(TrialKind.BACK, release=OLD), why, boot_id=BOOT, now_s=NOW_S)
    assert kinds(settle) == ["rollback.failed", "safe_mode.entered"]
    assert settle.memory.safe is not None
    assert settle.memory.safe.reason == "no-release-comes-up"


# --- in it --------------------------------------------------------------------------------------------------


def test_the_stack_is_staged_switched_to_and_applied_in_this_order_and_then_kept() -> None:
    assert decide(observed(IN_SAFE_MODE, release=None), NOW_S).step == StageSafe()
    staged = remembering.safe_mode_staged(IN_SAFE_MODE, SAFE).memory
    assert SAFE in kept(staged)
    assert decide(observed(staged, release=release(SAFE), current=OLD), NOW_S).step == Switch(release=SAFE)
    apply = decide(observed(staged, **QUIET_SAFE), NOW_S).step
    assert apply == Apply(release=SAFE, trial=False)
    running = remembering.set_right(staged, SAFE, ())
    assert kinds(running) == ["safe_mode.running"]
    learnt = decide(observed(running.memory, **QUIET_SAFE), NOW_S)
    assert learnt.rule == "drift.learn"
    assert isinstance(learnt.step, Settle)
    assert decide(observed(learnt.step.memory, **QUIET_SAFE), NOW_S).rule == "rest.safe"
    drifted = observed(
        running.memory, **QUIET_SAFE, differs=(Difference(subject="x", message="x"),), differs_since_s=0.0
    )
    assert isinstance(decide(drifted, NOW_S).step, Apply | Wait)


def test_a_stack_that_does_not_come_up_is_staged_anew_for_its_folder_may_have_been_mended() -> None:
    doubted = remembering.safe_mode_doubted(RUNNING_SAFE, SAFE)
    assert decide(observed(doubted, release=None), NOW_S).step == StageSafe()
    assert remembering.safe_mode_doubted(RUNNING_SAFE, OLD) == RUNNING_SAFE
    assert remembering.safe_mode_doubted(settled(), OLD) == settled()


def test_the_commit_that_was_there_when_it_was_entered_does_not_lead_out() -> None:
    portrait = Portrait(release=SAFE, boot_id=BOOT, containers=(), traits={})
    seen = observed(replace(RUNNING_SAFE, portrait=portrait), candidate=desired(OLD_COMMIT), **QUIET_SAFE)
    assert decide(seen, NOW_S).rule == "rest.safe"


def test_the_status_says_safe_and_why() -> None:
    where = standing(RUNNING_SAFE, desired(OLD_COMMIT), None)
    assert (where.mode, where.reason) == (Mode.SAFE, "crash-loop")


# --- out of it ----------------------------------------------------------------------------------------------


def leading_out() -> Memory:
    deployed = Deployed(commit=NEW_COMMIT, release=NEW)
    return replace(RUNNING_SAFE, accepted=NEW_COMMIT, resolved=deployed)


def test_a_newer_commit_is_staged_and_tried_from_safe_mode_and_its_confirmation_ends_it() -> None:
    accepted = taken(decide(observed(RUNNING_SAFE, candidate=desired(), **QUIET_SAFE), NOW_S).step).memory
    assert isinstance(decide(observed(accepted, candidate=desired(), **QUIET_SAFE), NOW_S).step, Stage)
    here = {**QUIET_SAFE, "complete": frozenset({OLD, NEW, SAFE})}
    begun = decide(observed(leading_out(), candidate=desired(), preflighted=NEW, **here), 101.0)
    memory = taken(begun.step).memory
    assert memory.trial is not None
    assert memory.trial.excused == ()
    done = decide(
        observed(
            replace(memory, trial=replace(memory.trial, applied_s=101.0)),
            watch=Watch(steady_since_s=102.0, last_sample_s=120.0),
            release=release(NEW),
            current=NEW,
        ),
        121.0,
    )
    assert kinds(taken(done.step)) == ["release.confirmed", "safe_mode.left"]
    assert taken(done.step).memory.safe is None


def test_a_revert_to_the_confirmed_release_is_tried_for_real() -> None:
    memory = replace(leading_out(), resolved=Deployed(commit=NEW_COMMIT, release=OLD))
    choice = decide(observed(memory, candidate=desired(), preflighted=OLD, **QUIET_SAFE), 101.0)
    assert choice.rule == "update.begin"


def test_a_trial_from_safe_mode_that_fails_ends_in_safe_mode_again() -> None:
    memory = replace(leading_out(), trial=trial())
    settle = remembering.failed(memory, trial(), Failure(reason="r", message="m"), boot_id=BOOT, now_s=NOW_S)
    assert kinds(settle) == ["release.refused"]
    assert settle.memory.trial is None
    again = observed(settle.memory, candidate=desired(), **{**QUIET_SAFE, "current": NEW})
    assert decide(again, NOW_S).step == Switch(release=SAFE)
    assert decide(replace(again, current=SAFE), NOW_S).step == Apply(release=SAFE, trial=False)


# --- by order -----------------------------------------------------------------------------------------------


def order(what: Order) -> Given:
    return Given(id="1", order=what)


def obeyed(memory: Memory, what: Order) -> Settle:
    return taken(decide(observed(memory, given=order(what)), NOW_S).step)


ON, OFF = SafeModeOrder(on=True, reason="smoke"), SafeModeOrder(on=False, reason="aired")


def test_an_order_leads_in_even_from_a_trial_and_the_commit_is_not_refused_for_it() -> None:
    settle = obeyed(replace(settled(), trial=trial(), accepted=NEW_COMMIT), ON)
    assert kinds(settle) == ["safe_mode.entered"]
    assert (settle.memory.trial, settle.memory.refused) == (None, ())
    assert settle.memory.safe is not None
    assert settle.memory.safe.commit == NEW_COMMIT


def test_an_order_leads_out_back_to_the_confirmed_release_which_has_to_prove_itself() -> None:
    settle = obeyed(RUNNING_SAFE, OFF)
    assert kinds(settle) == ["safe_mode.left", "rollback.started"]
    assert settle.memory.trial is not None
    assert (settle.memory.trial.kind, settle.memory.trial.release) == (TrialKind.BACK, OLD)


HOLD, GO_ON = HoldOrder(on=True, reason="r"), HoldOrder(on=False, reason="r")
ALLOW = HistoryOrder(commit=NEW_COMMIT, reason="r")


@pytest.mark.parametrize("what", [ON, OFF, HOLD, GO_ON, ALLOW])
@pytest.mark.parametrize("memory", [settled(), RUNNING_SAFE, replace(settled(), trial=trial())])
def test_an_order_that_is_obeyed_twice_changes_and_tells_nothing_more(memory: Memory, what: Order) -> None:
    once = obeyed(memory, what)
    twice = obeyed(once.memory, what)
    assert (twice.memory, twice.sayings, twice.obeyed) == (once.memory, (), "1")


def test_a_hold_lets_a_trial_end_and_then_nothing_change() -> None:
    held = obeyed(settled(), HoldOrder(on=True, reason="r")).memory
    assert decide(observed(held, candidate=desired(), current=NEW), NOW_S).rule == "held"
    on_trial = replace(held, trial=trial(applied_s=90))
    ended = taken(decide(observed(on_trial, watch=Watch(steady_since_s=80, last_sample_s=91)), 100.0).step)
    assert kinds(ended) == ["release.confirmed"]
    assert standing(held, None, None).mode is Mode.HELD


def test_an_allowed_history_lifts_the_refusal() -> None:
    refused = Refused(commit=NEW_COMMIT, reason="history-diverged", message="m")
    memory = replace(settled(), refused=(refused,), last_refused=refused)
    settle = obeyed(memory, HistoryOrder(commit=NEW_COMMIT, reason="squashed"))
    assert kinds(settle) == ["history.allowed"]
    assert (settle.memory.allowed, settle.memory.refused, settle.memory.last_refused) == ((NEW_COMMIT,), (), None)
