"""What is heard of one device, and the verdict on it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.unit.hub.values import PI, at, heartbeat, presence, said, status

from metrica_fleet.messages import Presence, Status
from metrica_fleet.records import Record
from metrica_hub.decisions.attendance import (
    Attended,
    Known,
    Verdict,
    is_at_rest,
    judged,
    noted,
    recall,
    settle,
    weighed,
)
from metrica_hub.decisions.fleet_state import Claimant
from metrica_hub.decisions.silence import Ear

LISTENS = Ear(since_s=-1000.0)
DEAF = Ear(since_s=None)


class Hub:
    """One that leads, and writes each verdict down."""

    def __init__(self, ear: Ear = LISTENS) -> None:
        self.device = Attended()
        self.ear = ear
        self.now_s = 0.0
        self.written = 0

    def hears(self, *messages: Record | Status | Presence, replayed: bool = False) -> Hub:
        for message in messages:
            noted(self.device, said(message, seconds=self.now_s, replayed=replayed), self.ear, self.now_s)
        return self

    def after(self, seconds: float) -> Verdict:
        """Let time pass, and judge."""
        self.now_s += seconds
        verdict = judged(self.device, self.ear, self.now_s, at(self.now_s))
        if verdict is not self.device.verdict:
            self.written += 1
            settle(self.device, verdict, self.now_s)
        return verdict


def test_what_does_not_change_is_not_written() -> None:
    hub = Hub().hears(presence("online", 1))
    for number in range(1, 100):
        hub.hears(heartbeat(number), status())
        hub.after(60)
    assert hub.written == 0
    assert hub.device.verdict == Verdict()


WORDS = st.sampled_from(["online", "offline", "heartbeat", "status", "replayed"])


@given(
    st.lists(st.tuples(WORDS, st.integers(1, 3), st.sampled_from([0.0, 1.0, 20.0, 79.0, 81.0, 900.0])), max_size=30),
    st.sampled_from([None, -1000.0, 0.0, 50.0]),
)
def test_one_that_is_taken_to_be_at_rest_has_the_verdict_that_all_that_is_known_gives(
    history: list[tuple[str, int, float]], since_s: float | None
) -> None:
    hub = Hub(Ear(since_s=since_s))
    for number, (word, boot, seconds) in enumerate(history):
        match word:
            case "online" | "offline":
                hub.hears(presence(word, number, boot=f"boot {boot}"))
            case "heartbeat":
                hub.hears(heartbeat(number, boot=f"boot {boot}"))
            case "status":
                hub.hears(status(boot=f"boot {boot}"))
            case _:
                hub.hears(presence("online", number), replayed=True)
        hub.after(seconds)
        if is_at_rest(hub.device, hub.ear, hub.now_s):
            assert weighed(replace(hub.device), hub.ear, hub.now_s, at(hub.now_s)) is hub.device.verdict


def test_silence_is_written_once_and_its_end_once() -> None:
    hub = Hub().hears(presence("online", 1))
    assert hub.after(79).hearing is None
    found = [hub.after(5) for _ in range(20)]
    assert {verdict.hearing for verdict in found} == {"silent"}
    assert found[-1].hearing_at == at(84)
    assert hub.hears(heartbeat(1)).after(1).hearing is None
    assert hub.written == 2


def test_a_device_tells_how_often_it_is_heard() -> None:
    slow = structs.replace(status(), heartbeat_s=300.0)
    hub = Hub().hears(presence("online", 1), slow)
    assert hub.after(370).hearing is None
    assert hub.after(20).hearing == "silent"


def test_its_last_will_takes_the_place_of_the_hubs_verdict() -> None:
    hub = Hub().hears(presence("online", 1))
    assert hub.after(100).hearing == "silent"
    assert hub.hears(presence("offline", 1)).after(1).hearing is None


def test_what_the_broker_replays_is_no_voice() -> None:
    hub = Hub().hears(presence("online", 1))
    hub.now_s = 100
    hub.hears(presence("online", 1), status(), replayed=True)
    assert hub.after(1).hearing == "silent"


def test_a_device_that_connects_again_and_again_flaps() -> None:
    hub = Hub()
    for connection in range(1, 5):
        hub.hears(presence("online", connection), presence("offline", connection))
    assert hub.after(1).flapping_since == at(1)
    assert hub.after(300).flapping_since == at(1)
    assert hub.after(300).flapping_since is None


def test_who_falls_silent_and_is_heard_again_and_again_flaps_as_well() -> None:
    hub = Hub().hears(presence("online", 1), structs.replace(status(), heartbeat_s=1.0))
    for number in range(1, 6):
        assert hub.after(10).hearing == "silent"
        hub.now_s += 1
        hub.hears(heartbeat(number)).after(1)
    assert hub.device.verdict.flapping_since is not None


def test_a_fleet_that_comes_back_to_a_broker_does_not_flap() -> None:
    hub = Hub(Ear(since_s=-10.0))
    for connection in range(1, 5):
        hub.hears(presence("online", connection))
    assert hub.after(1).flapping_since is None
    deaf = Hub(DEAF).hears(*(presence("online", connection) for connection in range(1, 5)))
    assert deaf.after(1).flapping_since is None


def test_two_of_one_name_are_shown_with_when_each_was_heard() -> None:
    hub = Hub().hears(presence("online", 1, boot="a"))
    hub.now_s = 30
    hub.hears(heartbeat(1))
    hub.now_s = 40
    hub.hears(presence("online", 2, boot="b"))
    hub.now_s = 50
    hub.hears(presence("online", 3, boot="a"))
    verdict = hub.after(1)
    assert [(one.boot_id, one.last_heard_at) for one in verdict.claimants] == [("a", at(50)), ("b", at(40))]
    assert verdict.claimed_since == at(51)
    hub.hears(status(boot="a"))
    assert [one.last_heard_at for one in hub.after(60).claimants] == [at(51), at(40)]
    assert hub.device.verdict.claimed_since == at(51)
    assert hub.after(900).claimants == ()


def test_the_next_hub_goes_on_with_what_is_known_and_prefers_what_it_heard_itself() -> None:
    two = tuple(Claimant(boot_id=boot, connection=1, agent_version="1", last_heard_at=at(0)) for boot in "ab")
    verdict = Verdict(hearing="silent", hearing_at=at(0), flapping_since=at(0), claimed_since=at(0), claimants=two)
    known = Known(device=PI, word=presence("online", 1), heartbeat_s=300.0, verdict=verdict)
    hub = Hub()
    recall(hub.device, known, 0.0)
    assert hub.after(1) is verdict
    assert hub.device.heartbeat_s == 300.0
    assert hub.hears(heartbeat(1)).after(1).hearing is None
    sooner = Hub().hears(presence("online", 2))  # heard before it was known what the other hub had found
    recall(sooner.device, known, 5.0)
    assert sooner.after(5).hearing is None
    later = Hub().hears(presence("offline", 2))
    recall(later.device, known, 0.0)
    assert later.device.word == presence("offline", 2)
