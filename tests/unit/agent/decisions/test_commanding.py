from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_agent.decisions.commanding import (
    KEPT,
    Book,
    Taken,
    answer_to,
    interrupted,
    met,
    noted,
    require_for_us,
    told,
)
from metrica_fleet.commands import Command
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import BootId, DeviceId, FleetId

BOOT, NEXT = BootId("boot-1"), BootId("boot-2")
NOW = datetime(2026, 11, 29, 9, tzinfo=UTC)
FLEET, DEVICE = FleetId("demo"), DeviceId("pi-01")


def taken(number: int, verb: str = "sync", **more: object) -> Taken:
    return Taken(number=number, verb=verb, boot_id=BOOT, **more)  # type: ignore[arg-type]


def command(**more: object) -> Command:
    fields = {"fleet": FLEET, "device": DEVICE, "number": 7, "verb": "sync", "timeout_s": 60.0}
    return Command(**fields | {"issued_at": NOW, "expires_at": NOW + timedelta(minutes=5)} | more)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 3 * KEPT), max_size=3 * KEPT))
def test_no_number_is_ever_taken_twice_and_little_is_remembered(numbers: list[int]) -> None:
    book, done = Book(), set[int]()
    for number in numbers:
        try:
            known = met(book, number)
        except Unusable as error:
            assert error.reason == "replayed"  # noqa: PT017 - either may come
            continue
        assert (known is not None) == (number in done)
        done.add(number)
        book = noted(book, taken(number))
        assert len(book.taken) <= KEPT
        assert list(book.taken) == sorted(book.taken)


def test_one_that_was_lost_on_the_way_is_taken_behind_those_that_came_after_it() -> None:
    book = noted(Book(), taken(8))
    assert met(book, 7) is None
    assert met(noted(book, taken(7)), 7) == taken(7)


def test_what_came_of_a_command_is_remembered_under_its_number() -> None:
    done = taken(7, state="done", message="a commit is wanted")
    assert noted(noted(Book(), taken(7)), done).taken == {7: done}
    assert answer_to(done, part=3).message == "a commit is wanted"


@pytest.mark.parametrize(
    ("changes", "now", "reason"),
    [
        ({"fleet": "other"}, NOW, "other-fleet"),
        ({"device": "pi-02"}, NOW, "other-device"),
        ({}, NOW + timedelta(minutes=6), "expired"),
    ],
)
def test_a_command_for_somebody_else_or_from_long_ago_is_refused(
    changes: dict[str, object], now: datetime, reason: str
) -> None:
    with pytest.raises(Unusable) as caught:
        require_for_us(command(**changes), FLEET, DEVICE, now)
    assert caught.value.reason == reason


@pytest.mark.parametrize("now", [None, NOW, NOW - timedelta(days=9)])
def test_a_device_without_a_clock_relies_on_the_numbers(now: datetime | None) -> None:
    require_for_us(command(), FLEET, DEVICE, now)


@pytest.mark.parametrize(
    ("verb", "boot", "state", "reason"),
    [
        ("reboot", NEXT, "done", None),
        ("reboot", BOOT, "failed", "interrupted"),
        ("restart", NEXT, "failed", "interrupted"),
        ("restart", BOOT, "failed", "interrupted"),
    ],
)
def test_what_ran_when_the_agent_ended_is_answered_by_the_next_one(
    verb: str, boot: BootId, state: str, reason: str | None
) -> None:
    book = noted(noted(Book(), taken(6, state="done")), taken(7, verb))
    (ended,) = interrupted(book, boot)
    assert (ended.number, ended.state, ended.reason) == (7, state, reason)


def test_the_end_of_a_command_is_an_event_with_its_verb() -> None:
    assert told(taken(7, "logs", state="done", message="3 lines")).kind == "command.done"
    refused = told(taken(7, "reboot", state="refused", reason="stopped", message="m"))
    assert (refused.kind, refused.reason, refused.message) == ("command.failed", "stopped", "reboot: m")
    assert refused.detail == {"verb": "reboot", "number": 7}
