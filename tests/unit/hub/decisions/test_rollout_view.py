from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace
from tests.unit.hub.decisions.test_progress import AT, FIRST, POLICY, ROLLOUT

from metrica_fleet.rollout import Course, DeviceState
from metrica_hub.decisions.outcome import Outcome
from metrica_hub.decisions.progress import Devices, Entry
from metrica_hub.decisions.rollout_view import HeadView, detail_of, doubts_of

HEAD = HeadView(branch="main", commit="b" * 40, seen_at=AT, read_commit="b" * 40, problems=(), is_believed=True)


BEGAN_S = AT.timestamp()
PATIENCE_S = 60.0
PATIENT = replace(POLICY, waiting_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("states", "soaks_from_s"),
    [
        (["confirmed 5", "confirmed 7", "confirmed 6"], 7),
        (["confirmed 5", "confirmed 7", "refused 9"], 7),
        (["confirmed 5", "confirmed 7", "started 8"], None),
        (["confirmed 5", "confirmed 7", "waiting 0"], None),
        (["refused 5", "unchanged 5", "refused 5"], None),
        (["unchanged 5", "unchanged 5", "unchanged 5"], None),
    ],
)
def test_a_stage_soaks_when_nobody_in_it_is_waited_for(states: list[str], soaks_from_s: float | None) -> None:
    assert soaks(states, at_s=20) == soaks_from_s


@pytest.mark.parametrize(
    ("states", "soaks_from_s"),
    [
        (["confirmed 5", "confirmed 61", "confirmed 70"], 5),  # who came late is waited for by nobody
        (["confirmed 5", "confirmed 60", "waiting 0"], 60),
        (["confirmed 5", "confirmed 7", "started 61"], 7),
        (["confirmed 5", "confirmed 7", "started 59"], None),
        (["confirmed 65", "confirmed 70", "confirmed 75"], 65),  # but for the one that must be healthy
        (["confirmed 65", "started 70", "waiting 0"], 65),
    ],
)
def test_when_waiting_is_over_only_what_came_before_counts(states: list[str], soaks_from_s: float | None) -> None:
    assert soaks(states, at_s=80) == soaks_from_s


@pytest.mark.parametrize("course", [Course(), Course(stage=0, state="paused"), Course(stage=1)])
def test_no_soak_is_told_of_a_stage_that_is_not_open_or_has_none(course: Course) -> None:
    assert detail_of(replace(ROLLOUT, course=course), (), (), (), AT).soaks_until is None


def test_the_soak_that_is_told_is_the_one_after_which_the_next_stage_opens() -> None:
    members = entries_of(["confirmed 5", "confirmed 61", "waiting 0"])
    rollout = replace(ROLLOUT, policy=PATIENT, course=Course(stage=0, opened_s=BEGAN_S))
    until = detail_of(rollout, (), (), members, AT + timedelta(seconds=70)).soaks_until
    assert until == AT + timedelta(seconds=15)
    devices = Devices(rollout, members)
    stages = [devices.moved_on(rollout.course, BEGAN_S + at_s, listens=True).course.stage for at_s in (59.9, 60)]
    assert stages == [0, 1], "patience ends after that soak"


def soaks(states: list[str], *, at_s: float) -> float | None:
    """Return from when a stage soaks, in seconds since it was opened."""
    rollout = replace(ROLLOUT, policy=PATIENT, course=Course(stage=0, opened_s=BEGAN_S))
    until = detail_of(rollout, (), (), entries_of(states), AT + timedelta(seconds=at_s)).soaks_until
    return None if until is None else (until - AT).total_seconds() - POLICY.stages[0].soak_s


def entries_of(states: list[str]) -> list[Entry]:
    """Return devices of the first stage, each so since so many seconds."""
    said = [state.split() for state in states]
    return [
        Entry(
            device=FIRST[number],
            stage=0,
            release_before=None,
            outcome=Outcome(state=DeviceState(state), reason=None, message=""),
            since_s=BEGAN_S + float(since_s),
        )
        for number, (state, since_s) in enumerate(said)
    ]


def test_doubts_name_the_commit_and_the_way_out() -> None:
    assert doubts_of(HEAD) == ()
    assert doubts_of(replace(HEAD, is_believed=None)) == ()
    [unheeded, unusable] = doubts_of(replace(HEAD, is_believed=False, problems=("fleet.toml:1: no",)))
    assert "(commit bbbbbbbb) lacks this hub's key" in unheeded
    assert unheeded.endswith("metrica key prints the line to commit")
    assert unusable == "commit bbbbbbbb can't be used: fleet.toml:1: no"
