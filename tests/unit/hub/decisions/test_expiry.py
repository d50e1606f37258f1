from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.enrolment import renewal_due
from metrica_hub.decisions.expiry import Term, outlook, told_at
from metrica_hub.decisions.identity import GRACE

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def term(device: str, left: timedelta, life: timedelta = timedelta(days=90)) -> Term:
    return Term(device, NOW + left - life, NOW + left)


def test_what_ends_within_14_days_or_has_ended_is_told_and_what_nobody_can_renew_any_more_is_not() -> None:
    found = outlook(
        [
            term("soon", timedelta(days=14)),
            term("later", timedelta(days=14, seconds=1)),
            term("ended", -GRACE),
            term("forgotten", -GRACE - timedelta(seconds=1)),
        ],
        NOW,
    )
    assert found.expiring == {"soon": NOW + timedelta(days=14), "ended": NOW - GRACE}
    assert found.earliest == NOW - GRACE


def test_a_short_life_is_told_in_its_last_sixth() -> None:
    hours = timedelta(hours=6)
    told = outlook([term("a", timedelta(hours=1), hours), term("b", timedelta(hours=2), hours)], NOW)
    assert set(told.expiring) == {"a"}


def test_where_there_is_no_certificate_nothing_is_told() -> None:
    assert outlook([], NOW) == (None, {})


@given(st.timedeltas(timedelta(seconds=6), timedelta(days=3660)), st.floats(0, 1, exclude_max=True))
def test_nobody_is_told_before_the_device_has_asked(life: timedelta, chance: float) -> None:
    one = term("a", life, life)
    assert renewal_due(one.not_before, one.not_after, chance) < told_at(one)
