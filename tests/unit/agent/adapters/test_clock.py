from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from metrica_agent.adapters.clock import Clock, boot_clock_s, kernel_boot_id, kernel_synchronised
from metrica_agent.decisions.steps import WallTime
from metrica_agent.decisions.world import Stamp
from metrica_fleet.identity import BootId

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 23, 20, 52, 0, 123_456, tzinfo=UTC)


def clock(*, utc: datetime = NOW, synchronised: bool = True) -> Clock:
    return Clock(boot_id=BootId("b"), boot_s=lambda: 12.5, utc=lambda: utc, synchronised=lambda: synchronised)


def test_the_stamp_says_when_in_utc_to_the_millisecond() -> None:
    assert clock().stamp() == Stamp(boot_id=BootId("b"), uptime_s=12.5, at="2026-11-23T20:52:00.123Z")


def test_a_local_time_becomes_utc() -> None:
    assert clock(utc=NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))).wall() == "2026-11-23T20:52:00.123Z"


def test_a_clock_that_nobody_set_says_nothing() -> None:
    assert clock(synchronised=False).wall() is None


@pytest.mark.parametrize("year", [1970, 2024, 2100])
def test_a_year_that_cannot_be_says_nothing(year: int) -> None:
    assert clock(utc=NOW.replace(year=year)).wall() is None


def test_this_machine_has_a_boot_id_and_a_clock_that_goes_on() -> None:
    ours = Clock.of_this_machine()
    before = ours.now_s()
    assert ours.boot_id == kernel_boot_id()
    assert len(ours.boot_id) == 36
    assert ours.now_s() >= before
    assert before == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)
    assert boot_clock_s() >= before


def test_timesyncds_mark_is_enough(tmp_path: Path) -> None:
    mark = tmp_path / "synchronized"
    mark.touch()
    assert kernel_synchronised(mark)


@pytest.mark.parametrize(
    ("zone", "weekday", "time_of_day"),
    [
        ("UTC", 0, "20:52"),
        ("Europe/Berlin", 0, "21:52"),
        ("Pacific/Auckland", 1, "09:52"),
        ("Asia/Kolkata", 1, "02:22"),
    ],
)
def test_the_time_of_day_in_a_zone(zone: str, weekday: int, time_of_day: str) -> None:
    hour, minute = map(int, time_of_day.split(":"))
    assert clock().time_in(zone) == WallTime(weekday=weekday, minute=60 * hour + minute)


def test_the_time_of_day_is_not_known_without_a_clock_or_the_zone() -> None:
    assert clock(synchronised=False).time_in("UTC") is None
    assert clock().time_in("Europe/Nowhere") is None
