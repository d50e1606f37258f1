from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from metrica_agent.adapters.papers import read_papers
from metrica_agent.decisions.renewing import (
    AGAIN_CAP_S,
    LOOK_S,
    Ask,
    Facts,
    Papers,
    Prove,
    Rest,
    decide,
    pause_s,
)
from metrica_fleet.enrolment import chance_of, renewal_due

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
PAPERS = Papers(serial="4f00ab", not_before=BEGIN, not_after=BEGIN + timedelta(days=90))
FACTS = Facts(
    now_s=5000.0,
    wall=BEGIN + timedelta(days=10),
    papers=PAPERS,
    has_next=False,
    linked=True,
    refused=None,
    chance=0.5,
    attempts=0,
    tried_s=None,
)
OLD = BEGIN + timedelta(days=80)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "good"),
        ({"papers": None}, "no-certificate"),
        ({"wall": OLD}, "ask"),
        ({"wall": BEGIN + timedelta(days=400)}, "ask"),
        # A clock that nobody sets right, or that is behind: 1970, last Tuesday.
        ({"wall": None}, "no-clock"),
        ({"wall": datetime(1970, 1, 1, tzinfo=UTC)}, "not-yet-valid"),
        # The broker's word counts without a clock.
        ({"wall": None, "linked": False, "refused": "expired"}, "ask"),
        ({"wall": OLD, "linked": False, "refused": "revoked"}, "revoked"),
        ({"has_next": True}, "prove"),
        ({"has_next": True, "linked": False}, "not-connected"),
        ({"has_next": True, "linked": False, "refused": "expired"}, "ask"),
        ({"has_next": True, "attempts": 1, "tried_s": 4990.0}, "just-tried"),
        ({"wall": OLD, "attempts": 1, "tried_s": 4990.0}, "just-tried"),
        ({"wall": OLD, "attempts": 1, "tried_s": 100.0}, "ask"),
    ],
)
def test_one_thing_is_done_at_a_time(changes: dict[str, object], outcome: str) -> None:
    match decide(structs.replace(FACTS, **changes)):
        case Ask():
            assert outcome == "ask"
        case Prove():
            assert outcome == "prove"
        case Rest(why=why):
            assert outcome == why


walls = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(
    wall=walls,
    chance=st.floats(0, 1, exclude_max=True),
    attempts=st.integers(0, 50),
    tried_s=st.none() | st.floats(0, 5000),
    has_next=st.booleans(),
    linked=st.booleans(),
)
def test_a_wrong_clock_never_makes_the_device_ask_more_often_than_its_patience(
    wall: datetime | None, chance: float, attempts: int, tried_s: float | None, *, has_next: bool, linked: bool
) -> None:
    facts = structs.replace(
        FACTS, wall=wall, chance=chance, attempts=attempts, tried_s=tried_s, has_next=has_next, linked=linked
    )
    step = decide(facts)
    if isinstance(step, Rest):
        assert facts.now_s <= step.until_s <= facts.now_s + LOOK_S
    elif attempts and tried_s is not None:
        assert facts.now_s >= tried_s + pause_s(attempts, chance)
    if isinstance(step, Ask):
        assert wall is not None
        assert wall >= renewal_due(PAPERS.not_before, PAPERS.not_after, chance)


@given(st.floats(0, 1, exclude_max=True))
def test_it_begins_after_two_thirds_and_leaves_a_fifth(chance: float) -> None:
    due = renewal_due(PAPERS.not_before, PAPERS.not_after, chance)
    assert BEGIN + timedelta(days=60) <= due <= BEGIN + timedelta(days=72)


def test_the_patience_grows_up_to_a_day_or_so() -> None:
    pauses = [pause_s(attempts, 0.5) for attempts in range(1, 40)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == AGAIN_CAP_S


def test_the_chance_of_a_certificate_is_in_its_serial() -> None:
    assert 0 <= chance_of("0") < chance_of("ffffff") < 1
    assert chance_of(PAPERS.serial) == chance_of(PAPERS.serial)


def test_what_openssl_prints_is_read_whatever_the_month() -> None:
    said = "serial=0A1B\nnotBefore=Feb  1 00:00:09 2026 GMT\nnotAfter=Dec 31 23:59:59 2026 GMT\n"
    assert read_papers(said) == Papers(
        serial="0a1b",
        not_before=datetime(2026, 2, 1, 0, 0, 9, tzinfo=UTC),
        not_after=datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
    )
    assert read_papers("serial=0A1B\n") is None
    assert read_papers(said.replace("GMT", "CET")) is None
