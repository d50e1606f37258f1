"""When to stop reading, and how long to rest between two reads."""

from __future__ import annotations

import pytest
from tests.unit.hub.values import heartbeat

from metrica_fleet.codec import encode
from metrica_hub.decisions.flow import (
    MOST_TALKERS,
    TALKS_WITHIN_S,
    Load,
    Marks,
    Pace,
    Talkers,
    rest_s,
    should_pause,
)

MARKS = Marks(messages=100, payload_bytes=1000)


@pytest.mark.parametrize(
    ("messages", "payload_bytes", "paused", "expected"),
    [
        (99, 999, False, False),
        (100, 0, False, True),
        (0, 1000, False, True),
        (99, 999, True, True),
        (76, 0, True, True),
        (0, 751, True, True),
        (75, 750, True, False),
        (0, 0, True, False),
    ],
)
def test_it_pauses_at_either_mark_and_goes_on_at_three_quarters_of_both(
    messages: int,
    payload_bytes: int,
    paused: bool,  # noqa: FBT001 - a table
    expected: bool,  # noqa: FBT001
) -> None:
    assert should_pause(Load(messages, payload_bytes), MARKS, paused=paused) is expected


PACE = Pace(enough=4, many=64, shortest_s=0.001, longest_s=0.008, idle_s=0.05, plenty=500)


@pytest.mark.parametrize(
    ("about", "records", "since_last_s", "waited", "expected"),
    [
        ("one after a quiet minute", 1, 60.0, True, 0.0),
        ("one after a quiet minute that nobody waits for", 1, 60.0, False, 0.0),
        ("one every 9 ms", 1, 0.009, True, 0.0),
        ("one every 5 ms", 1, 0.005, True, 0.008),
        ("one every millisecond", 1, 0.001, True, 0.004),
        ("four in 4 ms: the same", 4, 0.004, True, 0.004),
        ("2,000 a second", 4, 0.002, True, 0.002),
        ("10,000 a second", 20, 0.002, True, 0.001),
        ("as many as make a read worth while", 64, 0.002, True, 0.0),
        ("a burst after a quiet minute", 500, 60.0, True, 0.0),
        ("two reads in one instant", 1, 0.0, True, 0.001),
        ("a fleet at rest, 1,000 heartbeats a second", 50, 0.05, False, 0.05),
        ("one of them alone", 1, 0.001, False, 0.05),
        ("as many as make a read worth while even so", 500, 0.05, False, 0.0),
        ("a fleet at rest that is small", 1, 0.1, False, 0.0),
    ],
)
def test_it_rests_until_enough_will_have_come(
    about: str,
    records: int,
    since_last_s: float,
    waited: bool,  # noqa: FBT001 - a table
    expected: float,
) -> None:
    assert rest_s(records, since_last_s, PACE, waited=waited) == pytest.approx(expected), about


BEAT = b'{"type":"heartbeat","stream":"x"}'
EVENT = b'{"type":"event","stream":"x"}'


def test_nobody_waits_for_one_heartbeat_of_a_device_at_rest() -> None:
    talkers = Talkers()
    for second in range(0, 60, 10):
        assert not talkers.waits("devices/pi-01/records", BEAT, float(second))
        assert not talkers.waits("devices/pi-02/records", BEAT, second + 0.1)


def test_who_has_more_to_say_waits_for_its_answer() -> None:
    talkers = Talkers()
    assert not talkers.waits("devices/pi-01/records", BEAT, 0.0)
    assert talkers.waits("devices/pi-01/records", BEAT, 0.9)
    assert not talkers.waits("devices/pi-01/records", BEAT, 1.0 + TALKS_WITHIN_S)


def test_an_event_is_waited_for_and_so_is_what_is_no_record_at_all() -> None:
    assert Talkers().waits("devices/pi-01/records", EVENT, 0.0)
    assert Talkers().waits("devices/pi-01/records", b"\xff", 0.0)


def test_invented_topics_are_forgotten() -> None:
    talkers = Talkers()
    for number in range(MOST_TALKERS + 1):
        talkers.waits(f"devices/invented-{number}/records", BEAT, 0.0)
    assert not talkers.waits("devices/invented-0/records", BEAT, 0.1)


def test_what_agents_write_is_known_as_a_heartbeat() -> None:
    assert encode(heartbeat(1)).startswith(b'{"type":"heartbeat"')
