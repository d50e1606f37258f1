from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.codec import encode
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.messages import Answer
from metrica_fleet.topics import ANSWERS, Address, topic_of
from metrica_hub.decisions.commands import Answered, read_answer

FLEET = FleetId("demo")
TOPIC = topic_of(Address(FLEET, ANSWERS, DeviceId("pi-01")))
ANSWER = Answer(number=7, state="running", part=1, lines=("one", "two"))


def test_an_answer_is_read_with_the_device_that_its_topic_names() -> None:
    assert read_answer(TOPIC, encode(ANSWER), FLEET) == Answered(device=DeviceId("pi-01"), answer=ANSWER)


def test_what_postgres_can_not_hold_is_replaced() -> None:
    answer = Answer(number=7, state="done", message="a\0b", lines=("\0",))
    read = read_answer(TOPIC, encode(answer), FLEET).answer
    assert (read.message, read.lines) == ("a\ufffdb", ("\ufffd",))


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        (TOPIC.replace("demo", "other"), encode(ANSWER), "other-fleet"),
        ("metrica/v1/demo/answers", encode(ANSWER), "unknown-topic"),
        (TOPIC, b"{}", "missing-field"),
        (TOPIC, b"\xff", "not-json"),
        (TOPIC, b" " * 70_000, "too-large"),
    ],
)
def test_garbage_is_refused(topic: str, payload: bytes, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_answer(topic, payload, FLEET)
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_whatever_comes_is_an_answer_or_refused(payload: bytes) -> None:
    try:
        assert read_answer(TOPIC, payload, FLEET).device == "pi-01"
    except Unusable:
        return
