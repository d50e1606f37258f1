"""A rollout in the memory of the hub that leads."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.identity import CommitId, DeviceId
from metrica_fleet.policies import RolloutPolicy, RolloutStage
from metrica_fleet.rollout import Counts, Course, planned
from metrica_hub.decisions.outcome import STARTED, WAITING, Outcome, Said
from metrica_hub.decisions.progress import Devices, Entry, Moved, Progress, Rollout, Stage

OLD, NEW = CommitId("a" * 40), CommitId("b" * 40)
NAMES = tuple(DeviceId(f"pi-{number:02d}") for number in range(10))
POLICY = RolloutPolicy(
    failure_share=0.2,
    deadline_s=100.0,
    stages=(RolloutStage(name="some", share=0.5, soak_s=10), RolloutStage(name="all", share=1.0, soak_s=0)),
)
PLAN = planned(POLICY, NEW, dict.fromkeys(NAMES, ()))
FIRST, REST = (stage.members for stage in PLAN.stages)
AT = datetime(2026, 1, 1, tzinfo=UTC)
ROLLOUT = Rollout(
    id=1,
    commit=NEW,
    previous=None,
    policy=POLICY,
    stages=tuple(Stage(name=stage.name, threshold=stage.threshold) for stage in PLAN.stages),
    course=Course(),
    number=1,
    begun_at=AT,
    changed_at=AT,
    ended_at=None,
)
PENDING = Said(connection="online", mode="steady", commit=OLD, wanted_commit=NEW, phase="pending", reason="in-progress")
TRIAL = Said(connection="online", mode="trial", commit=OLD, wanted_commit=NEW, phase="trial")
WELL = Said(connection="online", mode="steady", commit=NEW, wanted_commit=NEW, phase="confirmed", release="2" * 64)
ILL = Said(connection="online", mode="steady", commit=OLD, wanted_commit=NEW, phase="refused", reason="died")
GONE = Said(connection="offline", mode="steady", commit=OLD, wanted_commit=NEW, phase="pending")


def entries() -> list[Entry]:
    return [
        Entry(device=device, stage=at, release_before="1" * 64, outcome=WAITING, since_s=0.0)
        for at, stage in enumerate(PLAN.stages)
        for device in stage.members
    ]


class Leader:
    """A hub that leads, with what it has written down."""

    def __init__(self) -> None:
        self.devices = Devices(ROLLOUT, entries())
        self.course = Course()
        self.now_s = 0.0
        self.written = dict[DeviceId, Outcome]()

    def hears(self, said: Said, *devices: DeviceId) -> Leader:
        news: dict[DeviceId, Outcome] = {}
        self.devices.heard([Moved(device=device, change=1, said=said) for device in devices], news)
        self.devices.written(news, self.now_s)
        self.written |= news
        return self

    def after(self, seconds: float, *, listens: bool = True) -> Progress:
        self.now_s += seconds
        progress = self.devices.moved_on(self.course, self.now_s, listens=listens)
        self.course = progress.course
        return progress


def test_a_stage_opens_waits_soaks_and_gives_way_to_the_next() -> None:
    leader = Leader().hears(PENDING, *NAMES)
    assert leader.after(0).course.stage == 0
    progress = leader.hears(WELL, *FIRST).after(5)
    assert progress.counts == (Counts(confirmed=5), Counts(due=5))
    assert (progress.course.stage, progress.again_s) == (0, 5.0)
    assert leader.after(5).course.stage == 1
    assert leader.hears(WELL, *REST).after(1).course.state == "done"


def test_more_failures_than_the_policy_allows_halt_at_once() -> None:
    leader = Leader().hears(PENDING, *NAMES)
    leader.after(0)
    assert leader.hears(ILL, *FIRST[:1]).after(1).course.state == "open"
    assert leader.hears(ILL, *FIRST[1:2]).after(0).course.state == "halted"


def test_who_starts_and_says_nothing_more_has_failed_but_not_to_a_hub_that_did_not_listen() -> None:
    leader = Leader().hears(PENDING, *NAMES)
    leader.after(0)
    leader.hears(TRIAL, *FIRST[:2])
    progress = leader.after(101, listens=False)
    assert (progress.course.state, progress.counts[0].started) == ("open", 2)
    progress = leader.after(0)
    assert (progress.course.state, progress.counts[0].silent) == ("halted", 2)


def test_a_word_that_changes_nothing_is_not_written_down_and_strangers_are_not_heard() -> None:
    leader = Leader().hears(TRIAL, FIRST[0], DeviceId("stranger"))
    assert leader.written == {FIRST[0]: STARTED}
    leader.written.clear()
    assert leader.hears(TRIAL, FIRST[0]).written == {}
    news: dict[DeviceId, Outcome] = {}
    back = [Moved(device=FIRST[0], change=place, said=said) for place, said in enumerate((WELL, TRIAL))]
    leader.devices.heard(back, news)
    assert (news, leader.devices.cursor) == ({}, 1)


def test_a_device_that_is_taken_off_its_trial_waits_again() -> None:
    leader = Leader().hears(PENDING, *NAMES)
    leader.after(0)
    assert leader.hears(TRIAL, FIRST[0]).after(1).counts[0].started == 1
    assert leader.hears(PENDING, FIRST[0]).after(1).counts[0].due == len(FIRST)
    assert leader.hears(GONE, FIRST[0]).after(1).counts[0].waiting == 1


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from((PENDING, TRIAL, WELL, ILL, GONE))), max_size=40),
    st.randoms(),
)
def test_only_the_last_word_of_each_device_counts_however_they_are_grouped(
    words: list[tuple[DeviceId, Said]], chance: random.Random
) -> None:
    one_by_one, at_once = Leader(), Leader()
    for device, said in words:
        one_by_one.hears(said, device)
    last = list(dict(words).items())
    chance.shuffle(last)
    for device, said in last:
        at_once.hears(said, device)
    assert one_by_one.after(1).counts == at_once.after(1).counts


def test_a_hub_that_takes_over_finds_what_was_written_down() -> None:
    leader = Leader().hears(PENDING, *NAMES)
    leader.after(0)
    leader.hears(WELL, *FIRST[:3]).hears(ILL, FIRST[3])
    kept = [
        Entry(
            device=one.device,
            stage=one.stage,
            release_before=one.release_before,
            outcome=leader.written.get(one.device, WAITING),
            since_s=0.0,
        )
        for one in entries()
    ]
    other = Devices(ROLLOUT, kept)
    other.heard([Moved(device=device, change=1, said=PENDING) for device in (FIRST[4], *REST)], {})
    progress = leader.after(1)
    assert other.moved_on(progress.course, 1.0, listens=True).counts == progress.counts
