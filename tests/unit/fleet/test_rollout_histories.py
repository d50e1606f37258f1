"""Whole rollouts, hub and devices together, over fleets of 1 to 600: what must hold in every one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, floor
from random import Random

import pytest
from msgspec.structs import replace

from metrica_fleet import rollout
from metrica_fleet.gate import Asker, Gate, may_start, next_number
from metrica_fleet.identity import CommitId, DeviceId, FleetId
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.rollout import Course, DeviceState, Seen, advance, counted, planned

HISTORIES = 100 if os.environ.get("METRICA_QUICK") else 1000
BEGAN = datetime(2027, 3, 1, tzinfo=UTC)
TRIAL_S = 120.0
PERSON_S = 7200.0
STATES = ("well", "ill", "dies", "refuses", "unchanged")


def a_policy(chance: Random, names: list[DeviceId]) -> RolloutPolicy:
    shares = sorted({chance.choice((0.01, 0.1, 0.25, 0.29, 0.5)) for _ in range(chance.randint(0, 3))})
    stages = [RolloutStage(name=f"share-{share}".replace(".", "-"), share=share) for share in (*shares, 1.0)]
    if chance.random() < 0.6:
        some = tuple(chance.sample(names, min(len(names), chance.randint(1, 3))))
        canary = RolloutStage(name="canary", devices=some, tags=chance.choice(((), ("canary",))))
        stages.insert(chance.choice((0, 0, 0, len(stages))), canary)
    stages = [replace(stage, soak_s=chance.choice((0.0, 60.0, 600.0))) for stage in stages]
    if len(stages) > 1 and chance.random() < 0.3:
        stages[0] = replace(stages[0], pause=True)
    return RolloutPolicy(
        failure_share=chance.choice((0.0, 0.05, 0.05, 0.1, 0.29, 1.0)),
        minimum_healthy=chance.choice((0, 1, 1, 5)),
        deadline_s=chance.choice((300.0, 1800.0)),
        waiting_s=chance.choice((0.0, 3600.0, 86_400.0)),
        stages=tuple(stages),
    )


@dataclass
class Device:
    """One that obeys the last gate it heard, and is ill, offline or of the kind that changes its mind."""

    asker: Asker
    kind: str
    away_until_s: float
    heard: Gate | None = None
    began_s: float | None = None
    done: str | None = None

    def live(self, policy: RolloutPolicy, gate: Gate, now_s: float) -> None:
        if now_s < self.away_until_s:
            return
        if self.heard is None or gate.number > self.heard.number:
            self.heard = gate
        if self.done is not None:
            return
        if self.began_s is None:
            if self.kind in {"refuses", "unchanged"}:
                self.done = self.kind
            elif may_start(policy, self.heard, self.asker, silent_s=0.0).granted:
                self.began_s = now_s
        elif now_s >= self.began_s + TRIAL_S and self.kind != "dies":
            self.done = self.kind


@dataclass
class History:
    """A rollout from its first gate to its end, and whoever is in it."""

    seed: int
    halts: int = 0

    def run(self) -> str:
        chance = Random(self.seed)
        size = chance.choice((1, 2, 3, 5, 9, 19, 20, 21, chance.randint(1, 60), chance.randint(1, 60), 600))
        names = [DeviceId(f"pi-{number}") for number in range(size)]
        tags = {name: ("canary",) if chance.random() < 0.1 else () for name in names}
        commit = CommitId(f"{self.seed:040x}")
        policy = a_policy(chance, names)
        plan = planned(policy, commit, tags)
        ill, away = chance.choice((0.0, 0.0, 0.03, 0.3, 1.0)), chance.choice((0.0, 0.0, 0.2, 1.0))
        devices = {
            name: Device(
                asker=Asker(device=name, tags=tags[name], commit=commit),
                kind=chance.choice(STATES[1:]) if chance.random() < ill else "well",
                away_until_s=chance.choice((1e12, chance.uniform(0, 2e5))) if chance.random() < away else 0.0,
            )
            for name in names
        }
        seen: dict[DeviceId, Seen] = {}
        course, number, now_s, waits_since_s = Course(), 100, 0.0, None
        places = plan.places()
        gate = self._said(course, commit, number, now_s)
        for _ in range(4000):
            verdict = advance(plan, course, seen, now_s)
            while verdict.course != course:
                self._check(plan, course, verdict.course, seen, now_s)
                course, number = verdict.course, next_number(number, 0)
                gate = self._said(course, commit, number, now_s)
                verdict = advance(plan, course, seen, now_s)
            if course.is_over:
                return course.state
            assert course.state == "open" or course.message, "it waits, and does not say for what"
            news = self._live(plan, devices, places, seen, course, gate, now_s)
            if course.state in {"paused", "halted"}:
                waits_since_s = now_s if waits_since_s is None else waits_since_s
                word = None if now_s < waits_since_s + PERSON_S else self._person(chance, plan, course, seen, now_s)
            else:
                waits_since_s = None
                word = rollout.paused(course, "a look") if chance.random() < 0.01 else None
            if word is not None:
                course, number, waits_since_s = word, next_number(number, 0), None
                gate = self._said(course, commit, number, now_s)
            elif not news:
                now_s = self._next_s(devices, verdict.until_s, waits_since_s, now_s)
        pytest.fail(f"history {self.seed} neither ends nor says why: {course}")

    def _live(
        self,
        plan: rollout.Plan,
        devices: dict[DeviceId, Device],
        places: dict[DeviceId, int],
        seen: dict[DeviceId, Seen],
        course: Course,
        gate: Gate,
        now_s: float,
    ) -> bool:
        """Let every device go on, and tell the hub; return whether there is news."""
        before = dict(seen)
        for name, device in devices.items():
            begun = device.began_s is not None
            device.live(plan.policy, gate, now_s)
            if not begun and device.began_s is not None:
                assert course.state == "open", "a device starts although the hub has stopped"
                assert places[name] <= course.stage, "a device starts before its stage"
            found = self._found(device, now_s, course, places[name])
            if found != seen.get(name, Seen(DeviceState.WAITING, 0.0)).state:
                seen[name] = Seen(found, now_s)
        return seen != before

    def _found(self, device: Device, now_s: float, course: Course, place: int) -> DeviceState:
        match device.done:
            case "well":
                return DeviceState.CONFIRMED
            case "unchanged":
                return DeviceState.UNCHANGED
            case "ill" | "refuses":
                return DeviceState.REFUSED
            case _:
                pass
        if device.began_s is not None:
            return DeviceState.STARTED
        due = now_s >= device.away_until_s and course.state == "open" and place <= course.stage
        return DeviceState.DUE if due else DeviceState.WAITING

    def _said(self, course: Course, commit: CommitId, number: int, now_s: float) -> Gate:
        at = BEGAN + timedelta(seconds=now_s)
        gate = rollout.gate_of(
            course, fleet=FleetId("harbour"), commit=commit, previous=None, number=number, issued_at=at
        )
        assert gate is not None
        return gate

    def _person(
        self, chance: Random, plan: rollout.Plan, course: Course, seen: dict[DeviceId, Seen], now_s: float
    ) -> Course:
        if course.state == "halted" and (chance.random() < 0.5 or self.halts > 5):
            return rollout.aborted(course, "it will not do", revert=chance.random() < 0.5)
        return rollout.resumed(plan, course, seen, now_s, "go on")

    def _next_s(
        self, devices: dict[DeviceId, Device], until_s: float | None, waits_since_s: float | None, now_s: float
    ) -> float:
        times = [one.began_s + TRIAL_S for one in devices.values() if one.began_s is not None and one.done is None]
        times += [one.away_until_s for one in devices.values()]
        times += [until_s] if until_s is not None else []
        times += [waits_since_s + PERSON_S] if waits_since_s is not None else []
        later = [time for time in times if time > now_s]
        assert later, "nothing is waited for, and nothing ends"
        return min(later)

    def _check(
        self, plan: rollout.Plan, before: Course, after: Course, seen: dict[DeviceId, Seen], now_s: float
    ) -> None:
        assert after.stage in {before.stage, before.stage + 1}, "a stage is left out, or closed again"
        assert after.threshold >= before.threshold, "a stage shrinks"
        counts = counted(plan, before, seen, now_s)
        if after.stage > before.stage >= 0 or after.state == "done":
            passed = counts[before.stage]
            waiting = passed.waiting + passed.due
            given_up = now_s >= before.opened_s + plan.policy.waiting_s
            assert waiting == 0 or given_up, "a stage passes while somebody waits"
            assert passed.started == 0 or given_up, "a stage passes while somebody is on trial"
            assert passed.confirmed >= min(plan.policy.minimum_healthy, passed.reached)
            for one in counts[: before.stage + 1]:
                tried = one.confirmed + one.refused + one.silent + one.started + one.due
                assert one.refused + one.silent <= floor(round(plan.policy.failure_share * tried, 9))
        if after.state == "halted" and after.reason == rollout.FAILURES:
            self.halts += 1
            shares = [
                one.failed > round(plan.policy.failure_share * (one.reached + one.due), 9) - 1
                for one in counts[: before.stage + 1]
                if one.failed
            ]
            assert any(shares), "it halts below its limit"


def test_a_thousand_rollouts_keep_every_promise() -> None:
    ends: dict[str, int] = {}
    halts = 0
    for seed in range(HISTORIES):
        history = History(seed)
        end = history.run()
        ends[end] = ends.get(end, 0) + 1
        halts += history.halts > 0
    assert set(ends) == {"done", "aborted"}
    assert ends["done"] > HISTORIES // 3
    assert halts > HISTORIES // 6, "the histories are too peaceful to show anything"


@pytest.mark.parametrize("size", [1, 2, 5, 19, 20, 99, 100, 500, 600])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.29, 0.5])
def test_a_commit_that_breaks_everything_stops_at_the_first_stage(size: int, share: float) -> None:
    names = {DeviceId(f"pi-{number}"): () for number in range(size)}
    policy = RolloutPolicy(
        stages=(RolloutStage(name="some", share=share), RolloutStage(name="all", share=1.0)),
    )
    plan = planned(policy, CommitId("a" * 40), names)
    first = plan.stages[0].members
    assert len(first) == ceil(round(share * size, 9))
    course = advance(plan, Course(), {}, 0.0).course
    seen: dict[DeviceId, Seen] = dict.fromkeys(first, Seen(DeviceState.DUE, 0.0))
    failed = 0
    for device in first:
        seen[device] = Seen(DeviceState.REFUSED, 1.0)
        failed += 1
        course = advance(plan, course, seen, 1.0).course
        if course.state == "halted":
            break
    assert course.state == "halted"
    assert failed == floor(round(0.05 * len(first), 9)) + 1
