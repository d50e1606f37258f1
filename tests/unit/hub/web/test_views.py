"""What the page says about a device."""

from __future__ import annotations

import pytest
from tests.unit.hub.values import device_state

from metrica_fleet.records import Vitals
from metrica_hub.decisions.fleet_state import DeviceState, Refused
from metrica_hub.web.views import counts_of, needs_attention, view_of

OFFLINE = device_state(device="b-off", connection="offline")
TRIAL = device_state(device="c-trial", mode="trial", phase="trial", wanted_commit="e" * 40)
REFUSED = device_state(
    device="d-refused",
    phase="refused",
    wanted_commit="e" * 40,
    refused=Refused(commit="e" * 40, reason="image-missing", message="no such image"),
)
SAFE = device_state(device="e-safe", mode="safe", phase="refused")


@pytest.mark.parametrize(
    ("device", "word", "shown", "why"),
    [
        (device_state(), "confirmed", ("online", "confirmed"), ""),
        (OFFLINE, "confirmed", ("offline", "confirmed"), ""),
        (TRIAL, "trial", ("online", "trial"), ""),
        (REFUSED, "refused", ("online", "refused"), "no such image"),
        (SAFE, "safe mode", ("online", "attention"), ""),
        (device_state(mode="rolling-back", phase="trial"), "rolling back", ("online", "attention"), ""),
        (device_state(mode="held", reason="window-closed"), "held", ("online", "attention"), "window closed"),
        (device_state(mode=None, phase=None, commit=None), "nothing yet", ("online",), ""),
        (device_state(mode="made-up", phase="made-up"), "confirmed", ("online", "confirmed"), ""),
    ],
)
def test_the_words(device: DeviceState, word: str, shown: tuple[str, ...], why: str) -> None:
    view = view_of(device)
    assert (view.deployment.word, view.shown, view.why) == (word, shown, why)


def test_problems_come_first_and_are_counted() -> None:
    devices = [device_state(device="a-good"), OFFLINE, TRIAL, REFUSED, SAFE]
    by_order = sorted(devices, key=lambda device: view_of(device).order)
    assert [device.device for device in by_order] == ["d-refused", "e-safe", "b-off", "a-good", "c-trial"]
    assert counts_of(devices) == {
        "all": 5, "online": 4, "offline": 1, "confirmed": 2, "trial": 1, "refused": 1, "attention": 1
    }  # fmt: skip
    assert sum(map(needs_attention, devices)) == 3


def test_the_wanted_commit_is_told_only_where_it_differs() -> None:
    assert view_of(device_state()).wanted == ""
    assert view_of(TRIAL).wanted == "e" * 8


def test_gauges_say_how_much_is_used_and_bear_nonsense() -> None:
    vitals = Vitals(disk_total_bytes=1000, disk_free_bytes=30, memory_total_bytes=0, memory_available_bytes=5)
    (disk,) = view_of(device_state(vitals=vitals)).gauges
    assert (disk.percent, disk.tone, disk.text) == (97.0, "bad", "97% used, 30 B free")
    absurd = Vitals(disk_total_bytes=10, disk_free_bytes=3 * 2**30)
    (disk,) = view_of(device_state(vitals=absurd)).gauges
    assert (disk.percent, disk.text) == (0.0, "0% used, 3 GiB free")
