"""What the page says about a device."""

from __future__ import annotations

import pytest
from tests.unit.hub.values import START, device_state

from metrica_fleet.messages import Service
from metrica_fleet.records import Vitals
from metrica_hub.decisions.fleet_state import Claimant, DeviceState, Refused
from metrica_hub.decisions.lamp import Lamp
from metrica_hub.web.views import COUNTERS, SHOWN, counts_of, lamp_view, needs_attention, service_word, view_of

OFFLINE = device_state(device="b-off", connection="offline")
TRIAL = device_state(device="c-trial", mode="trial", phase="trial", wanted_commit="e" * 40)
REFUSED = device_state(
    device="d-refused",
    phase="refused",
    wanted_commit="e" * 40,
    refused=Refused(commit="e" * 40, reason="image-missing", message="no such image"),
)
FLAPPING = device_state(device="f-flaps", connection="flapping", flapping_since=START)
CLAIMED = device_state(
    device="g-claimed",
    claimants=tuple(
        Claimant(boot_id=boot * 36, connection=1, agent_version="1", last_heard_at=START) for boot in ("a", "<")
    ),
)
SAFE = device_state(device="e-safe", mode="safe", phase="refused")


@pytest.mark.parametrize(
    ("device", "word", "shown", "why"),
    [
        (device_state(), "confirmed", ("online", "confirmed"), ""),
        (OFFLINE, "confirmed", ("problems", "offline", "confirmed"), ""),
        (TRIAL, "trial", ("online", "trial"), ""),
        (REFUSED, "refused", ("problems", "online", "refused"), "no such image"),
        (FLAPPING, "confirmed", ("problems", "confirmed"), ""),
        (CLAIMED, "confirmed", ("problems", "online", "confirmed"), ""),
        (SAFE, "safe mode", ("problems", "online", "safe"), ""),
        (device_state(mode="halted", stop_level="halt"), "halted", ("problems", "online", "stopped"), ""),
        (device_state(stop_level="freeze"), "confirmed", ("online", "confirmed", "stopped"), ""),
        (device_state(mode="rolling-back", phase="trial"), "rolling back", ("problems", "online"), ""),
        (device_state(mode="held", reason="window-closed"), "held", ("problems", "online", "held"), "window closed"),
        (device_state(mode=None, phase=None, commit=None), "nothing yet", ("online",), ""),
        (device_state(mode="made-up", phase="made-up"), "confirmed", ("online", "confirmed"), ""),
    ],
)
def test_the_words(device: DeviceState, word: str, shown: tuple[str, ...], why: str) -> None:
    view = view_of(device)
    assert (view.deployment.word, view.shown, view.why) == (word, shown, why)


@pytest.mark.parametrize(
    ("service", "word", "tone"),
    [
        (Service(name="web", state="running"), "running", "good"),
        (Service(name="web", state="running", health="healthy"), "healthy", "good"),
        (Service(name="web", state="running", health="unhealthy"), "unhealthy", "bad"),
        (Service(name="web", state="running", health="starting"), "starting", "busy"),
        (Service(name="web", state="paused", health="healthy"), "paused", "warn"),
        (Service(name="web", state="exited", exit_code=137), "stopped, exit code 137", "bad"),
        (Service(name="web", state="exited", exit_code=0), "stopped", "bad"),
        (Service(name="web", state="restarting", exit_code=1), "restarting, exit code 1", "bad"),
        (Service(name="web", state="resting", exit_code=143), "resting, to spare the machine", "warn"),
        (Service(name="web", state="missing", containers=0), "has no container", "bad"),
        (Service(name="init", state="done", exit_code=0), "done", "good"),
        (Service(name="web", state="made-up"), "made-up", "off"),
    ],
)
def test_how_a_service_is_is_said_by_its_check_or_by_what_it_ended_with(service: Service, word: str, tone: str) -> None:
    found = service_word(service)
    assert (found.word, found.tone) == (word, tone)
    assert found.shape


@pytest.mark.parametrize(
    ("lamp", "word", "before", "has_time"),
    [
        (None, "not asked", "", False),
        (Lamp(state="reached", reached_at=START, answered_at=START), "reached", "", True),
        (Lamp(state="not-reached", reached_at=START, answered_at=START), "not reached", "last", True),
        (Lamp(state="not-reached", answered_at=START), "not reached", "not since this hub asks", False),
        (Lamp(state="no-target", answered_at=START), "no target of it", "", False),
        (Lamp(state="unknown", reached_at=START, answered_at=START), "not known", "Prometheus last answered", True),
        (Lamp(state="unknown"), "not known", "Prometheus has not answered yet", False),
    ],
)
def test_the_second_lamp_says_how_it_is_and_where_that_is_not_well_since_when(
    lamp: Lamp | None, word: str, before: str, *, has_time: bool
) -> None:
    found = lamp_view(lamp)
    assert (found.word.word, found.before, found.at is not None) == (word, before, has_time)
    assert found.word.shape
    assert found.about.endswith(".")


def test_the_lamps_differ_without_their_colours() -> None:
    states = ("reached", "not-reached", "no-target", "unknown")
    assert len({lamp_view(Lamp(state=state)).word.shape for state in states}) == len(states)


def test_problems_come_first_and_are_counted() -> None:
    devices = [device_state(device="a-good"), OFFLINE, TRIAL, REFUSED, SAFE]
    by_order = sorted(devices, key=lambda device: view_of(device).order)
    assert [device.device for device in by_order] == ["d-refused", "e-safe", "b-off", "a-good", "c-trial"]
    assert counts_of(devices) == {
        "all": 5, "problems": 3, "online": 4, "offline": 1, "confirmed": 2, "trial": 1, "refused": 1, "safe": 1,
        "held": 0, "stopped": 0,
    }  # fmt: skip
    assert sum(map(needs_attention, devices)) == 3


@pytest.mark.parametrize(
    ("device", "word", "because"),
    [
        (device_state(connection_reason="connected"), "online", "connected"),
        (device_state(connection="offline", connection_reason="connection-lost"), "offline", "connection lost"),
        (device_state(connection="offline", connection_reason="silent"), "offline", "nothing was heard of it"),
        (device_state(connection_reason="heard"), "online", "its last word was that it is offline"),
        (device_state(connection="never-seen"), "never seen", ""),
        (FLAPPING, "flapping", "it comes and goes since 2026-01-01 00:00:00 UTC"),
        (CLAIMED, "claimed by two", ""),
    ],
)
def test_the_connection_and_why(device: DeviceState, word: str, because: str) -> None:
    view = view_of(device)
    assert view.connection.word == word
    assert view.because.startswith(because)


def test_what_comes_and_goes_keeps_its_place() -> None:
    assert view_of(FLAPPING).order == "2 f-flaps"
    assert needs_attention(FLAPPING)
    assert view_of(CLAIMED).order == "1 g-claimed"
    assert needs_attention(CLAIMED)


def test_every_counter_has_a_word() -> None:
    assert [key for key, _ in COUNTERS] == ["all", *SHOWN]
    assert all(word.word for _, word in COUNTERS)


def test_the_wanted_commit_is_told_only_where_it_differs() -> None:
    assert view_of(device_state()).wanted == ""
    assert view_of(TRIAL).wanted == "e" * 8


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ({}, ""),
        ({"stop_level": None, "stop_number": 7}, ""),
        ({"stop_level": "freeze", "stop_number": 7, "stop_source": "order", "stop_done": True}, "freeze, by order 7"),
        (
            {"stop_level": "halt", "stop_number": 7, "stop_source": "git"},
            "halt, by a file STOP in Git, not at rest yet",
        ),
    ],
)
def test_how_far_a_device_is_stopped_and_by_what(stop: dict[str, object], words: str) -> None:
    assert view_of(device_state(**stop)).stopped == words


def test_gauges_say_how_much_is_used_and_bear_nonsense() -> None:
    vitals = Vitals(disk_total_bytes=1000, disk_free_bytes=30, memory_total_bytes=0, memory_available_bytes=5)
    (disk,) = view_of(device_state(vitals=vitals)).gauges
    assert (disk.percent, disk.tone, disk.text) == (97.0, "bad", "97% used, 30 B free")
    absurd = Vitals(disk_total_bytes=10, disk_free_bytes=3 * 2**30)
    (disk,) = view_of(device_state(vitals=absurd)).gauges
    assert (disk.percent, disk.text) == (0.0, "0% used, 3 GiB free")
