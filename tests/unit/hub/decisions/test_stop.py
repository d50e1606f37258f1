"""Which order is in force, who obeys it, and what the next one says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import device_state

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import FleetId
from metrica_fleet.signed import Signed, joined
from metrica_fleet.stop import Level, Stop, StopOrder, understood, written
from metrica_hub.decisions import stop as stopping
from metrica_hub.decisions.stop import AHEAD_S, Kept, counted, taken

FLEET = FleetId("home")
NOW = datetime(2026, 11, 29, 9, 20, tzinfo=UTC)
UNIX_S = int(NOW.timestamp())
SIGNATURE = "-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----\n"
FREEZE = Stop(level=Level.FREEZE)


def kept(number: int, *stops: Stop) -> Kept:
    order = StopOrder(fleet=FLEET, number=number, issued_at=NOW, stops=stops)
    return Kept(order=order, signed=Signed(written(order), SIGNATURE), via="api", given_by="anna")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not-signed"),
        (b"{}", "not-signed"),
        (b"{}" + SIGNATURE.encode(), "not-dated"),
        (joined(kept(7, FREEZE).signed).replace(b"home", b"away"), "wrong-fleet"),
        (joined(kept(UNIX_S + AHEAD_S + 1, FREEZE).signed), "number-ahead"),
        (joined(kept(7, FREEZE).signed).replace(b"freeze", b"pause"), "wrong-type"),
    ],
)
def test_what_is_no_order_of_this_fleet_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        taken(payload, FLEET, unix_s=UNIX_S, via="bus")
    assert caught.value.reason == reason


def test_an_order_is_taken_byte_for_byte() -> None:
    order = kept(UNIX_S + AHEAD_S, FREEZE)
    assert taken(joined(order.signed), FLEET, unix_s=UNIX_S, via="api", given_by="anna") == order


@given(st.integers(0, UNIX_S + AHEAD_S), st.sampled_from(Level))
def test_the_next_order_has_a_higher_number_and_says_all_that_is_stopped(last: int, level: Level) -> None:
    before = kept(last, Stop(level=Level.HALT, scope="role:door")) if last else None
    stops = stopping.with_one_more(before, Stop(level=level))
    order = stopping.following(before, FLEET, NOW, stops)
    assert order.number > last
    assert understood(written(order), FLEET) == order
    after = kept(order.number, *order.stops)
    assert stopping.with_one_less(after, "fleet") == (before.order.stops if before else ())
    assert stopping.with_one_less(after, None) == ()


CASES: list[tuple[Kept | None, dict[str, object], bool, bool]] = [
    # order, what the device says, obeys, done
    (kept(7, FREEZE), {}, False, False),
    (kept(7, FREEZE), {"stop_number": 6, "stop_level": "freeze", "stop_done": True}, False, False),
    (kept(7, FREEZE), {"stop_number": 7, "stop_level": "freeze", "stop_done": False}, True, False),
    (kept(7, FREEZE), {"stop_number": 7, "stop_level": "freeze", "stop_done": True}, True, True),
    (kept(7, Stop(level=Level.HALT, scope="device:pi-02")), {}, True, False),
    (kept(8), {"stop_number": 7, "stop_level": "freeze", "stop_done": True}, False, False),
    (kept(8), {"stop_number": 7, "stop_level": "halt", "stop_source": "git", "stop_done": True}, True, False),
    (kept(8), {}, True, False),
    (None, {}, True, False),
]


@pytest.mark.parametrize(("order", "says", "obeys", "done"), CASES)
def test_who_obeys_is_counted_and_who_does_not_is_named(
    order: Kept | None, says: dict[str, object], *, obeys: bool, done: bool
) -> None:
    figures, to_come = counted(order, [device_state(device="pi-01", role="camera", **says)])
    assert (figures.devices, figures.obeyed, figures.to_come, figures.done) == (
        1,
        int(obeys),
        int(not obeys),
        int(done),
    )
    assert [one.device for one in to_come] == ([] if obeys else ["pi-01"])


def test_those_to_come_stand_by_name_with_what_they_know() -> None:
    devices = [
        device_state(device="pi-02", role="camera", connection="offline", stop_number=3),
        device_state(device="pi-01", role="camera"),
        device_state(device="pi-03", role="door"),
        device_state(device="pi-04", role="camera", stop_level="freeze", stop_source="git"),
    ]
    figures, to_come = counted(kept(7, Stop(level=Level.HALT, scope="role:camera")), devices)
    assert [(one.device, one.knows, one.wanted) for one in to_come] == [
        ("pi-01", None, Level.HALT),
        ("pi-02", 3, Level.HALT),
        ("pi-04", None, Level.HALT),
    ]
    assert (figures.concerned, figures.to_come_offline, figures.stopped_in_git) == (3, 1, 1)
    assert stopping.by_level(devices) == {"freeze": 1, "safe": 0, "halt": 0}
