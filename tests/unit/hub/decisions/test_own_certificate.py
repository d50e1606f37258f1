from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.enrolment import chance_of, renewal_due
from metrica_hub.decisions.own_certificate import Own, is_expiring, is_to_be_renewed

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
OWN = Own("4f00ab", BEGIN, BEGIN + timedelta(days=90), is_renewable=True)
ELSEWHERE = OWN._replace(is_renewable=False)


def test_it_is_renewed_by_the_devices_rule_and_after_its_end_too() -> None:
    due = renewal_due(OWN.not_before, OWN.not_after, chance_of(OWN.serial))
    assert not is_to_be_renewed(OWN, due - timedelta(seconds=1))
    assert is_to_be_renewed(OWN, due)
    assert is_to_be_renewed(OWN, OWN.not_after + timedelta(days=4000))


def test_what_a_clock_signed_that_was_ahead_is_renewed_once_the_clock_is_right() -> None:
    assert not is_to_be_renewed(OWN, OWN.not_before)
    assert is_to_be_renewed(OWN, OWN.not_before - timedelta(seconds=1))


@given(st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)))
def test_what_another_authority_signed_is_never_renewed_and_is_told(since: timedelta) -> None:
    assert not is_to_be_renewed(ELSEWHERE, BEGIN + since)
    assert is_expiring(ELSEWHERE, BEGIN + since) is (since >= timedelta(days=76))


@given(st.timedeltas(timedelta(seconds=6), timedelta(days=3660)), st.integers(0, 2**64), st.floats(0, 1.2))
def test_nobody_is_told_of_one_that_is_renewed_in_time(life: timedelta, serial: int, passed: float) -> None:
    own = Own(f"{serial:x}", BEGIN, BEGIN + life, is_renewable=True)
    now = BEGIN + life * passed
    if is_expiring(own, now):
        assert is_to_be_renewed(own, now)
