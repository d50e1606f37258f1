"""Which partitions must be there, and which may go."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.retention import AHEAD, Cut, Growing, outlived, partition_of, wanted

BEATS = Growing("heartbeats", Cut.DAY, 90)
EVENTS = Growing("events", Cut.MONTH, 365)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("table", "at", "name", "begins", "ends"),
    [
        (BEATS, (2026, 2, 28), "heartbeats_20260228", (2026, 2, 28), (2026, 3, 1)),
        (BEATS, (2026, 12, 31), "heartbeats_20261231", (2026, 12, 31), (2027, 1, 1)),
        (EVENTS, (2026, 2, 28), "events_202602", (2026, 2, 1), (2026, 3, 1)),
        (EVENTS, (2026, 12, 31), "events_202612", (2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_a_partition_holds_a_day_or_a_month_of_utc(
    table: Growing, at: tuple[int, int, int], name: str, begins: tuple[int, int, int], ends: tuple[int, int, int]
) -> None:
    found = partition_of(table, datetime(*at, 23, 59, tzinfo=UTC))
    assert (found.name, found.begins, found.ends) == (name, datetime(*begins, tzinfo=UTC), datetime(*ends, tzinfo=UTC))


def test_a_time_of_another_zone_belongs_to_its_day_in_utc() -> None:
    at = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert partition_of(BEATS, at).name == "heartbeats_20260228"


@given(TIMES, st.sampled_from([BEATS, EVENTS]))
def test_what_is_wanted_reaches_ahead_without_a_gap(now: datetime, table: Growing) -> None:
    found = wanted(table, now, now)
    assert found[0].begins <= now < found[0].ends
    assert found[-1].ends > now + AHEAD
    assert all(one.ends == following.begins for one, following in itertools.pairwise(found))


@given(TIMES, st.sampled_from([BEATS, EVENTS]))
def test_nothing_goes_that_holds_something_to_keep(now: datetime, table: Growing) -> None:
    begin = now - timedelta(days=table.kept_days + 70)
    there = wanted(table, begin, now)
    gone = outlived(table, [one.name for one in there], now)
    kept_from = now - timedelta(days=table.kept_days)
    assert gone == tuple(one.name for one in there if one.ends <= kept_from)
    assert gone


def test_what_is_no_partition_is_left_alone() -> None:
    names = ["heartbeats_5m_sums_202001", "heartbeats_20200101", "heartbeats_2020", "heartbeats_20201399", "mine"]
    assert outlived(BEATS, names, datetime(2026, 1, 1, tzinfo=UTC)) == ("heartbeats_20200101",)
