"""A status is said when it tells something that no heartbeat brings, and often enough for a newcomer on the bus."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.agent.adapters.ledgers import status

from metrica_agent.decisions.saying_status import AT_LEAST_EVERY_S, Said, heeded
from metrica_fleet.messages import Status
from metrica_fleet.records import Vitals

NOW = replace(status(), last_seq=40)
_, SAID = heeded(None, NOW, beats=7, stored=38, now_s=1000.0)


def due(now: Status = NOW, *, beats: int = 8, stored: int = 40, after_s: float = 60.0, said: Said = SAID) -> bool:
    is_due, _ = heeded(said, now, beats=beats, stored=stored, now_s=1000.0 + after_s)
    return is_due


def test_the_first_of_a_connection_is_said() -> None:
    is_due, _ = heeded(None, NOW, beats=0, stored=40, now_s=0.0)
    assert is_due


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "trial"},
        {"reason": "window", "message": "waits for its window"},
        {"tags": ("north",)},
        {"heartbeat_s": 300.0},
        {"boot_id": "another"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_no_heartbeat_brings_is_said_at_once(changed: dict[str, object]) -> None:
    assert due(replace(NOW, **changed), beats=7, after_s=0.0)


def test_what_a_heartbeat_brings_is_not_said_twice_while_records_flow() -> None:
    assert not due(replace(NOW, at=None, uptime_s=NOW.uptime_s + 60, last_seq=41, vitals=Vitals(load_1m=3.0)))


def test_a_hub_that_lacks_the_heartbeat_before_hears_a_status_with_each() -> None:
    assert due(stored=39)
    assert not due(beats=7, stored=39), "once for each"


def test_what_was_written_for_this_heartbeat_may_be_on_its_way() -> None:
    _, said = heeded(SAID, replace(NOW, last_seq=42), beats=8, stored=40, now_s=1060.0)
    assert not due(replace(NOW, last_seq=43), beats=9, stored=42, after_s=120.0, said=said)
    assert due(replace(NOW, last_seq=43), beats=9, stored=41, after_s=120.0, said=said)


def test_a_newcomer_on_the_bus_finds_a_status_of_the_last_ten_minutes() -> None:
    said = SAID
    for beats, after_s in enumerate((60, 200, 400, AT_LEAST_EVERY_S - 1), start=8):
        is_due, said = heeded(said, NOW, beats=beats, stored=40, now_s=1000.0 + after_s)
        assert not is_due
    assert due(said=said, beats=20, after_s=AT_LEAST_EVERY_S)
