from __future__ import annotations

from datetime import timedelta

from tests.unit.hub.values import START, at

from metrica_fleet.records import EVENT_KINDS
from metrica_hub.decisions.tidings import LASTS, TOLD, Tiding, Tidings


def test_of_each_device_and_kind_the_last_one_stands_in_whatever_order_they_come() -> None:
    tidings = Tidings()
    tidings.heard(Tiding("pi-01", "drift.found", at(seconds)) for seconds in (1, 9, 5))
    tidings.heard([Tiding("pi-02", "drift.found", at(2)), Tiding("pi-01", "network.lost", at(3))])
    assert set(tidings.since(at(10))) == {
        Tiding("pi-01", "drift.found", at(9)),
        Tiding("pi-02", "drift.found", at(2)),
        Tiding("pi-01", "network.lost", at(3)),
    }


def test_what_is_a_day_old_is_forgotten() -> None:
    tidings = Tidings()
    tidings.heard([Tiding("pi-01", "drift.found", START), Tiding("pi-01", "network.lost", at(1))])
    assert [one.kind for one in tidings.since(START + LASTS)] == ["network.lost"]
    assert list(tidings.since(START + LASTS + timedelta(seconds=1))) == []


def test_only_kinds_that_there_are_and_that_are_asked_for_take_room() -> None:
    assert set(EVENT_KINDS) >= TOLD
    tidings = Tidings()
    tidings.heard([Tiding("pi-01", "release.staged", START), Tiding("pi-01", "made.up", START)])
    assert list(tidings.since(START)) == []
