from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from metrica_fleet import gate as gates
from metrica_fleet.errors import Unusable
from metrica_fleet.gate import EVERYBODY, Asker, Gate, bucket, may_start, spread_s
from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.rollout import planned

C1, C2 = CommitId("1" * 40), CommitId("2" * 40)
AT = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
STAGES = (
    RolloutStage(name="canary", tags=("canary",), soak_s=100.0),
    RolloutStage(name="half", share=0.5, soak_s=200.0),
    RolloutStage(name="all", share=1.0),
    RolloutStage(name="last", devices=(DeviceId("boss"),)),
)
HOLD = RolloutPolicy(stages=STAGES, hub_silent_s=1000.0)
GO_ON = replace(HOLD, hub_silent="go-on")
FLEET = [DeviceId(f"pi-{number}") for number in range(10)]
EARLY = min(FLEET, key=lambda device: bucket(C1, device))
LATE = max(FLEET, key=lambda device: bucket(C1, device))


def gate(**changes: object) -> Gate:
    base = Gate(fleet="harbour", number=7, issued_at=AT, commit=C1)
    return replace(base, **changes)


def asker(device: str = EARLY, *tags: str) -> Asker:
    return Asker(device=DeviceId(device), tags=tags, commit=C1)


@pytest.mark.parametrize(
    ("policy", "heard", "who", "silent_s", "granted", "reason"),
    [
        (None, None, asker(), 0.0, True, "no-policy"),
        (HOLD, None, asker(), 0.0, False, "gate-closed"),
        (HOLD, None, asker(), 1000.0, False, "hub-silent"),
        (HOLD, gate(commit=C2, stage=3, threshold=EVERYBODY, state="done"), asker(), 0.0, False, "gate-closed"),
        (HOLD, gate(stage=0), asker("x", "canary"), 0.0, True, "gate-open"),
        (HOLD, gate(stage=0), asker("x", "canary"), 9e9, True, "gate-open"),
        (HOLD, gate(stage=0), asker(), 0.0, False, "gate-closed"),
        (HOLD, gate(stage=1, threshold=bucket(C1, EARLY) + 1), asker(), 0.0, True, "gate-open"),
        (HOLD, gate(stage=1, threshold=bucket(C1, EARLY)), asker(), 0.0, False, "gate-closed"),
        (HOLD, gate(stage=2, threshold=EVERYBODY), asker("boss"), 0.0, False, "gate-closed"),
        (HOLD, gate(stage=3, threshold=EVERYBODY), asker("boss"), 0.0, True, "gate-open"),
        (HOLD, gate(stage=0, threshold=0, state="done"), asker("boss"), 0.0, True, "gate-open"),
        (HOLD, gate(stage=2, threshold=EVERYBODY, state="paused"), asker(), 0.0, False, "rollout-paused"),
        (HOLD, gate(stage=2, threshold=EVERYBODY, state="halted"), asker(), 0.0, False, "rollout-halted"),
        (HOLD, gate(stage=2, threshold=EVERYBODY, state="aborted"), asker(), 0.0, False, "rollout-aborted"),
        # By time: the hub is given up, and each stage opens when the one before had its soak.
        (GO_ON, None, asker("x", "canary"), 999.0, False, "gate-closed"),
        (GO_ON, None, asker("x", "canary"), 1000.0, True, "hub-silent"),
        (GO_ON, None, asker(), 1099.0, False, "gate-closed"),
        (GO_ON, None, asker(), 1100.0, True, "hub-silent"),
        (GO_ON, None, asker(LATE), 1299.0, False, "gate-closed"),
        (GO_ON, None, asker(LATE), 1300.0, True, "hub-silent"),
        (GO_ON, gate(stage=1, threshold=EVERYBODY // 2), asker(LATE), 999.0, False, "gate-closed"),
        (GO_ON, gate(stage=1, threshold=EVERYBODY // 2), asker(LATE), 1000.0, True, "hub-silent"),
        (GO_ON, gate(stage=2, state="halted"), asker(LATE), 9e9, False, "rollout-halted"),
        (GO_ON, gate(stage=2, state="paused"), asker(LATE), 9e9, False, "rollout-paused"),
    ],
)
def test_who_may_start(
    policy: RolloutPolicy | None, heard: Gate | None, who: Asker, silent_s: float, granted: object, reason: str
) -> None:
    permission = may_start(policy, heard, who, silent_s=silent_s)
    assert (permission.granted, permission.reason) == (granted, reason)


def test_a_silent_hub_does_not_stand_for_the_person_who_is_to_say_go_on() -> None:
    stages = (replace(STAGES[0], pause=True), *STAGES[1:])
    policy = replace(GO_ON, stages=stages)
    assert may_start(policy, None, asker("x", "canary"), silent_s=1000.0).granted
    assert not may_start(policy, None, asker(), silent_s=9e9).granted
    assert not may_start(policy, gate(stage=0), asker(), silent_s=9e9).granted
    assert may_start(policy, gate(stage=1), asker(LATE), silent_s=9e9).granted  # it has been said


@given(st.floats(0, 1e5), st.sampled_from([None, gate(stage=0), gate(stage=1)]), st.sampled_from(["canary", "other"]))
def test_who_waits_by_time_is_told_when_it_will_be_otherwise(silent_s: float, heard: Gate | None, tag: str) -> None:
    permission = may_start(GO_ON, heard, asker(LATE, tag), silent_s=silent_s)
    if permission.again_s is not None:
        assert may_start(GO_ON, heard, asker(LATE, tag), silent_s=silent_s + permission.again_s + 0.001).granted


@given(st.integers(1, 600), st.integers(0, 5))
def test_the_gate_of_a_plan_is_open_to_its_members_and_to_no_other(size: int, salt: int) -> None:
    commit = CommitId(f"{salt:040x}")
    tags = {DeviceId(f"pi-{number}"): ("canary",) if number % 50 == 3 else () for number in range(size)}
    plan = planned(HOLD, commit, {**tags, DeviceId("boss"): ("canary",)})
    for at, stage in enumerate(plan.stages):
        heard = gate(commit=commit, stage=at, threshold=stage.threshold)
        opened = {
            device
            for device in [*tags, DeviceId("boss")]
            if may_start(
                HOLD,
                heard,
                Asker(device=device, tags=("canary",) if device == "boss" else tags[device], commit=commit),
                silent_s=0.0,
            ).granted
        }
        assert opened == {device for one in plan.stages[: at + 1] for device in one.members}


def test_buckets_are_spread_evenly_and_the_downloads_with_them() -> None:
    places = [bucket(C1, DeviceId(f"pi-{number}")) / EVERYBODY for number in range(2000)]
    assert all(0 <= place < 1 for place in places)
    tenths = [sum(at / 10 <= place < (at + 1) / 10 for place in places) for at in range(10)]
    assert min(tenths) > 150
    waits = [spread_s(HOLD, C1, DeviceId(f"pi-{number}")) for number in range(100)]
    assert 0 <= min(waits) < 30
    assert 270 < max(waits) < 300
    assert sorted(FLEET, key=lambda one: bucket(C1, one)) != sorted(FLEET, key=lambda one: bucket(C2, one))


def test_a_gate_is_read_back_as_it_was_written_and_rubbish_is_none() -> None:
    one = gate(stage=1, threshold=EVERYBODY, previous=C2, state="aborted", revert=True, reason="it leaks")
    assert gates.read(gates.written(one)) == one
    for text in ("", "{}", '{"fleet":"harbour"}', gates.written(one).replace('"aborted"', '"ajar"'), "[" * 9999):
        with pytest.raises(Unusable) as error:
            gates.read(text)
        assert error.value.reason == "gate-unusable"


def test_a_gate_said_again_later_is_a_sign_of_life_and_a_repetition_of_bytes_is_none() -> None:
    later = gate(issued_at=AT + timedelta(minutes=5))
    assert gates.says_again(later, gate())
    assert not gates.says_again(gate(), gate())
    assert not gates.says_again(gate(), later)
    assert not gates.says_again(replace(later, stage=1), gate())


def test_numbers_go_on_above_whatever_was_said_even_when_the_database_came_back_from_a_copy() -> None:
    assert gates.next_number(0, 1_800_000_000.5) == 1_800_000_000
    assert gates.next_number(1_800_000_007, 1_800_000_000.5) == 1_800_000_008
