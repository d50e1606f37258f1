from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace
from tests.unit.hub.decisions.test_progress import AT, ROLLOUT

from metrica_fleet.rollout import Counts, Course
from metrica_hub.decisions.rollout_view import HeadView, detail_of, doubts_of

HEAD = HeadView(branch="main", commit="b" * 40, seen_at=AT, read_commit="b" * 40, problems=(), is_believed=True)


@pytest.mark.parametrize(
    ("course", "counts", "soaks"),
    [
        (Course(stage=0), Counts(confirmed=5), True),
        (Course(stage=0), Counts(confirmed=4, refused=1), True),
        (Course(stage=0), Counts(confirmed=4, started=1), False),
        (Course(stage=0), Counts(confirmed=4, waiting=1), False),
        (Course(stage=0), Counts(confirmed=4, due=1), False),
        (Course(stage=0, state="paused"), Counts(confirmed=5), False),
        (Course(stage=1), Counts(confirmed=5), False),  # whose soak is none
        (Course(), Counts(), False),
    ],
)
def test_a_stage_soaks_when_nobody_in_it_is_waited_for(course: Course, counts: Counts, *, soaks: bool) -> None:
    stages = tuple(replace(stage, counts=counts) for stage in ROLLOUT.stages)
    detail = detail_of(replace(ROLLOUT, stages=stages, course=course), (), (), AT)
    assert detail.soaks_until == (AT + timedelta(seconds=10) if soaks else None)


def test_a_stage_that_nobody_has_confirmed_does_not_soak() -> None:
    assert detail_of(replace(ROLLOUT, course=Course(stage=0)), (), (), None).soaks_until is None


def test_doubts_name_the_commit_and_the_way_out() -> None:
    assert doubts_of(HEAD) == ()
    assert doubts_of(replace(HEAD, is_believed=None)) == ()
    [unheeded, unusable] = doubts_of(replace(HEAD, is_believed=False, problems=("fleet.toml:1: no",)))
    assert "(commit bbbbbbbb) lacks this hub's key" in unheeded
    assert unheeded.endswith("metrica key prints the line to commit")
    assert unusable == "commit bbbbbbbb can't be used: fleet.toml:1: no"
