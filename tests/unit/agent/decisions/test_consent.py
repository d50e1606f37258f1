from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import (
    BOOT,
    NEW,
    NEW_COMMIT,
    OLD,
    desired,
    init,
    observed,
    release,
    sample,
    settled,
    trial,
    web,
)

from metrica_agent.decisions import consent, starting
from metrica_agent.decisions.drift import Difference
from metrica_agent.decisions.next_step import decide
from metrica_agent.decisions.standing import standing
from metrica_agent.decisions.steps import Apply, Observed, Preflight, Settle, Wait, WallTime
from metrica_agent.decisions.world import (
    Asking,
    Deployed,
    Desired,
    Felt,
    Held,
    InForce,
    Memory,
    Refused,
    SafeMode,
    Stopped,
    Strain,
    TrialKind,
    Waiting,
)
from metrica_fleet.identity import BootId, DeviceId
from metrica_fleet.policies import Day, RolloutPolicy, RolloutStage, ServicePolicy, UpdatePolicy
from metrica_fleet.stop import Level, Stop

NOW_S = 100.0
NIGHT = UpdatePolicy(windows=("22:00-04:30",), zone="Europe/Berlin", patience_s=1000)
STAGED = replace(settled(), accepted=NEW_COMMIT, resolved=Deployed(commit=NEW_COMMIT, release=NEW))
NOON, MIDNIGHT = WallTime(weekday=2, minute=720), WallTime(weekday=2, minute=0)


ANY_TIME = UpdatePolicy()


def wanted(update: UpdatePolicy = ANY_TIME, **services: ServicePolicy) -> Desired:
    return replace(desired(), update=update, services=services)


def ready(memory: Memory = STAGED, candidate: Desired | None = None, **changes: object) -> Observed:
    """A device that has all that it needs to begin, but for consent."""
    facts: dict[str, object] = {
        "candidate": candidate or wanted(),
        "preflighted": NEW,
        "preflighted_s": NOW_S,
        "offered": release(NEW),
        "sample": sample(NOW_S, web(OLD), init(OLD)),
    }
    return observed(memory, **{**facts, **changes})


def rule(seen: Observed, now_s: float = NOW_S) -> str:
    return decide(seen, now_s).rule


# --- windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("windows", "days", "weekday", "time", "is_open"),
    [
        ((), (), 0, "12:00", True),
        (("09:00-17:00",), (), 0, "09:00", True),
        (("09:00-17:00",), (), 0, "17:00", False),
        (("09:00-17:00",), (), 0, "08:59", False),
        (("22:00-04:30",), (), 0, "23:59", True),
        (("22:00-04:30",), (), 0, "00:00", True),
        (("22:00-04:30",), (), 0, "04:30", False),
        (("22:00-04:30",), (Day.MON,), 0, "22:00", True),
        (("22:00-04:30",), (Day.MON,), 1, "04:29", True),
        (("22:00-04:30",), (Day.MON,), 0, "04:29", False),
        (("22:00-04:30",), (Day.SUN,), 0, "04:29", True),
        (("00:00-24:00",), (Day.TUE,), 1, "23:59", True),
        ((), (Day.TUE,), 1, "00:00", True),
        ((), (Day.TUE,), 2, "00:00", False),
        (("01:00-02:00", "03:00-04:00"), (), 0, "03:30", True),
    ],
)
def test_when_a_window_is_open(
    windows: tuple[str, ...], days: tuple[Day, ...], weekday: int, time: str, is_open: object
) -> None:
    hour, minute = map(int, time.split(":"))
    policy = UpdatePolicy(windows=windows, days=days)
    assert consent.is_open(policy, WallTime(weekday=weekday, minute=hour * 60 + minute)) is is_open


def test_while_the_time_is_not_known_every_window_is_closed() -> None:
    assert consent.is_open(UpdatePolicy(), None)
    assert not consent.is_open(UpdatePolicy(windows=("00:00-24:00",)), None)


def test_outside_of_a_window_a_release_that_is_ready_waits_and_says_so_once() -> None:
    first = decide(ready(candidate=wanted(NIGHT), wall=NOON), NOW_S)
    assert first.rule == "consent.outside-window"
    assert isinstance(first.step, Settle)
    (told,) = first.step.sayings
    assert (told.kind, told.reason) == ("release.waiting", "outside-window")
    assert "22:00-04:30 (Europe/Berlin)" in told.message
    again = decide(ready(first.step.memory, wanted(NIGHT), wall=NOON), NOW_S + 1)
    assert (again.rule, isinstance(again.step, Wait)) == ("consent.outside-window", True)
    where = standing(first.step.memory, wanted(NIGHT), again)
    assert (where.reason, where.message) == ("outside-window", again.why)
    assert rule(ready(candidate=wanted(NIGHT), wall=MIDNIGHT)) == "update.begin"


def test_downloads_and_preflight_do_not_wait_for_a_window() -> None:
    assert rule(ready(candidate=wanted(NIGHT), wall=NOON, preflighted=None)) == "update.preflight"


def test_patience_ends_the_wait_for_a_window_and_it_is_said() -> None:
    waiting = Waiting(release=NEW, reason="outside-window", boot_id=BOOT, since_s=500, total_s=500)
    memory = replace(STAGED, waiting=replace(waiting, told=("outside-window",)))
    assert rule(ready(memory, wanted(NIGHT), wall=None), 999) == "consent.outside-window"
    choice = decide(ready(memory, wanted(NIGHT), wall=None, preflighted_s=1000, sample=sample(1000, web(OLD))), 1000)
    assert isinstance(choice.step, Settle)
    assert [one.reason for one in choice.step.sayings] == ["window-overridden", None]
    assert choice.step.memory.waiting is None


def test_after_a_wait_what_was_looked_at_before_it_is_looked_at_again() -> None:
    memory = replace(STAGED, waiting=Waiting(release=NEW, reason="outside-window", boot_id=BOOT, since_s=0))
    seen = ready(memory, wanted(NIGHT), wall=MIDNIGHT, preflighted_s=NOW_S - 61)
    assert isinstance(decide(seen, NOW_S).step, Preflight)


def test_time_waited_is_written_down_now_and_then_and_outlives_a_reboot() -> None:
    waiting = Waiting(release=NEW, reason="outside-window", boot_id=BOOT, since_s=0, told=("outside-window",))
    before = ready(replace(STAGED, waiting=waiting), wanted(replace(NIGHT, patience_s=5000)), wall=NOON)
    choice = decide(before, consent.PROGRESS_S)
    assert isinstance(choice.step, Settle)
    assert choice.step.sayings == ()
    kept = choice.step.memory.waiting
    assert kept is not None
    assert kept.total_s == consent.PROGRESS_S
    assert consent.waited(kept, BootId("another"), 7) == (consent.PROGRESS_S, 0.0)
    after = decide(replace(before, memory=choice.step.memory, boot_id=BootId("another")), 7)
    assert isinstance(after.step, Settle)
    assert after.step.memory.waiting == replace(kept, boot_id=BootId("another"), since_s=7)


HOT = Strain(heat=Felt(level=2, figures="81.0 °C"))
FREEZE = Stop(level=Level.FREEZE, scope="fleet", reason="smoke")
STOPPED_BY = InForce(stop=FREEZE, source="order", number=7, by="alice")
STOPPED = Stopped(number=7, by="alice", ordered=(FREEZE,), obeyed=STOPPED_BY, done=True)
SHUT = replace(desired(), rollout=RolloutPolicy(stages=(RolloutStage(name="all", share=1.0),)))
ASKING = Asking(commit=NEW_COMMIT, boot_id=BOOT, since_s=NOW_S, told=("gate-closed",))
LOCKED_SINCE_0 = Waiting(release=NEW, reason="locked", boot_id=BOOT, since_s=0, told=("locked",))
IN_THE_WAY = [
    ("a hold", {"held": Held(reason="ordered", message="m")}, None, "held"),
    ("a stop", {"stop": STOPPED}, None, "stop"),
    ("a hot machine", {"strain": HOT}, None, "strain.wait.heat-hot"),
    ("a gate", {"asking": ASKING}, SHUT, "gate."),
    ("a way back", {"trial": trial(TrialKind.BACK, release=OLD, applied_s=NOW_S)}, None, "trial.wait"),
    ("a refusal", {"refused": (Refused(commit=NEW_COMMIT, reason="r", message="m"),)}, None, "update.none"),
]


@pytest.mark.parametrize(("what", "changes", "candidate", "rules"), IN_THE_WAY, ids=[row[0] for row in IN_THE_WAY])
def test_no_patience_runs_while_something_else_is_waited_for(
    what: str, changes: dict[str, object], candidate: Desired | None, rules: str
) -> None:
    """Whoever holds the lock when the hold is over, maybe for a minute, has the patience that was left before it."""
    assert what
    patient = replace(candidate or wanted(), services={"web": ServicePolicy(lock_patience_s=600)})
    begun = replace(STAGED, waiting=LOCKED_SINCE_0)
    seen = ready(replace(begun, **changes), patient, locks=frozenset({"web"}), device=DeviceId("pi-01"), began_s=1.0)
    seen = replace(seen, strain=seen.memory.strain)
    first = decide(seen, NOW_S)
    assert first.rule.startswith(rules)
    assert isinstance(first.step, Settle)
    aside = first.step.memory.waiting
    assert aside is not None
    assert aside == replace(LOCKED_SINCE_0, aside=True, since_s=NOW_S, total_s=NOW_S, locked_s=NOW_S)
    assert isinstance(decide(replace(seen, memory=first.step.memory), NOW_S + 1).step, Wait)
    assert consent.waited(aside, BOOT, NOW_S + 1200) == (NOW_S, NOW_S)
    over = ready(replace(begun, waiting=aside), wanted(web=ServicePolicy(lock_patience_s=600)))
    again = decide(replace(over, locks=frozenset({"web"})), 1300)
    assert isinstance(again.step, Settle)
    assert (again.rule, again.step.sayings) == ("consent.locked", ())
    assert again.step.memory.waiting == replace(aside, aside=False, since_s=1300)


def test_a_repair_meanwhile_sets_no_wait_aside() -> None:
    waiting = replace(LOCKED_SINCE_0, reason="outside-window", told=("outside-window",))
    seen = ready(replace(STAGED, waiting=waiting), wanted(NIGHT), wall=NOON)
    choice = decide(
        replace(seen, differs=(Difference(subject="web", message="web has ended"),), differs_since_s=0.0), NOW_S
    )
    assert isinstance(choice.step, Apply)


def test_an_agent_that_starts_has_waited_what_was_written_down() -> None:
    """It may have been down for hours, and its clock is the machine's."""
    before = replace(STAGED, waiting=replace(LOCKED_SINCE_0, total_s=300, locked_s=300, since_s=300))
    after = starting.started(before, BOOT, 7200).memory.waiting
    assert after is not None
    assert consent.waited(after, BOOT, 7300) == (300, 300)


def test_a_loop_that_stood_still_for_hours_has_not_waited_for_hours() -> None:
    hours_s = 3 * 3600.0
    assert consent.waited(LOCKED_SINCE_0, BOOT, hours_s) == (consent.UNSEEN_S, consent.UNSEEN_S)


@settings(deadline=None)
@given(
    patience_s=st.floats(10, 1500),
    course=st.lists(
        st.tuples(st.sampled_from(["locked", "free", "held", "hot", "down", "outside"]), st.floats(1, 290)),
        min_size=1,
        max_size=40,
    ),
)
def test_no_lock_is_overridden_before_it_alone_was_waited_for_so_long(
    patience_s: float, course: list[tuple[str, float]]
) -> None:
    candidate = wanted(replace(NIGHT, patience_s=30 * 86_400), web=ServicePolicy(lock_patience_s=patience_s))
    memory, now_s, waited_s = STAGED, 1000.0, 0.0
    for what, lasts_s in course:
        state = replace(
            memory,
            held=Held(reason="ordered", message="m") if what == "held" else None,
            strain=HOT if what == "hot" else Strain(),
        )
        for at_s in (now_s, now_s + lasts_s):  # looked at when it begins, and just before it ends
            if what == "down":
                state = starting.started(state, BOOT, at_s).memory
                state = replace(state, starts=())
                continue
            facts = {"wall": NOON if what == "outside" else MIDNIGHT, "strain": state.strain}
            locks = frozenset[str]() if what == "free" else frozenset({"web"})
            fresh = {"preflighted_s": at_s, "sample": sample(at_s, web(OLD), init(OLD))}
            choice = decide(ready(state, candidate, locks=locks, **facts, **fresh), at_s)
            if choice.rule == "update.begin":
                assert isinstance(choice.step, Settle)
                overridden = [one for one in choice.step.sayings if one.kind == "consent.overridden"]
                assert not overridden or waited_s + (at_s - now_s) >= patience_s - 1e-6
                return
            state = choice.step.memory if isinstance(choice.step, Settle) else state
        memory, now_s = state, now_s + lasts_s
        waited_s += lasts_s if what == "locked" else 0.0


# --- locks ----------------------------------------------------------------------------------------------------


def test_a_service_that_holds_its_lock_puts_its_restart_off() -> None:
    first = decide(ready(locks=frozenset({"web"})), NOW_S)
    assert first.rule == "consent.locked"
    assert isinstance(first.step, Settle)
    assert [(one.kind, one.reason) for one in first.step.sayings] == [("release.waiting", "locked")]
    assert '"web"' in first.why
    freed = ready(first.step.memory)
    assert rule(freed, NOW_S + 5) == "update.begin"


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("it does not run", {"sample": sample(NOW_S, web(OLD, state="exited"), init(OLD))}),
        ("it is not touched", {"sample": sample(NOW_S, web(NEW), init(OLD))}),
        ("no such service runs", {"locks": frozenset({"other"})}),
    ],
)
def test_only_a_service_that_runs_and_would_be_restarted_is_asked(why: str, changes: dict[str, object]) -> None:
    assert why
    assert consent.held(replace(ready(locks=frozenset({"web"})), **changes), release(NEW)) == frozenset()


def test_a_service_that_would_be_removed_is_asked() -> None:
    without = replace(release(NEW), services=release(NEW).services[1:])
    assert consent.held(ready(locks=frozenset({"web"})), without) == {"web"}


def test_a_lock_is_overridden_when_its_patience_is_over_and_it_is_said() -> None:
    waiting = Waiting(release=NEW, reason="locked", boot_id=BOOT, since_s=0, told=("locked",))
    candidate = wanted(web=ServicePolicy(lock_patience_s=NOW_S))
    seen = ready(replace(STAGED, waiting=waiting), candidate, locks=frozenset({"web"}))
    assert rule(seen, NOW_S - 0.1) == "consent.locked"
    choice = decide(seen, NOW_S)
    assert isinstance(choice.step, Settle)
    assert [(one.kind, one.reason) for one in choice.step.sayings] == [
        ("consent.overridden", "lock-overridden"),
        ("release.trial_started", None),
    ]


def test_waiting_for_a_window_uses_up_no_patience_with_locks() -> None:
    waiting = Waiting(release=NEW, reason="outside-window", boot_id=BOOT, since_s=0, told=("outside-window",))
    candidate = wanted(NIGHT, web=ServicePolicy(lock_patience_s=50))
    seen = ready(replace(STAGED, waiting=waiting), candidate, wall=MIDNIGHT, locks=frozenset({"web"}))
    choice = decide(seen, NOW_S)
    assert choice.rule == "consent.locked"
    assert isinstance(choice.step, Settle)
    assert [one.reason for one in choice.step.sayings] == ["locked"]
    assert choice.step.memory.waiting is not None
    assert (choice.step.memory.waiting.total_s, choice.step.memory.waiting.locked_s) == (NOW_S, 0)


# --- what outranks both ---------------------------------------------------------------------------------------


def at_noon(memory: Memory, **changes: object) -> Observed:
    """A device that would have to wait for its window, and whose service holds its lock."""
    return ready(memory, wanted(NIGHT), **{"wall": NOON, "locks": frozenset({"web"}), **changes})


def test_the_first_release_and_the_way_out_of_safe_mode_do_not_ask() -> None:
    first = replace(STAGED, confirmed=None, portrait=None)
    assert rule(at_noon(first, release=None)) == "update.begin"
    safe = SafeMode(reason="crash-loop", message="m", commit=None, release=OLD, applied=True)
    assert rule(at_noon(replace(STAGED, safe=safe))) == "update.begin"


def test_a_way_back_and_a_hold_do_not_ask() -> None:
    back = replace(STAGED, trial=trial(TrialKind.BACK, release=OLD, applied_s=None))
    assert rule(at_noon(back)) == "trial.apply"
    assert rule(at_noon(replace(STAGED, held=Held(reason="ordered", message="m")))) == "held"


@settings(deadline=None)
@given(
    patience_s=st.floats(0, 5000),
    lock_patience_s=st.floats(0, 5000),
    walls=st.lists(st.sampled_from([None, NOON, MIDNIGHT]), min_size=1, max_size=6),
    locks=st.lists(st.sampled_from([frozenset[str](), frozenset({"web"})]), min_size=1, max_size=6),
    step_s=st.floats(5, 800),
)
def test_every_wait_ends(
    patience_s: float, lock_patience_s: float, walls: list[WallTime | None], locks: list[frozenset[str]], step_s: float
) -> None:
    candidate = wanted(replace(NIGHT, patience_s=patience_s), web=ServicePolicy(lock_patience_s=lock_patience_s))
    memory, now_s, turn = STAGED, 0.0, 0
    while now_s <= patience_s + lock_patience_s + 2 * step_s:
        facts = {"wall": walls[turn % len(walls)], "locks": locks[turn % len(locks)]}
        seen = ready(memory, candidate, **facts, preflighted_s=now_s, sample=sample(now_s, web(OLD), init(OLD)))
        choice = decide(seen, now_s)
        if choice.rule == "update.begin":
            return
        assert choice.rule.startswith("consent.")
        memory = choice.step.memory if isinstance(choice.step, Settle) else memory
        now_s, turn = now_s + step_s, turn + 1
    pytest.fail(f"it waits for ever: {memory.waiting}")
