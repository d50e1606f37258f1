from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet import stop as stopping
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId, RoleId
from metrica_fleet.stop import Level, Stop, StopOrder, Whom, stops_in_file, strongest, understood, written

HOME = FleetId("home")
CAMERA = Whom(device=DeviceId("pi-01"), role=RoleId("camera"), tags=("north", "canary"))
NAMES = st.sampled_from(["pi-01", "pi-02", "camera", "north", "canary", "door"])
SCOPES = st.one_of(st.just("fleet"), st.tuples(st.sampled_from(["role", "tag", "device"]), NAMES).map(":".join))
STOPS = st.builds(Stop, level=st.sampled_from(Level), scope=SCOPES, reason=st.text(max_size=20))
ORDERS = st.builds(
    StopOrder,
    fleet=st.just("home"),
    number=st.integers(1, 2**53 - 1),
    issued_at=st.integers(1_600_000_000, 3_800_000_000).map(lambda one: datetime.fromtimestamp(one, UTC)),
    stops=st.lists(STOPS, max_size=5).map(tuple),
)


@given(ORDERS)
def test_an_order_is_understood_as_it_was_written(order: StopOrder) -> None:
    assert understood(written(order), HOME) == order


def test_what_an_order_does_not_know_is_ignored_so_that_newer_ones_may_say_more() -> None:
    text = (
        '{"fleet":"home","number":7,"issued_at":"2026-11-29T09:20:00+01:00","stops":[{"level":"halt","by":"x"}],"x":1}'
    )
    order = understood(text, HOME)
    assert order.stops == (Stop(level=Level.HALT, scope="fleet"),)


GOOD = '{"fleet":"home","number":7,"issued_at":"2026-11-29T09:20:00Z","stops":[{"level":"halt","scope":"fleet"}]}'


@pytest.mark.parametrize(
    ("change", "to", "reason"),
    [
        ("home", "other", "wrong-fleet"),
        ("7", "0", "wrong-type"),
        ("7", "9007199254740993", "wrong-type"),
        ("halt", "pause", "wrong-type"),
        ('"fleet"}', '"site:north"}', "wrong-type"),
        ('"fleet"}', '"fleets"}', "wrong-type"),
        ('"fleet"}', '"role:"}', "wrong-type"),
        ('"fleet"}', '"tag:North"}', "wrong-type"),
        ("09:20:00Z", "09:20:00", "wrong-type"),
        ("stops", "stop", "missing-field"),
        ("}", "", "not-json"),
    ],
)
def test_an_order_that_is_not_wholly_understood_is_refused(change: str, to: str, reason: str) -> None:
    assert understood(GOOD, HOME).number == 7
    with pytest.raises(Unusable) as caught:
        understood(GOOD.replace(change, to), HOME)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", Stop(level=Level.FREEZE)),
        (b"# smoke in hall 3\n", Stop(level=Level.FREEZE)),
        (b'level = "halt"\nreason = "smoke"\n', Stop(level=Level.HALT, reason="smoke")),
        (b'scope = "tag:north"\nlevel = "safe"\n', Stop(level=Level.SAFE, scope="tag:north")),
    ],
)
def test_the_file_stops_what_it_says_and_an_empty_one_freezes_the_fleet(content: bytes, expected: Stop) -> None:
    assert stops_in_file(content) == (expected,)


@pytest.mark.parametrize("content", [b"level = halt", b'level = "stop"', b"\xff", b'levle = "halt"', b'scope = "all"'])
def test_a_file_that_cannot_be_read_freezes_the_fleet_and_says_why(content: bytes) -> None:
    (stop,) = stops_in_file(content)
    assert (stop.level, stop.scope) == (Level.FREEZE, "fleet")
    assert "can't be read" in stop.reason


@given(st.binary(max_size=300))
def test_whatever_the_file_holds_something_is_stopped(content: bytes) -> None:
    assert len(stops_in_file(content)) == 1


@pytest.mark.parametrize(
    ("scope", "does"),
    [
        ("fleet", True),
        ("role:camera", True),
        ("role:door", False),
        ("tag:canary", True),
        ("tag:camera", False),
        ("device:pi-01", True),
        ("device:pi-1", False),
    ],
)
def test_a_stop_stops_whom_it_names(scope: str, *, does: bool) -> None:
    assert stopping.applies(Stop(level=Level.FREEZE, scope=scope), CAMERA) is does


def test_a_device_whose_role_is_not_known_yet_is_stopped_by_what_names_it_otherwise() -> None:
    stranger = Whom(device=DeviceId("pi-01"))
    assert not stopping.applies(Stop(level=Level.FREEZE, scope="role:camera"), stranger)
    assert stopping.applies(Stop(level=Level.FREEZE, scope="device:pi-01"), stranger)


@given(st.lists(STOPS, max_size=6))
def test_the_strongest_that_applies_counts(stops: list[Stop]) -> None:
    applying = [stop for stop in stops if stopping.applies(stop, CAMERA)]
    found = strongest(stops, CAMERA)
    assert (found is None) is (not applying)
    for level in (Level.HALT, Level.SAFE, Level.FREEZE):
        if any(stop.level is level for stop in applying):
            assert found is not None
            assert found.level is level
            break


@given(st.lists(STOPS, max_size=6), STOPS)
def test_what_is_stopped_besides_is_there_once_and_goes_with_its_scope(before: list[Stop], stop: Stop) -> None:
    after = stopping.stopped(before, stop)
    assert [one for one in after if one.scope == stop.scope] == [stop]
    assert stopping.resumed(after, stop.scope) == tuple(one for one in before if one.scope != stop.scope)
    assert stopping.resumed(after, None) == ()


@pytest.mark.parametrize(("last", "unix_s", "number"), [(0, 1764408000.7, 1764408000), (2**40, 1764408000, 2**40 + 1)])
def test_numbers_grow_whatever_the_clock_says(last: int, unix_s: float, number: int) -> None:
    assert stopping.next_number(last, unix_s) == number
