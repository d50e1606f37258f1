from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import BOOT, NEW_COMMIT, OLD, OLD_COMMIT, desired, observed, settled

from metrica_agent.decisions import starting, upgrading
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import (
    AgentVersions,
    Choice,
    Observed,
    OnTrial,
    Setback,
    Settle,
    Stage,
    StageAgent,
    SwitchAgent,
    Wait,
    step_key,
)
from metrica_agent.decisions.upgrading import Undecided, Verdict, doubt_ended, fetch_within, judged
from metrica_agent.decisions.world import Desired, Memory, Start, Upgrading
from metrica_agent.launcher import GRACE_S
from metrica_fleet.agent_versions import AgentVersion, Wheel
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.records import Phase

NOW_S = 1000.0
WANTED = AgentVersion(version="2.0.0", wheels=(Wheel("metrica_fleet-2.0.0-py3-none-any.whl", "a" * 64),))
OTHER = AgentVersion(version="2.0.0", wheels=(Wheel("metrica_fleet-2.0.0-py3-none-any.whl", "b" * 64),))
RUNS = AgentVersions(running="1.0.0-aa")
HERE = replace(RUNS, complete=frozenset({WANTED.name}))
BEGUN = Upgrading(name=WANTED.name, commit=NEW_COMMIT, boot_id=BOOT, since_s=NOW_S - upgrading.TELL_S)
TRIAL = OnTrial(began_s=100.0, within_s=600.0, needs_git=True)
STAGED = RolloutPolicy(stages=(RolloutStage(name="all", share=1.0),), prefetch_s=0.0)


def commit(**changes: object) -> Desired:
    return replace(desired(), agent=WANTED, **changes)


def world(agents: AgentVersions | None = HERE, memory: Memory | None = None, **changes: object) -> Observed:
    remembered = replace(memory or settled(), accepted=NEW_COMMIT)
    seen: dict[str, object] = {"candidate": commit(), "agents": agents, "git_answered_s": NOW_S, **changes}
    return observed(remembered, complete=frozenset({OLD}), **seen)


def decided(seen: Observed) -> Choice:
    return decide(seen, NOW_S)


def test_a_version_that_is_not_on_the_disk_is_installed_before_the_release_is_staged() -> None:
    step = decided(world(RUNS)).step
    assert step == StageAgent(commit=NEW_COMMIT, agent=WANTED, in_place=False)


def test_an_installed_version_is_told_first_and_then_put_on_trial() -> None:
    choice = decided(world())
    assert isinstance(choice.step, Settle)
    assert choice.step.memory.upgrading == replace(BEGUN, since_s=NOW_S)
    assert [saying.kind for saying in choice.step.sayings] == ["agent.update_started"]
    told = replace(settled(), upgrading=replace(BEGUN, since_s=NOW_S))
    assert decided(world(memory=told)).rule == "agent.tell"
    assert decided(world(memory=replace(told, upgrading=BEGUN))).step == SwitchAgent(agent=WANTED, needs_git=True)


def test_the_status_says_trial_from_the_moment_on_at_which_it_is_told() -> None:
    memory = replace(settled(), accepted=NEW_COMMIT, upgrading=BEGUN)
    assert standing(memory, commit(), None).phase is Phase.TRIAL


def test_the_gate_of_the_rollout_is_waited_for() -> None:
    staged = commit(rollout=STAGED)
    asked = decided(world(candidate=staged))
    assert asked.rule == "gate.asked"
    assert isinstance(asked.step, Settle)
    assert decided(world(candidate=staged, memory=asked.step.memory)).rule == "gate.gate-closed"


def test_what_is_confirmed_already_asks_for_no_gate() -> None:
    memory = replace(settled(NEW_COMMIT, OLD))
    choice = decided(world(memory=memory, candidate=commit(rollout=STAGED)))
    assert choice.rule == "agent.begin"


@pytest.mark.parametrize(
    ("seen", "rule"),
    [
        (world(memory=replace(settled(), starts=(Start(boot_id=BOOT, at_s=990.0),))), "agent.settle"),
        (world(git_answered_s=None), "agent.git"),
        (world(git_answered_s=NOW_S - upgrading.GIT_FRESH_S - 1), "agent.git"),
        (world(replace(HERE, doubted=WANTED.name)), "agent.doubt"),
        (world(replace(HERE, running=WANTED.name, trial=TRIAL)), "agent.trial"),
        (world(replace(HERE, running=OTHER.name, trial=TRIAL)), "agent.trial"),
    ],
)
def test_a_trial_waits_and_says_for_what(seen: Observed, rule: str) -> None:
    choice = decided(seen)
    assert isinstance(choice.step, Wait)
    assert choice.rule == rule


def test_where_git_is_silent_for_an_hour_a_trial_is_begun_and_judged_without() -> None:
    memory = replace(settled(), upgrading=replace(BEGUN, since_s=4900.0))
    seen = world(memory=memory, git_answered_s=None, began_s=0.0)
    choice = decide(seen, 5000.0)
    assert choice.step == SwitchAgent(agent=WANTED, needs_git=False)


def test_a_version_that_was_given_up_refuses_its_commit() -> None:
    memory = replace(settled(), upgrading=BEGUN)
    choice = decided(world(replace(HERE, refused={WANTED.name: ("not-steady", "it crashed")}), memory))
    assert isinstance(choice.step, Settle)
    refused = choice.step.memory.refusal_of(NEW_COMMIT)
    assert refused is not None
    assert (refused.reason, choice.step.memory.upgrading) == ("agent-not-steady", None)
    assert "it crashed" in refused.message


def test_a_version_that_was_given_up_does_not_refuse_the_commit_that_runs() -> None:
    memory = settled(NEW_COMMIT, OLD)
    seen = world(replace(HERE, refused={WANTED.name: ("not-steady", "it crashed")}), memory)
    assert upgrading.choice(seen, commit(), NOW_S, in_place=True) is None


def test_other_wheels_under_the_same_number_are_another_version() -> None:
    refused = replace(HERE, refused={WANTED.name: ("not-steady", "")}, complete=frozenset({OTHER.name}))
    assert decided(world(refused, candidate=replace(commit(), agent=OTHER))).rule == "agent.begin"


@pytest.mark.parametrize("agents", [replace(HERE, running=WANTED.name), None], ids=["it runs", "there is no launcher"])
def test_the_release_is_next_where_the_agent_can_not_be_or_is_the_wanted_one(agents: AgentVersions | None) -> None:
    assert isinstance(decided(world(agents)).step, Stage)


def test_a_version_that_can_not_be_got_is_asked_for_ever_more_rarely_up_to_an_hour_and_not_by_all_at_once() -> None:
    even = [upgrading.again_in(attempts, 0.5) for attempts in range(1, 100)]
    assert even[:3] == [30.0, 60.0, 120.0]
    assert even == sorted(even)
    assert even[-1] == upgrading.AGAIN_CAP_S
    early, late = upgrading.again_in(99, 0.0), upgrading.again_in(99, 1.0)
    assert 0 < early < upgrading.AGAIN_CAP_S < late


def test_where_the_wheels_are_out_of_reach_the_status_says_so_and_another_commit_does_not_wait() -> None:
    step = StageAgent(commit=NEW_COMMIT, agent=WANTED, in_place=False)
    setback = Setback(reason="wheel-unreachable", message="gone", first_s=0, attempts=9, not_before_s=4000.0)
    seen = world(RUNS, setbacks={step_key(step): setback})
    choice = decided(seen)
    assert choice.rule == "setback.wheel-unreachable"
    assert isinstance(choice.step, Wait)
    where = standing(seen.memory, seen.candidate, choice)
    assert (where.phase, where.reason, where.message) == (Phase.PENDING, "wheel-unreachable", "gone (tried 9 times)")
    said = upgrading.wanted(commit(), RUNS, choice)
    assert (said.version, said.reason) == ("2.0.0", "wheel-unreachable")
    assert isinstance(decide(seen, 4000.0).step, StageAgent)
    other = replace(seen, memory=replace(seen.memory, accepted=OLD_COMMIT), candidate=commit(commit=OLD_COMMIT))
    assert isinstance(decided(other).step, StageAgent)


# --- the verdict on oneself -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now_s", "git_reached", "fetched", "needs_git", "verdict"),
    [
        (150.0, True, True, True, Undecided(until_s=190.0)),
        (190.0, True, True, True, Verdict.CONFIRMED),
        (190.0, False, False, False, Verdict.CONFIRMED),
        (190.0, True, False, False, Verdict.CONFIRMED),
        (190.0, False, False, True, Undecided(until_s=700.0)),
        (190.0, True, False, True, Undecided(until_s=700.0)),
        (700.0, False, False, True, Verdict.GIT_UNREACHED),
        (700.0, True, False, True, Verdict.FETCH_FAILED),
        (700.0, True, True, True, Verdict.CONFIRMED),
    ],
)
def test_a_version_is_confirmed_when_it_lives_and_fetches_from_git(
    now_s: float,
    git_reached: bool,  # noqa: FBT001 - a table's
    fetched: bool,  # noqa: FBT001 - likewise
    needs_git: bool,  # noqa: FBT001 - likewise
    verdict: Verdict | Undecided,
) -> None:
    trial = replace(TRIAL, needs_git=needs_git)
    found = judged(trial, started_s=100.0, steady_s=90.0, git_reached=git_reached, fetched=fetched, now_s=now_s)
    assert found == verdict


def test_a_fetch_that_hangs_leaves_time_for_another_and_ends_before_the_launcher_ends_the_trial() -> None:
    end_s, now_s, tries = 700.0, 100.0, 0
    while now_s < end_s:
        now_s, tries = now_s + fetch_within(end_s, now_s), tries + 1
    assert tries > 3
    assert now_s < end_s + GRACE_S


@pytest.mark.parametrize(("done", "now_s", "bad"), [(True, 110.0, True), (False, 110.0, None), (False, 700.0, False)])
def test_who_did_not_reach_git_is_bad_only_if_the_one_before_reaches_it(
    done: bool,  # noqa: FBT001 - a table's
    now_s: float,
    bad: bool | None,  # noqa: FBT001 - likewise
) -> None:
    assert doubt_ended(started_s=100.0, within_s=600.0, done=done, now_s=now_s) is bad


def test_the_crashes_of_a_version_on_trial_are_no_crash_loop_of_the_one_before() -> None:
    memory = Memory()
    for at_s in (10.0, 20.0):
        memory = starting.started(memory, BOOT, at_s, WANTED.name).memory
    settled_now = starting.started(memory, BOOT, 30.0, "1.0.0-aa")
    assert settled_now.memory.safe is None
    assert [one.agent for one in settled_now.memory.starts] == ["1.0.0-aa"]
