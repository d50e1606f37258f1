"""The emergency stop, rule by rule: what is in force, and what is done for it in each state of a device."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from tests.unit.agent.decisions import worlds

from metrica_agent.decisions import remembering, stopping
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.orders import Given, SafeModeOrder
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import Apply, Clean, Halt, Observed, Settle, StageSafe, Step, Switch, Wait
from metrica_agent.decisions.strain import Need
from metrica_agent.decisions.trial import Watch
from metrica_agent.decisions.world import Heard, Memory, SafeMode, TrialKind, Unacceptable
from metrica_fleet.identity import DeviceId, ReleaseDigest
from metrica_fleet.records import Mode
from metrica_fleet.stop import Level, Stop, StopOrder

DEVICE = DeviceId("pi-01")
NOW_S = 100.0
SAFE = ReleaseDigest("e" * 64)


def heard(number: int, *stops: Stop) -> Heard:
    order = StopOrder(fleet="demo", number=number, issued_at=datetime(2026, 1, 1, tzinfo=UTC), stops=stops)
    return Heard(order=order, by="alice")


def stop(level: Level, scope: str = "fleet") -> Stop:
    return Stop(level=level, scope=scope, reason="smoke")


def look(memory: Memory, **changes: object) -> Observed:
    return worlds.observed(memory, **{"device": DEVICE, **changes})


def obeyed(memory: Memory, *stops: Stop, number: int = 7) -> Memory:
    """Return ``memory`` once it has taken note of an order."""
    choice = decide(look(memory, heard=heard(number, *stops)), NOW_S)
    assert isinstance(choice.step, Settle)
    return choice.step.memory


def steps(memory: Memory, *, most: int = 12, **changes: object) -> tuple[list[Step], Memory]:
    """Take steps until there is none to take, each as if it succeeded; return them and what is remembered then."""
    taken: list[Step] = []
    for _ in range(most):
        choice = decide(look(memory, **changes), NOW_S)
        if isinstance(choice.step, Wait):
            return taken, memory
        taken.append(choice.step)
        match choice.step:
            case Settle():
                memory = choice.step.memory
            case Halt():
                changes["halted"] = True
            case Switch(release=release):
                changes["current"] = release
            case Apply(trial=True):
                memory = remembering.applied(memory, NOW_S)
            case Apply(release=release):
                memory = remembering.set_right(memory, release, ()).memory
            case StageSafe():
                memory = remembering.safe_mode_staged(memory, SAFE).memory
                changes |= {"complete": frozenset({worlds.OLD, worlds.NEW, SAFE}), "release": worlds.release(SAFE)}
            case _:
                raise AssertionError(choice)
    raise AssertionError(f"it does not come to rest: {taken}")


def kinds(taken: list[Step]) -> list[str]:
    said = [saying.kind for step in taken if isinstance(step, Settle) for saying in step.sayings]
    return [name for name in said if not name.startswith("commit.")]


def effects(taken: list[Step]) -> list[str]:
    return [type(step).__name__ for step in taken if not isinstance(step, Settle)]


# --- what is in force ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ordered", "in_git", "level", "source"),
    [
        ((), (), None, None),
        ((stop(Level.FREEZE),), (), Level.FREEZE, "order"),
        ((), (stop(Level.SAFE),), Level.SAFE, "git"),
        ((stop(Level.FREEZE),), (stop(Level.HALT),), Level.HALT, "git"),
        ((stop(Level.HALT),), (stop(Level.SAFE),), Level.HALT, "order"),
        ((stop(Level.HALT, "device:pi-02"),), (stop(Level.FREEZE),), Level.FREEZE, "git"),
        ((stop(Level.HALT, "role:door"), stop(Level.FREEZE, "role:camera")), (), Level.FREEZE, "order"),
    ],
)
def test_the_stronger_of_the_order_and_of_git_counts(
    ordered: tuple[Stop, ...], in_git: tuple[Stop, ...], level: Level | None, source: str | None
) -> None:
    desired = replace(worlds.desired(), stops=in_git)
    known = stopping.known(worlds.settled(), heard(1, *ordered), desired)
    force = stopping.in_force(known, worlds.settled(), DEVICE)
    assert (force and force.stop.level, force and force.source) == (level, source)


def test_an_older_order_and_the_same_one_change_nothing() -> None:
    memory = obeyed(worlds.settled(), stop(Level.FREEZE))
    for number in (7, 6):
        assert stopping.known(memory, heard(number), None) == memory.stop


@pytest.mark.parametrize(
    "commit", [None, Unacceptable(commit=worlds.NEW_COMMIT, reason="history-diverged", message="")]
)
def test_git_lifts_its_stop_by_a_commit_that_is_trusted_and_has_none(commit: Unacceptable | None) -> None:
    _, memory = steps(worlds.settled(), candidate=replace(worlds.desired(), stops=(stop(Level.FREEZE),)))
    assert stopping.level(memory) is Level.FREEZE
    _, still = steps(memory, candidate=commit)
    assert stopping.level(still) is Level.FREEZE
    choice = decide(look(still, candidate=replace(worlds.desired(), stops=())), NOW_S)
    assert choice.rule == "stop.lift"


def test_a_stop_in_a_commit_that_can_not_be_used_counts() -> None:
    bad = Unacceptable(commit=worlds.NEW_COMMIT, reason="fleet-syntax", message="no TOML", stops=(stop(Level.HALT),))
    taken, memory = steps(worlds.settled(), candidate=bad)
    assert effects(taken) == ["Halt"]
    assert memory.refusal_of(worlds.NEW_COMMIT) is not None
    assert memory.stop is not None
    assert memory.stop.commit == worlds.NEW_COMMIT


# --- freeze -------------------------------------------------------------------------------------------------------


def test_a_frozen_device_takes_note_of_what_is_wanted_and_begins_nothing() -> None:
    memory = obeyed(worlds.settled(), stop(Level.FREEZE))
    taken, after = steps(memory, candidate=worlds.desired(), differs_since_s=0.0)
    assert effects(taken) == []
    assert kinds(taken) == ["stop.done"]
    assert (after.accepted, after.confirmed) == (worlds.NEW_COMMIT, memory.confirmed)
    assert standing(after, None, None).mode is Mode.HELD
    assert standing(after, None, None).reason == "stopped"
    assert "smoke" in standing(after, None, None).message


@pytest.mark.parametrize("boot", [worlds.BOOT, "an earlier boot"])
def test_a_frozen_trial_that_is_not_applied_is_taken_back_and_its_commit_is_no_worse_for_it(boot: str) -> None:
    applied_s = None if boot == worlds.BOOT else 50.0
    trying = replace(worlds.settled(), trial=worlds.trial(applied_s=applied_s, boot_id=boot))
    memory = obeyed(trying, stop(Level.FREEZE))
    assert memory.trial == trying.trial, "it is written down before anything else"
    choice = decide(look(memory), NOW_S)
    assert (choice.rule, type(choice.step)) == ("stop.back", Settle)
    assert isinstance(choice.step, Settle)
    trial = choice.step.memory.trial
    assert trial is not None
    assert (trial.kind, trial.release) == (TrialKind.BACK, worlds.OLD)
    assert choice.step.memory.refusal_of(worlds.NEW_COMMIT) is None
    back = decide(look(choice.step.memory, current=worlds.NEW), NOW_S)
    assert isinstance(back.step, Switch), "the way back goes on"


def test_a_frozen_trial_that_is_applied_goes_on_to_its_verdict() -> None:
    memory = obeyed(replace(worlds.settled(), trial=worlds.trial()), stop(Level.FREEZE))
    assert decide(look(memory, watch=Watch(steady_since_s=95)), NOW_S).rule == "trial.wait"
    healthy = decide(look(memory, watch=Watch(steady_since_s=1, last_sample_s=99)), NOW_S)
    assert isinstance(healthy.step, Settle)
    assert healthy.step.memory.confirmed is not None
    assert healthy.step.memory.confirmed.release == worlds.NEW
    taken, _ = steps(healthy.step.memory)
    assert kinds(taken) == ["stop.done"]


def test_a_frozen_trial_is_taken_back_rather_than_applied_again() -> None:
    memory = obeyed(replace(worlds.settled(), trial=worlds.trial()), stop(Level.FREEZE))
    choice = decide(look(memory, watch=Watch(engine_lost=True, last_sample_s=99)), NOW_S)
    assert choice.rule == "stop.back"


def test_a_freeze_on_a_device_with_nothing_confirmed_leaves_nothing_running_that_is_not() -> None:
    memory = obeyed(Memory(trial=worlds.trial(applied_s=None)), stop(Level.FREEZE))
    taken, after = steps(memory)
    assert effects(taken) == ["Halt"]
    assert (after.trial, after.confirmed) == (None, None)


# --- halt ---------------------------------------------------------------------------------------------------------


def test_a_halt_in_a_trial_drops_it_and_stops_the_workloads_on_the_confirmed_release() -> None:
    memory = obeyed(replace(worlds.settled(), trial=worlds.trial()), stop(Level.HALT))
    taken, after = steps(memory, current=worlds.NEW, release=worlds.release(worlds.OLD))
    assert effects(taken) == ["Halt", "Switch"]
    assert kinds(taken) == ["release.waiting", "stop.done"]
    assert after.trial is None
    assert standing(after, None, None).mode is Mode.HALTED


def test_what_starts_again_under_a_halt_is_stopped_again_and_a_new_process_stops_all_once_more() -> None:
    _, memory = steps(obeyed(worlds.settled(), stop(Level.HALT)))
    assert isinstance(decide(look(memory, halted=False), NOW_S).step, Halt)
    assert isinstance(decide(look(memory, halted=True), NOW_S).step, Wait)
    assert isinstance(decide(look(memory, halted=True, running=("web",)), NOW_S).step, Halt)


@pytest.mark.parametrize("then", [(), (stop(Level.FREEZE),)])
def test_what_was_halted_comes_up_by_the_way_back_once_it_may(then: tuple[Stop, ...]) -> None:
    _, memory = steps(obeyed(worlds.settled(), stop(Level.HALT)))
    lifted = obeyed(memory, *then, number=8)
    assert lifted.trial is not None
    assert (lifted.trial.kind, lifted.trial.release) == (TrialKind.BACK, worlds.OLD)
    apply = decide(look(lifted), NOW_S).step
    assert isinstance(apply, Apply)


# --- safe ---------------------------------------------------------------------------------------------------------


def test_safe_mode_by_a_stop_is_entered_kept_and_left_when_it_is_lifted() -> None:
    memory = obeyed(replace(worlds.settled(), trial=worlds.trial()), stop(Level.SAFE))
    taken, safe = steps(memory)
    assert effects(taken) == ["StageSafe", "Switch", "Apply"]
    assert kinds(taken) == ["release.waiting", "safe_mode.entered", "stop.done"]
    assert standing(safe, None, None).mode is Mode.SAFE
    given = Given(id="1", order=SafeModeOrder(on=False, reason="console"))
    ordered = decide(look(safe, given=given), NOW_S).step
    assert isinstance(ordered, Settle)
    again = decide(look(ordered.memory), NOW_S)
    assert again.rule == "stop.safe", "the console does not lift a stop"
    lifted = obeyed(safe, number=8)
    assert (lifted.safe, lifted.trial and lifted.trial.release) == (None, worlds.OLD)


def test_safe_mode_that_was_there_before_stays_when_a_stop_is_lifted() -> None:
    crashed = SafeMode(reason="crash-loop", message="m", commit=worlds.OLD_COMMIT, release=SAFE, applied=True)
    memory = obeyed(replace(worlds.settled(), safe=crashed), stop(Level.SAFE))
    assert obeyed(memory, number=8).safe == crashed
    halted = obeyed(memory, stop(Level.HALT), number=8)
    after = obeyed(halted, number=9)
    assert after.safe == replace(crashed, applied=False), "it was halted, and is to be brought up again"
    assert after.trial is None


# --- what goes before ---------------------------------------------------------------------------------------------


def test_a_disk_too_full_to_write_a_stop_down_is_cleaned_first() -> None:
    need = Need(path="/", free_bytes=2**30, free_inodes=0)
    seen = look(worlds.settled(), heard=heard(7, stop(Level.FREEZE)), need=need)
    assert decide(seen, NOW_S).rule == "stop.obey"
    assert isinstance(decide(replace(seen, unwritten=True), NOW_S).step, Clean)


def test_a_stop_is_told_once_for_each_that_counts() -> None:
    first = decide(look(worlds.settled(), heard=heard(7, stop(Level.FREEZE))), NOW_S)
    assert isinstance(first.step, Settle)
    (saying,) = first.step.sayings
    assert (saying.kind, saying.reason, saying.detail["number"]) == ("stop.obeyed", "freeze", 7)
    assert "alice" in saying.message
    second = decide(look(first.step.memory, heard=heard(8, stop(Level.FREEZE), stop(Level.HALT, "tag:x"))), NOW_S)
    assert isinstance(second.step, Settle)
    assert [one.detail["number"] for one in second.step.sayings] == [8], "another order stops it now"
    third = decide(look(second.step.memory, heard=heard(9)), NOW_S)
    assert isinstance(third.step, Settle)
    assert [one.kind for one in third.step.sayings] == ["stop.lifted"]
    assert third.step.memory.trial is None, "what was only frozen goes on where it was"
