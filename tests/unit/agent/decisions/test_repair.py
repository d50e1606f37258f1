"""Drift: what is found, what is done about it, and how often."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import BOOT, OLD, init, observed, release, sample, settled, web

from metrica_agent.decisions import contest, drift, repair
from metrica_agent.decisions.drift import ASPECTS, IMAGE, LIMITS, Altered, Difference
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.steps import Apply, Mend, Settle, Step, Wait
from metrica_agent.decisions.world import Container, Contest, Held, Memory, Mending, Portrait
from metrica_fleet.identity import BootId, ReleaseDigest

NOW_S = 10_000.0
LATER = BootId("boot-2")
TRAITS = dict.fromkeys(ASPECTS, "as it was")


def like(**changes: object) -> Container:
    return web(OLD, **{"traits": TRAITS, **changes})


PORTRAIT = drift.portrayed(release(OLD), sample(0, like(), init(OLD)), BOOT)


def found(*containers: Container, portrait: Portrait | None = PORTRAIT, boot_id: BootId = BOOT) -> list[str]:
    seen = sample(1, *containers, init(OLD))
    return [one.message for one in drift.differences(release(OLD), seen, portrait, boot_id)]


# --- traits ---------------------------------------------------------------------------------------------------


def test_what_runs_as_it_was_confirmed_is_no_drift() -> None:
    assert found(like()) == found(like(), boot_id=LATER) == found(like(), portrait=None) == []


@pytest.mark.parametrize("aspect", ASPECTS)
def test_each_trait_that_changed_is_drift_and_recreates_the_service(aspect: str) -> None:
    changed = like(traits={**TRAITS, aspect: "other"})
    (difference,) = drift.differences(release(OLD), sample(1, changed, init(OLD)), PORTRAIT, BOOT)
    assert (difference.subject, difference.recreate) == ("web", True)
    assert f"other {aspect}" in difference.message
    plan = drift.repair_of((difference,), release(OLD), PORTRAIT, anew=False)
    assert (plan.services, plan.recreate) == (("web",), ("web",))
    assert plan.images == {"i": "as it was"}


def test_limits_of_a_container_made_in_a_later_boot_are_not_compared() -> None:
    recreated = like(id="made since", traits={**TRAITS, LIMITS: "none: the kernel has no memory cgroup now"})
    assert found(recreated, boot_id=LATER) == []
    assert found(recreated, boot_id=BOOT) != []
    assert found(like(traits={**TRAITS, LIMITS: "updated"}), boot_id=LATER) != []
    assert found(replace(recreated, traits={**TRAITS, IMAGE: "other"}), boot_id=LATER) != []


def test_another_portrait_is_taken_only_when_there_is_none_or_containers_are_of_a_later_boot() -> None:
    seen, rebuilt = sample(1, like(), init(OLD)), sample(1, like(id="made since"), init(OLD))
    assert drift.is_stale(None, release(OLD), seen, BOOT)
    assert not drift.is_stale(PORTRAIT, release(OLD), rebuilt, BOOT)
    assert not drift.is_stale(PORTRAIT, release(OLD), seen, LATER)
    assert drift.is_stale(PORTRAIT, release(OLD), rebuilt, LATER)


def test_traits_in_which_replicas_differ_are_not_compared() -> None:
    one, two = like(id="1"), like(id="2", traits={**TRAITS, LIMITS: "other"})
    portrait = drift.portrayed(release(OLD), sample(0, one, two), BOOT)
    assert portrait is not None
    assert set(portrait.traits["web"]) == set(ASPECTS) - {LIMITS}


def test_a_container_started_by_hand_is_removed_and_nothing_else_is_touched() -> None:
    stranger = like(id="x", service="web", foreign=True, name="by-hand")
    (difference,) = drift.differences(release(OLD), sample(1, like(), stranger, init(OLD)), PORTRAIT, BOOT)
    plan = drift.repair_of((difference,), release(OLD), PORTRAIT, anew=True)
    assert (plan.services, plan.strangers) == ((), ("x",))


# --- how often ------------------------------------------------------------------------------------------------


def drifted(memory: Memory, *, now_s: float, boot_id: BootId = BOOT) -> Step:
    """Return what is decided about a service that was ended by hand some time ago."""
    difference = Difference(subject="web", message="web is exited")
    seen = observed(
        memory,
        complete=frozenset({OLD}),
        boot_id=boot_id,
        differs=(difference,),
        differs_since_s=now_s - 11,
        sample=sample(now_s, like()),
    )
    return decide(seen, now_s).step


def test_a_workload_that_fights_back_is_told_once_and_touched_once_an_hour_from_then_on() -> None:
    memory, now_s = replace(settled(), portrait=PORTRAIT), 0.0
    kinds: list[str] = []
    touched_s: list[float] = []
    while now_s < 20_000:
        step = drifted(memory, now_s=now_s)
        if isinstance(step, Apply):
            counted = repair.repairing(memory, step, BOOT, now_s)
            memory = counted.memory
            kinds += [one.kind for one in counted.sayings]
            touched_s.append(now_s)
        now_s += 5
    assert kinds == ["drift.found"] * (contest.CONTESTED_AFTER - 1) + ["drift.contested"]
    bound = touched_s[contest.CONTESTED_AFTER - 1 :]
    assert all(later - sooner >= contest.CONTESTED_S for sooner, later in pairwise(bound))
    assert len(touched_s) <= contest.CONTESTED_AFTER + 20_000 // contest.CONTESTED_S


@given(st.lists(st.floats(0, 4000), min_size=1, max_size=60))
def test_nothing_is_repaired_more_than_a_bound_in_an_hour(pauses_s: list[float]) -> None:
    contests: tuple[Contest, ...] = ()
    now_s = 0.0
    times_s: list[float] = []
    for pause_s in pauses_s:
        now_s += pause_s
        quiet = contest.quiet(contests, ("web",), BOOT, now_s)
        assert quiet == frozenset()
        if now_s >= contest.not_before_s(contests, "web", BOOT):
            contests = contest.counted(contests, ("web",), BOOT, now_s).contests
            times_s.append(now_s)
    for at_s in times_s:
        assert sum(at_s <= one < at_s + 3600 for one in times_s) <= contest.CONTESTED_AFTER


def test_the_bound_outlives_a_restart_of_the_agent_and_a_reboot_repairs_at_once() -> None:
    contests: tuple[Contest, ...] = ()
    for _ in range(contest.CONTESTED_AFTER):
        contests = contest.counted(contests, ("web",), BOOT, 0).contests
    memory = replace(settled(), portrait=PORTRAIT, contests=contests)
    assert isinstance(drifted(memory, now_s=3599), Wait)
    assert isinstance(drifted(memory, now_s=3600), Apply)
    assert isinstance(drifted(memory, now_s=100, boot_id=LATER), Apply)
    again = contest.counted(contests, ("web",), LATER, 100)
    assert (again.contested, again.contests[0].contested) == (frozenset(), True)


def test_five_reboots_in_a_row_are_no_contest() -> None:
    contests: tuple[Contest, ...] = ()
    for number in range(10):
        contests = contest.counted(contests, ("once",), BootId(f"boot-{number}"), 60).contests
    assert [one.contested for one in contests] == [False]


def test_a_contest_ends_when_a_repair_has_lasted() -> None:
    contests = contest.counted((), ("web",), BOOT, 0).contests
    contests = (replace(contests[0], contested=True),)
    memory = replace(settled(), portrait=PORTRAIT, contests=contests)
    quiet = {"complete": frozenset({OLD}), "sample": sample(NOW_S, like(), init(OLD))}
    assert decide(observed(memory, **quiet), contest.QUIET_S).rule != "drift.learn"
    choice = decide(observed(memory, **quiet), contest.QUIET_S + 1)
    assert isinstance(choice.step, Settle)
    assert choice.step.memory.contests == ()
    assert [(one.kind, one.reason) for one in choice.step.sayings] == [("drift.repaired", "contest-over")]


def test_what_is_contested_does_not_hold_up_the_repair_of_the_rest() -> None:
    contests = (replace(contest.counted((), ("web",), BOOT, NOW_S).contests[0], contested=True),)
    memory = replace(settled(), portrait=PORTRAIT, contests=contests)
    both = (Difference(subject="web", message="w"), Difference(subject="init", message="i"))
    seen = observed(memory, differs=both, differs_since_s=0.0, sample=sample(NOW_S, like()))
    step = decide(seen, NOW_S).step
    assert isinstance(step, Apply)
    assert [one.subject for one in step.differences] == ["init"]


def test_nothing_is_repaired_in_a_hold() -> None:
    memory = replace(settled(), held=Held(reason="ordered", message="m"))
    assert isinstance(drifted(memory, now_s=NOW_S), Wait)


# --- files ----------------------------------------------------------------------------------------------------

ALTERED = Altered(release=OLD, differences=("content/c0ffee was changed", "files/x was changed", "files/y was added"))


def test_altered_files_are_told_before_they_are_restored_and_their_readers_remembered() -> None:
    memory = replace(settled(), portrait=PORTRAIT)
    step = decide(observed(memory, altered=ALTERED), NOW_S).step
    assert step == Mend(altered=ALTERED)
    begun = repair.mending(memory, ALTERED, OLD, BOOT, NOW_S)
    assert [(one.kind, one.reason) for one in begun.sayings] == [("drift.found", "files")]
    assert begun.memory.mending == Mending(release=OLD, contents=("c0ffee",))
    # After a crash the files may be restored and the readers not restarted: nothing is altered, and it goes on.
    after = decide(observed(begun.memory), NOW_S).step
    assert after == Mend(altered=Altered(release=OLD, differences=()))
    more = repair.mending(
        begun.memory, Altered(release=OLD, differences=("content/beef is missing",)), OLD, BOOT, NOW_S
    )
    assert more.sayings == ()
    assert more.memory.mending == Mending(release=OLD, contents=("c0ffee", "beef"))
    done = repair.mended(more.memory, OLD, ALTERED.differences)
    assert done.memory.mending is None
    assert [(one.kind, one.reason) for one in done.sayings] == [("drift.repaired", "files")]


def test_files_that_somebody_alters_again_and_again_are_restored_ever_more_rarely() -> None:
    memory, now_s = replace(settled(), portrait=PORTRAIT), 0.0
    told: list[str] = []
    for _ in range(8):
        while not isinstance(decide(observed(memory, altered=ALTERED), now_s).step, Mend):
            now_s += 10
        begun = repair.mending(memory, ALTERED, OLD, BOOT, now_s)
        told += [one.kind for one in begun.sayings]
        memory = repair.mended(begun.memory, OLD, ()).memory
    assert told == ["drift.found"] * (contest.CONTESTED_AFTER - 1) + ["drift.contested"]
    assert now_s >= 3 * contest.CONTESTED_S


def test_a_release_that_is_gone_is_brought_back_before_anything_else_is_wanted() -> None:
    step = decide(observed(settled(), release=None, complete=frozenset[ReleaseDigest]()), NOW_S).step
    assert isinstance(step, Mend)
    assert step.altered.release == OLD
