"""What the hub has to say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.adapters.bus.sayings import Saying, Sayings


def test_a_newer_payload_replaces_one_that_was_not_sent() -> None:
    sayings = Sayings()
    sayings.add(Saying("a", b"1"))
    sayings.add(Saying("a", b"2"))
    assert [saying for _, saying in sayings.next_up_to(9)] == [Saying("a", b"2")]


def test_a_lost_connection_brings_back_what_was_not_acknowledged_unless_there_is_newer() -> None:
    sayings = Sayings()
    for topic in "abc":
        sayings.add(Saying(topic, b"1"))
    ids = {saying.topic: packet_id for packet_id, saying in sayings.next_up_to(9)}
    assert sayings.acknowledged(ids["a"]) == Saying("a", b"1")
    sayings.add(Saying("c", b"2"))
    sayings.connection_lost()
    assert [saying for _, saying in sayings.next_up_to(9)] == [Saying("b", b"1"), Saying("c", b"2")]


def test_a_topic_is_open_until_its_last_payload_is_acknowledged() -> None:
    sayings = Sayings()
    sayings.add(Saying("a", b"1"))
    sayings.add(Saying("b", b"1"))
    ((first, _),) = sayings.next_up_to(1)
    sayings.add(Saying("a", b"2"))
    sayings.acknowledged(first)
    assert sayings.topics() == {"a", "b"}
    for packet_id, _ in list(sayings.next_up_to(2)):
        sayings.acknowledged(packet_id)
    assert sayings.topics() == set()


def test_a_passing_word_replaces_nothing_and_is_lost_with_the_connection() -> None:
    sayings = Sayings()
    words = [Saying("a", b"1", is_retained=False), Saying("a", b"2", is_retained=False), Saying("a", b"3")]
    for word in words:
        sayings.add(word)
    assert [saying for _, saying in sayings.next_up_to(2)] == words[:2]
    sayings.add(Saying("a", b"4", is_retained=False))
    sayings.connection_lost()
    assert [saying for _, saying in sayings.next_up_to(9)] == [words[2]]


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.just("ack"), st.just("lost")), max_size=60), st.integers(1, 3))
def test_however_it_goes_the_last_payload_of_each_topic_arrives(steps: list[str], window: int) -> None:
    sayings, last, broker = Sayings(), dict[str, bytes](), dict[str, bytes]()
    flying: list[int] = []

    def send() -> None:
        for packet_id, saying in sayings.next_up_to(window):
            broker[saying.topic] = saying.payload
            flying.append(packet_id)
        assert len(flying) <= window
        assert len(set(flying)) == len(flying)

    for number, step in enumerate([*steps, *["ack"] * (len(steps) + 1)]):
        match step:
            case "ack" if flying:
                sayings.acknowledged(flying.pop(0))
            case "ack":
                pass
            case "lost":
                sayings.connection_lost()
                flying.clear()
            case topic:
                last[topic] = str(number).encode()
                sayings.add(Saying(topic, last[topic]))
        send()
    assert broker == last
