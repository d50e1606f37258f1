from __future__ import annotations

from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import (
    NEW,
    NEW_COMMIT,
    OLD,
    OLD_COMMIT,
    desired,
    observed,
    release,
    sample,
    settled,
    silence,
    trial,
)

from metrica_agent.decisions.drift import Difference
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.repair import SETTLING_S
from metrica_agent.decisions.steps import (
    Apply,
    Mend,
    Preflight,
    Setback,
    Settle,
    Stage,
    StageSafe,
    Sweep,
    Switch,
    Wait,
    step_key,
)
from metrica_agent.decisions.trial import Finding, Watch
from metrica_agent.decisions.world import Deployed, Memory, Refused, TrialKind, Unacceptable
from metrica_fleet.identity import BootId, ReleaseDigest

NOW_S = 100.0
NOT_MENDED = {
    f"mend:{OLD}": Setback(reason="release-lost", message="no copy", first_s=99, attempts=1, not_before_s=NOW_S + 9)
}
EXITED = Difference(subject="web", message="web is exited")
RESOLVED = Deployed(commit=NEW_COMMIT, release=NEW)
WANTED = replace(settled(), accepted=NEW_COMMIT)
STAGED = replace(WANTED, resolved=RESOLVED)
ON_TRIAL = replace(STAGED, trial=trial(applied_s=90))
GOING_BACK = replace(
    WANTED,
    trial=trial(TrialKind.BACK, commit=OLD_COMMIT, release=OLD, applied_s=90),
    refused=(Refused(commit=NEW_COMMIT, reason="unhealthy", message="m", release=NEW),),
)
BAD = Finding(subject="web", reason="unhealthy", message="web is unhealthy", hopeless=True)


def kinds(step: object) -> list[str]:
    assert isinstance(step, Settle)
    return [saying.kind for saying in step.sayings]


def test_a_quiet_device_rests() -> None:
    choice = decide(observed(settled(), candidate=desired(OLD_COMMIT), complete=frozenset({OLD})), NOW_S)
    assert choice.rule == "rest"


def test_a_new_commit_is_accepted_then_staged_preflighted_and_begun() -> None:
    accept = decide(observed(settled(), candidate=desired()), NOW_S)
    assert kinds(accept.step) == ["commit.seen"]
    stage = decide(observed(WANTED, candidate=desired()), NOW_S)
    assert isinstance(stage.step, Stage)
    preflight = decide(observed(STAGED, candidate=desired()), NOW_S)
    assert isinstance(preflight.step, Preflight)
    begin = decide(observed(STAGED, candidate=desired(), preflighted=NEW), NOW_S)
    assert kinds(begin.step) == ["release.trial_started"]
    assert isinstance(begin.step, Settle)
    assert begin.step.memory.trial is not None
    assert begin.step.memory.trial.release == NEW


def test_a_trial_is_recorded_before_the_switch_and_switched_before_it_is_applied() -> None:
    begun = replace(STAGED, trial=trial(applied_s=None))
    assert isinstance(decide(observed(begun, current=OLD), NOW_S).step, Switch)
    apply = decide(observed(begun), NOW_S).step
    assert isinstance(apply, Apply)
    assert apply.trial


def test_no_trial_begins_on_an_old_look_or_a_silent_engine() -> None:
    for seen in (None, sample(1), silence(99)):
        choice = decide(observed(STAGED, candidate=desired(), preflighted=NEW, sample=seen), NOW_S)
        assert choice.rule == "update.look"


def test_a_commit_that_means_the_same_release_is_confirmed_without_touching_anything() -> None:
    memory = replace(WANTED, resolved=Deployed(commit=NEW_COMMIT, release=OLD))
    choice = decide(observed(memory, candidate=desired()), NOW_S)
    assert choice.rule == "update.unchanged"
    assert isinstance(choice.step, Settle)
    assert choice.step.memory.confirmed == Deployed(commit=NEW_COMMIT, release=OLD)


def test_what_was_broken_for_long_before_is_excused_in_the_trial() -> None:
    ill = {"web": NOW_S - release().health.start_deadline_s}
    begin = decide(observed(STAGED, candidate=desired(), preflighted=NEW, ailing_since_s=ill), NOW_S).step
    assert isinstance(begin, Settle)
    assert begin.memory.trial is not None
    assert begin.memory.trial.excused == ("web",)


def test_what_may_only_be_starting_is_waited_for_and_not_excused() -> None:
    ill = {"web": NOW_S - 1}
    choice = decide(observed(STAGED, candidate=desired(), preflighted=NEW, ailing_since_s=ill), NOW_S)
    assert choice.rule == "update.settle"
    assert choice.step == Wait(until_s=NOW_S - 1 + release().health.start_deadline_s)


def test_a_healthy_trial_is_confirmed_and_the_old_release_kept_to_fall_back_on() -> None:
    watch = Watch(steady_since_s=80, last_sample_s=91)
    choice = decide(observed(ON_TRIAL, watch=watch), NOW_S)
    assert kinds(choice.step) == ["release.confirmed"]
    assert isinstance(choice.step, Settle)
    assert choice.step.memory.confirmed == RESOLVED
    assert choice.step.memory.earlier == (Deployed(commit=OLD_COMMIT, release=OLD),)


def test_a_failed_trial_is_refused_and_goes_back_as_a_trial() -> None:
    choice = decide(observed(ON_TRIAL, watch=Watch(verdict=BAD)), NOW_S)
    assert kinds(choice.step) == ["release.refused", "rollback.started"]
    assert isinstance(choice.step, Settle)
    back = choice.step.memory.trial
    assert back is not None
    assert (back.kind, back.release, back.applied_s) == (TrialKind.BACK, OLD, None)
    assert choice.step.memory.refusal_of(NEW_COMMIT) is not None


def test_the_way_back_is_judged_like_the_way_forward() -> None:
    done = decide(observed(GOING_BACK, watch=Watch(steady_since_s=80, last_sample_s=91)), NOW_S)
    assert kinds(done.step) == ["rollback.finished"]
    stuck = decide(observed(GOING_BACK, watch=Watch(verdict=BAD)), NOW_S)
    assert kinds(stuck.step) == ["rollback.failed", "safe_mode.entered"]


def test_a_way_back_that_fails_tries_the_release_before() -> None:
    older = Deployed(commit=NEW_COMMIT, release=ReleaseDigest("c" * 64))
    memory = replace(GOING_BACK, earlier=(older,))
    choice = decide(observed(memory, watch=Watch(verdict=BAD)), NOW_S)
    assert kinds(choice.step) == ["rollback.failed", "rollback.started"]
    assert isinstance(choice.step, Settle)
    assert choice.step.memory.trial is not None
    assert choice.step.memory.trial.release == older.release


def test_a_refused_commit_is_not_tried_again() -> None:
    memory = replace(WANTED, refused=(Refused(commit=NEW_COMMIT, reason="r", message="m"),))
    choice = decide(observed(memory, candidate=desired(), complete=frozenset({OLD})), NOW_S)
    assert choice.rule == "rest"


def test_another_commit_that_means_a_release_that_failed_is_refused_as_well() -> None:
    memory = replace(STAGED, refused=(Refused(commit=OLD_COMMIT, reason="r", message="m", release=NEW),))
    choice = decide(observed(memory, candidate=desired()), NOW_S)
    assert kinds(choice.step) == ["release.refused"]


def test_an_unacceptable_commit_is_refused_once() -> None:
    bad = Unacceptable(commit=NEW_COMMIT, reason="unknown-key", message="devices/pi-01.toml:1: ...")
    first = decide(observed(settled(), candidate=bad), NOW_S)
    assert kinds(first.step) == ["commit.refused"]
    assert isinstance(first.step, Settle)
    again = decide(observed(first.step.memory, candidate=bad, complete=frozenset({OLD})), NOW_S)
    assert again.rule == "rest"


def test_a_first_release_that_fails_leads_into_safe_mode() -> None:
    first = Memory(accepted=NEW_COMMIT, role=desired().role, resolved=RESOLVED, trial=trial(applied_s=90))
    failed = decide(observed(first, watch=Watch(verdict=BAD)), NOW_S).step
    assert kinds(failed) == ["release.refused", "safe_mode.entered"]
    assert isinstance(failed, Settle)
    staged = decide(observed(failed.memory, candidate=desired(), current=NEW), NOW_S)
    assert staged.step == StageSafe()


def test_a_boot_in_a_trial_is_counted_and_applied_anew_until_the_bound() -> None:
    elsewhere = observed(ON_TRIAL, boot_id=BootId("boot-2"))
    choice = decide(elsewhere, NOW_S)
    assert isinstance(choice.step, Settle)
    after = choice.step.memory.trial
    assert after is not None
    assert (after.boots, after.applied_s, after.boot_id) == (1, None, "boot-2")
    too_many = replace(ON_TRIAL, trial=trial(applied_s=90, boots=4))
    assert kinds(decide(observed(too_many), NOW_S).step) == ["release.refused", "rollback.started"]


def test_a_setback_waits_and_a_preflight_that_never_succeeds_is_refused_at_its_deadline() -> None:
    step = Preflight(desired=desired(), release=NEW)
    setback = Setback(reason="image-unreachable", message="no route", first_s=0, attempts=3, not_before_s=110)
    seen = observed(STAGED, candidate=desired(), setbacks={step_key(step): setback}, complete=frozenset({OLD, NEW}))
    assert decide(seen, NOW_S).step == Wait(until_s=110)
    late = desired().limits.pull_deadline_s + 1
    refused = decide(seen, late)
    assert kinds(refused.step) == ["release.refused"]


def test_an_image_that_is_lost_in_a_trial_is_waited_for_no_longer_than_before_it_and_not_at_all_on_the_way_back() -> (
    None
):
    step = Apply(release=NEW, trial=True)
    gone = Setback(reason="image-unreachable", message="no route", first_s=50, attempts=3, not_before_s=110)
    trying = replace(STAGED, trial=trial(applied_s=None))
    seen = observed(trying, setbacks={step_key(step): gone})
    assert decide(seen, NOW_S).step == Wait(until_s=110)
    assert decide(seen, 111).step == step
    late = 50 + release().limits.pull_deadline_s
    assert kinds(decide(seen, late).step) == ["release.refused", "rollback.started"]
    back = replace(GOING_BACK, trial=trial(TrialKind.BACK, commit=OLD_COMMIT, release=OLD, applied_s=None, begun_s=40))
    lost = {step_key(Apply(release=OLD, trial=True)): gone}
    assert kinds(decide(observed(back, setbacks=lost), NOW_S).step)[0] == "rollback.failed"
    from_before = {step_key(Apply(release=OLD, trial=True)): replace(gone, first_s=39, not_before_s=45)}
    assert decide(observed(back, setbacks=from_before), NOW_S).step == Apply(release=OLD, trial=True)


def test_an_engine_that_is_down_through_a_preflight_refuses_no_commit() -> None:
    step = Preflight(desired=desired(), release=NEW)
    for reason in ("engine-unresponsive", "disk-full", "release-altered"):
        setback = Setback(reason=reason, message="m", first_s=0, attempts=3, not_before_s=0)
        seen = observed(STAGED, candidate=desired(), setbacks={step_key(step): setback})
        late = desired().limits.pull_deadline_s + 1
        assert isinstance(decide(seen, late).step, Preflight)


def test_an_old_repair_does_not_hold_up_the_way_back() -> None:
    repair = Apply(release=OLD, trial=False)
    setback = Setback(reason="repaired", message="m", first_s=0, attempts=9, not_before_s=3600)
    back = replace(GOING_BACK, trial=trial(TrialKind.BACK, commit=OLD_COMMIT, release=OLD, applied_s=None))
    choice = decide(observed(back, setbacks={step_key(repair): setback}), NOW_S)
    assert choice.rule == "trial.apply"


def test_power_cuts_on_the_way_back_do_not_cost_the_proven_release() -> None:
    back = replace(GOING_BACK, trial=trial(TrialKind.BACK, commit=OLD_COMMIT, release=OLD, applied_s=90, boots=40))
    assert decide(observed(back), NOW_S).rule == "trial.wait"


def test_what_runs_is_not_swept_even_when_nothing_remembers_it() -> None:
    lost = observed(settled(), current=NEW, complete=frozenset({NEW}), release=None, setbacks=NOT_MENDED)
    assert decide(lost, NOW_S).rule == "setback.release-lost"


def test_a_device_says_that_all_is_well_only_when_it_saw_it() -> None:
    quiet = {"candidate": desired(OLD_COMMIT), "complete": frozenset({OLD})}
    assert decide(observed(settled(), **quiet), NOW_S).rule == "rest"
    assert decide(observed(settled(), **quiet, sample=silence(99)), NOW_S).rule == "rest.unwell"
    assert decide(observed(settled(), **quiet, ailing_since_s={"web": 1.0}), NOW_S).rule == "rest.unwell"


def test_a_waiting_update_does_not_keep_the_device_from_mending_what_it_runs() -> None:
    step = Preflight(desired=desired(), release=NEW)
    setback = Setback(reason="image-unreachable", message="no route", first_s=95, attempts=1, not_before_s=110)
    seen = observed(
        STAGED,
        candidate=desired(),
        setbacks={step_key(step): setback},
        differs=(EXITED,),
        differs_since_s=NOW_S - SETTLING_S - 1,
    )
    choice = decide(seen, NOW_S)
    assert isinstance(choice.step, Apply)
    assert not choice.step.trial


def test_drift_must_last_before_it_is_mended() -> None:
    seen = observed(settled(), differs=(EXITED,), differs_since_s=99.0, complete=frozenset({OLD}))
    assert decide(seen, NOW_S).rule == "drift.settling"


def test_a_link_that_points_elsewhere_is_set_right() -> None:
    assert decide(observed(settled(), current=NEW), NOW_S).step == Switch(release=OLD)


def test_releases_that_nothing_needs_are_swept() -> None:
    choice = decide(observed(settled(), candidate=desired(OLD_COMMIT)), NOW_S)
    assert choice.step == Sweep(keep=frozenset({OLD}))


def test_what_the_next_sweep_will_take_is_no_reason_to_wait() -> None:
    swept = Setback(reason="swept", message="it was swept just now", first_s=0, attempts=1, not_before_s=NOW_S + 10)
    seen = observed(settled(), candidate=desired(OLD_COMMIT), setbacks={step_key(Sweep(keep=frozenset())): swept})
    assert decide(seen, NOW_S).rule == "rest"
    assert decide(seen, swept.not_before_s).rule == "sweep"


def test_a_confirmed_release_that_is_lost_from_disk_is_restored_or_else_staged_again() -> None:
    gone = {"candidate": desired(OLD_COMMIT), "complete": frozenset[ReleaseDigest](), "release": None}
    assert isinstance(decide(observed(settled(), **gone), NOW_S).step, Mend)
    assert isinstance(decide(observed(settled(), **gone, setbacks=NOT_MENDED), NOW_S).step, Stage)


def test_release_is_judged_by_its_own_policy() -> None:
    assert release().health.soak_s == 10
