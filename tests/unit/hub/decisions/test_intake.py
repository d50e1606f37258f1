"""Bytes -> what was said, or why it can't be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import FLEET, PI, START, STREAM, arrival, delivery, event, presence, said, services, status

from metrica_fleet.codec import encode
from metrica_fleet.errors import Unusable
from metrica_fleet.messages import Head
from metrica_fleet.topics import HEAD, PRESENCE, RECORDS, SERVICES, STATUS, STORED, Channel
from metrica_hub.decisions.intake import DeadLetter, Envelope, Said, key_of, read, set_aside


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (RECORDS, event(1, message="\\u0000 is text here")),
        (STATUS, status()),
        (SERVICES, services("running")),
        (PRESENCE, presence("online", 1)),
    ],
)
def test_what_is_well_said_is_understood(channel: Channel, message: object) -> None:
    understood = arrival(encode(message), channel=channel)  # pyright: ignore[reportArgumentType]
    assert isinstance(understood, Said)
    assert (understood.device, understood.message) == (PI, message)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("metrica/v1/other/devices/pi-01/records", "other-fleet"),
        ("metrica/v1/home/head", "unknown-topic"),
        ("metrica/v1/home/devices/pi-01/stored", "unknown-topic"),
        ("metrica/v1/home/devices/PI/records", "unknown-topic"),
        ("$SYS/broker/version", "unknown-topic"),
        ("", "unknown-topic"),
    ],
)
def test_a_topic_that_is_not_a_devices_own_is_set_aside(topic: str, reason: str) -> None:
    payload = b'{"streams":{}}' if topic.endswith(STORED.name) else encode(event(1))
    payload = encode(Head(branch="main", commit="a" * 40, number=1)) if topic.endswith(HEAD.name) else payload  # pyright: ignore[reportArgumentType]
    letter = arrival(payload, topic=topic)
    assert isinstance(letter, DeadLetter)
    assert letter.reason == reason


def test_a_message_in_anothers_name_is_set_aside() -> None:
    letter = arrival(encode(status(device="pi-02")), channel=STATUS)  # pyright: ignore[reportArgumentType]
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.explanation) == ("device-mismatch", 'the topic says "pi-01", the message "pi-02"')


def test_a_record_that_can_not_be_read_keeps_its_number() -> None:
    letter = arrival(encode(event(7, prev=3, message="\0")))
    assert isinstance(letter, DeadLetter)
    assert letter.number == Envelope(stream=STREAM, seq=7, prev=3)
    assert key_of(letter) == (PI, STREAM)
    assert key_of(arrival(b"{}")) is None


def test_a_record_that_the_database_refuses_keeps_its_number_and_its_bytes() -> None:
    refused = said(event(7, prev=3))
    letter = set_aside(refused, Unusable("out of range", reason="unstorable"))
    assert (letter.number, letter.payload) == (Envelope(stream=STREAM, seq=7, prev=3), refused.payload)
    for message in (status(), services("running")):
        assert set_aside(said(message), Unusable("x", reason="unstorable")).number is None


@given(st.binary(max_size=300), st.sampled_from([RECORDS, STATUS, SERVICES, PRESENCE]))
def test_no_bytes_at_all_raise(payload: bytes, channel: Channel) -> None:
    understood = read(delivery(payload, channel=channel), FLEET, START)
    assert understood.payload == payload
