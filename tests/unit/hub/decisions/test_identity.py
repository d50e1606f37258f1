from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from metrica_fleet.identity import DeviceId
from metrica_hub.decisions.identity import (
    CRL_MADE_ANEW,
    GRACE,
    LONGEST_LIFE,
    Holding,
    Invitation,
    Refusal,
    is_due,
    judged_invitation,
    judged_renewal,
    life_of,
    listed,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
OURS, OTHER = b"o" * 32, b"x" * 32
FRESH = Invitation(number=1, device=DeviceId("pi-01"), is_good=True, spki=None, certificate=None)
USED = structs.replace(FRESH, spki=OURS, certificate="PEM")
RIPE = Holding(
    device=DeviceId("pi-01"),
    serial="a1",
    recipient=f"age1{'q' * 58}",
    spki=b"p" * 32,
    not_before=NOW - timedelta(days=60),
    not_after=NOW + timedelta(days=30),
    is_revoked=False,
    is_newest=True,
    next_spki=None,
    next_certificate=None,
)


@pytest.mark.parametrize(
    ("found", "spki", "verdict"),
    [
        (None, OURS, "token-unknown"),
        (FRESH, OURS, "issue"),
        (USED, OURS, "again"),
        (USED, OTHER, "token-used"),
        (structs.replace(FRESH, is_good=False), OURS, "token-ended"),
        (structs.replace(USED, is_good=False), OURS, "token-ended"),
    ],
)
def test_a_token_lets_one_key_in(found: Invitation | None, spki: bytes, verdict: str) -> None:
    judged = judged_invitation(found, spki)
    assert (judged.reason if isinstance(judged, Refusal) else judged) == verdict


@pytest.mark.parametrize(
    ("changes", "spki", "verdict"),
    [
        ({}, OURS, "issue"),
        ({}, RIPE.spki, "key-known"),
        ({"is_revoked": True}, OURS, "certificate-revoked"),
        ({"is_revoked": True, "is_newest": False, "next_spki": OURS}, OURS, "certificate-revoked"),
        ({"is_newest": False, "next_spki": OURS}, OURS, "again"),
        ({"is_newest": False, "next_spki": OTHER}, OURS, "certificate-superseded"),
        ({"not_before": NOW - timedelta(days=10)}, OURS, "too-early"),
        ({"not_before": NOW - timedelta(days=200), "not_after": NOW - timedelta(days=100)}, OURS, "issue"),
        ({"not_after": NOW - GRACE - timedelta(days=1)}, OURS, "too-late"),
    ],
)
def test_a_certificate_is_followed_once_in_time_and_not_when_it_was_revoked(
    changes: dict[str, object], spki: bytes, verdict: str
) -> None:
    judged = judged_renewal(structs.replace(RIPE, **changes), spki, NOW)
    assert (judged.reason if isinstance(judged, Refusal) else judged) == verdict


def test_a_certificate_that_nobody_made_is_followed_by_none() -> None:
    assert isinstance(judged_renewal(None, OURS, NOW), Refusal)


def test_a_certificate_is_good_a_little_before_it_is_made() -> None:
    assert life_of(NOW, timedelta(days=90)) == (NOW - timedelta(hours=1), NOW + timedelta(days=90))
    assert life_of(NOW, timedelta(seconds=50)) == (NOW - timedelta(seconds=5), NOW + timedelta(seconds=50))


serials = st.dictionaries(st.sampled_from("abcdef"), st.just(NOW - timedelta(days=3)))


@given(kept=serials, known=serials)
def test_a_database_that_was_restored_lets_nobody_in_again(
    kept: dict[str, datetime], known: dict[str, datetime]
) -> None:
    assert set(listed(kept, known, NOW)) == {*kept, *known}


def test_what_was_revoked_longer_ago_than_any_certificate_lasts_is_left_out() -> None:
    assert listed({"a": NOW - LONGEST_LIFE}, {"b": NOW}, NOW) == {"b": NOW}


def test_the_list_is_written_when_it_lacks_something_or_is_old() -> None:
    assert is_due((), (), None, NOW)
    assert is_due(("a",), ("a", "b"), NOW, NOW)
    assert not is_due(("a", "b"), ("a",), NOW, NOW + CRL_MADE_ANEW / 2)
    assert is_due(("a",), ("a",), NOW, NOW + CRL_MADE_ANEW)
    assert is_due(("a",), ("a",), NOW + timedelta(days=1), NOW)
