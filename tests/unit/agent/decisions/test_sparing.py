from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import NEW, OLD, desired, init, observed, release, sample, settled, trial, web

from metrica_agent.decisions import drift, sparing
from metrica_agent.decisions import strain as straining
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.priorities import with_priorities, written
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import Apply, Clean, Cleaned, Cleaning, Observed, Rest, Setback, Settle, Stage, Wait
from metrica_agent.decisions.strain import Need
from metrica_agent.decisions.trial import Ailments, noticed
from metrica_agent.decisions.world import (
    Container,
    Deployed,
    Felt,
    Held,
    Memory,
    Release,
    SafeMode,
    ServicePlan,
    Strain,
    Trial,
    TrialKind,
)
from metrica_fleet.identity import CommitId, ReleaseDigest
from metrica_fleet.policies import Priority, ServicePolicy
from metrica_fleet.records import Mode, Phase

HOT = Strain(heat=Felt(level=2, figures="81.0 °C"))
CRITICAL = Strain(heat=Felt(level=3, figures="86.0 °C"))
LOW_DISK = Strain(disk=Felt(level=1, figures="10 MiB free at /d"))
NEED = Need(path="/d", free_bytes=100, free_inodes=0)
STAGES = [
    replace(Strain(), **{cause: Felt(level=level, figures="f")})
    for cause, names in straining.STAGES.items()
    for level in range(1, len(names) + 1)
]


def three(digest: ReleaseDigest = OLD) -> Release:
    names: tuple[tuple[str, Priority], ...] = (("extra", "low"), ("init", "normal"), ("web", "high"))
    services = tuple(
        ServicePlan(
            name=name,
            inputs=f"{name}-{digest[0]}",
            image=f"image-{name}",
            priority=priority,
            runs_once=name == "init",
        )
        for name, priority in names
    )
    return replace(release(digest), services=services)


def extra(**changes: object) -> Container:
    return replace(web(OLD), id="extra", service="extra", inputs=f"extra-{OLD[0]}", **changes)


def strained(strain: Strain, memory: Memory | None = None, **changes: object) -> Observed:
    memory = replace(memory or settled(), strain=strain)
    return observed(memory, **{"strain": strain, "release": three(), "complete": frozenset({OLD}), **changes})


# --- the order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strain", STAGES)
def test_in_every_stage_an_update_waits_and_says_why(strain: Strain) -> None:
    memory = replace(
        settled(), accepted=desired().commit, resting=straining.resting(replace(settled(), strain=strain), three())
    )
    seen = strained(strain, memory, candidate=desired(), awake=())
    choice = decide(seen, 100)
    found = straining.in_words(strain)
    assert found is not None
    assert isinstance(choice.step, Wait)
    assert choice.rule == f"strain.wait.{found[0]}"
    where = standing(seen.memory, seen.candidate, choice)
    assert (where.mode, where.phase, where.reason) == (Mode.DEGRADED, Phase.PENDING, found[0])
    assert "updates wait" in where.message


def test_without_strain_the_same_update_goes_on() -> None:
    memory = replace(settled(), accepted=desired().commit)
    assert isinstance(decide(observed(memory, candidate=desired()), 100).step, Stage)


def test_a_stage_is_told_before_anything_follows_from_it() -> None:
    step = decide(observed(settled(), strain=HOT, release=three()), 100).step
    assert isinstance(step, Settle)
    assert step.memory.strain == HOT
    assert [(one.kind, one.reason) for one in step.sayings] == [("strain.entered", "heat-hot")]


@pytest.mark.parametrize("strain", STAGES)
@pytest.mark.parametrize("kind", list(TrialKind))
def test_a_trial_goes_on_to_its_verdict_and_a_rollback_is_not_held_up(strain: Strain, kind: TrialKind) -> None:
    memory = replace(settled(), trial=trial(kind, applied_s=None), strain=strain)
    choice = decide(observed(memory, strain=strain, current=NEW, release=release(NEW)), 100)
    assert choice.step == Apply(release=NEW, trial=True)


# --- who rests -------------------------------------------------------------------------------------------------


def test_services_rest_by_their_priority() -> None:
    assert straining.resting(replace(settled(), strain=HOT), three()) == ("extra",)
    assert straining.resting(replace(settled(), strain=CRITICAL), three()) == ("extra", "init")
    assert straining.resting(replace(settled(), strain=LOW_DISK), three()) == ()
    assert straining.resting(replace(settled(), strain=CRITICAL, safe=SAFE), three()) == ()


@pytest.mark.parametrize("held", [None, Held(reason="ordered", message="m")])
def test_who_is_to_rest_is_stopped_and_started_again_even_on_a_held_device(held: Held | None) -> None:
    memory = replace(settled(), held=held)
    assert decide(strained(HOT, memory), 100).step == Rest(release=OLD, services=("extra",))
    resting = replace(memory, resting=("extra", "init"))
    assert decide(strained(HOT, resting), 100).step == Apply(release=OLD, trial=False, resting=("extra",))
    assert decide(strained(Strain(), resting), 100).step == Apply(release=OLD, trial=False)


def test_what_rests_is_no_drift_and_what_runs_although_it_rests_is_stopped() -> None:
    stopped = sample(100, web(OLD), init(OLD), extra(state="exited", exit_code=143))
    assert drift.differences(three(), stopped, resting=("extra",)) == ()
    assert drift.awake(stopped, ("extra",)) == ()
    running = sample(100, web(OLD), init(OLD), extra())
    assert drift.awake(running, ("extra",)) == ("extra",)
    choice = decide(strained(HOT, replace(settled(), resting=("extra",)), awake=("extra",)), 100)
    assert choice.step == Rest(release=OLD, services=("extra",))


def test_who_wakes_what_rests_is_not_fought_for_ever_and_a_worse_stage_is_not_held_up_by_that() -> None:
    setback = Setback(reason=sparing.RESTED, message="m", first_s=0, attempts=9, not_before_s=5000)
    changes = {"awake": ("extra",), "setbacks": {f"rest:{OLD}": setback}}
    memory = replace(settled(), resting=("extra",))
    assert isinstance(decide(strained(HOT, memory, **changes), 100).step, Wait)
    assert decide(strained(CRITICAL, memory, **changes), 100).step == Rest(release=OLD, services=("extra", "init"))


def test_what_rests_is_not_ill() -> None:
    stopped = sample(100, web(OLD), init(OLD), extra(state="exited", exit_code=143))
    assert "extra" in noticed(Ailments(), three(), stopped).since_s
    assert noticed(Ailments(), three(), stopped, ("extra",)).since_s == {}


def test_a_service_is_worth_as_much_as_who_needs_it() -> None:
    plans = [ServicePlan(name=name, inputs="i", image="i") for name in ("db", "cache", "api", "lamp", "side")]
    compose = {
        "services": {
            "db": {},
            "cache": {"depends_on": {"db": {"condition": "service_started"}}},
            "api": {"depends_on": ["cache"]},
            "lamp": {},
            "side": {"network_mode": "service:lamp"},
        }
    }
    policies = {name: ServicePolicy(priority="low") for name in ("db", "cache", "lamp")}
    policies |= {"api": ServicePolicy(priority="high")}
    ranked = {one.name: one.priority for one in with_priorities(plans, compose, policies)}
    assert ranked == {"db": "high", "cache": "high", "api": "high", "lamp": "normal", "side": "normal"}


def test_only_a_priority_that_is_not_ordinary_makes_another_release() -> None:
    policies = {"web": ServicePolicy(), "lamp": ServicePolicy(priority="low")}
    assert written(policies) == {"lamp": "low"}


# --- cleaning --------------------------------------------------------------------------------------------------


def test_a_low_disk_is_cleaned_in_the_stated_order_and_each_kind_once() -> None:
    setbacks: dict[str, Setback] = {}
    kinds: list[str] = []
    for _ in Cleaning:
        step = decide(strained(LOW_DISK, need=NEED, setbacks=dict(setbacks)), 100).step
        assert isinstance(step, Clean)
        kinds.append(step.what)
        setbacks[f"clean-{step.what}"] = Setback(reason="cleaned", message="m", first_s=0, attempts=1, not_before_s=999)
    assert kinds == list(Cleaning)
    assert isinstance(decide(strained(LOW_DISK, need=NEED, setbacks=setbacks), 100).step, Wait)


def test_cleaning_stops_as_soon_as_enough_is_free() -> None:
    assert isinstance(decide(strained(LOW_DISK, need=None), 100).step, Wait)


SAFE = SafeMode(reason="ordered", message="m", commit=None)


@pytest.mark.parametrize("changes", [{"held": Held(reason="ordered", message="m")}, {"trial": trial()}, {"safe": SAFE}])
def test_a_low_disk_is_cleaned_in_every_state(changes: dict[str, object]) -> None:
    assert isinstance(decide(strained(LOW_DISK, replace(settled(), **changes), need=NEED), 100).step, Clean)


def test_a_ledger_that_cannot_be_written_is_no_reason_not_to_clean() -> None:
    seen = observed(settled(), strain=LOW_DISK, need=NEED, unwritten=True)
    step = decide(seen, 100).step
    assert isinstance(step, Clean)
    assert step.keep == sparing.kept(seen.memory)


@given(st.integers(0, 4), st.none() | st.just(trial()))
def test_cleaning_keeps_what_runs_and_one_release_to_fall_back_on(earlier: int, begun: Trial | None) -> None:
    names = [str(number) for number in range(3, 3 + earlier)]
    releases = [Deployed(commit=CommitId(one * 40), release=ReleaseDigest(one * 64)) for one in names]
    memory = replace(settled(), earlier=tuple(releases), trial=begun)
    setbacks: dict[str, Setback] = {}
    for what in Cleaning:
        step = decide(strained(LOW_DISK, memory, need=NEED, setbacks=dict(setbacks)), 100).step
        assert isinstance(step, Clean)
        assert {OLD, *(one.release for one in releases[:1])} <= step.keep
        assert begun is None or NEW in step.keep
        if what is not Cleaning.RELEASES:  # images of all that is still on disk stay
            assert sparing.kept(memory) <= step.keep
        setbacks[f"clean-{what}"] = Setback(reason="cleaned", message="m", first_s=0, attempts=1, not_before_s=999)


def test_what_was_cleaned_is_told_and_forgotten() -> None:
    memory = sparing.spared(settled(), frozenset({"a", "b"}))
    assert sparing.spared(memory, frozenset({"a"})) == memory
    settled_now = sparing.cleaned(memory, Cleaning.SPARE_IMAGES, Cleaned(freed_bytes=2048, removed=1, images=("a",)))
    assert settled_now.memory.spare_images == ("b",)
    assert settled_now.sayings[0].detail["freed_bytes"] == 2048
    assert sparing.cleaned(memory, Cleaning.JOURNAL, Cleaned(freed_bytes=0)).sayings == ()


@given(st.integers(1, 300))
def test_names_of_spare_images_are_bounded(count: int) -> None:
    memory = sparing.spared(settled(), frozenset(f"image-{n}" for n in range(count)))
    assert len(memory.spare_images) == min(count, sparing.SPARE_IMAGES_KEPT)
