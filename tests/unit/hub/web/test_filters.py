"""What somebody types into the search field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import device_state

from metrica_hub.web.filters import MAX_LENGTH, read_filter

PI = device_state(device="pi-07", role="camera", tags=("site-2", "roof"), message='service "web" is unhealthy')
TRIAL = device_state(device="pi-08", role="sensor", mode="trial", phase="staged", wanted_commit="e" * 40)
OFF = device_state(device="pi-09", role=None, connection="offline")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", "pi-07 pi-08 pi-09"),
        ("pi-0", "pi-07 pi-08 pi-09"),
        ("role:camera", "pi-07"),
        ("-role:camera", "pi-08 pi-09"),
        ("ROLE:Camera Unhealthy", "pi-07"),
        ("tag:roof", "pi-07"),
        ("tag:roo", ""),
        ("mode:trial", "pi-08"),
        ("mode:staged", "pi-08"),
        ("mode:steady", "pi-07 pi-09"),
        ("release:eeee", "pi-08"),
        ("release:dddd role:sensor", "pi-08"),
        ("is:offline", "pi-09"),
        ("is:problems", "pi-09"),
        ("sensor -pi-08", ""),
        ("roof web", "pi-07"),
        ("role:", "pi-07 pi-08 pi-09"),
        ("-", "pi-07 pi-08 pi-09"),
    ],
)
def test_words_are_joined_by_and_and_a_dash_means_not(text: str, meant: str) -> None:
    wanted = read_filter(text)
    assert " ".join(device.device for device in (PI, TRIAL, OFF) if wanted.meets(device)) == meant
    assert wanted.unknown == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rol:camera", "“rol:” is no filter; did you mean role:?"),
        (":x", "“:” is no filter; there are role: tag: mode: release: is:"),
        ("is:asleep", "“is:asleep” is no state; there are problems, online,"),
    ],
)
def test_a_slip_of_the_finger_is_said_and_hides_nothing(text: str, said: str) -> None:
    wanted = read_filter(text)
    assert wanted.unknown[0].startswith(said)
    assert all(map(wanted.meets, (PI, TRIAL, OFF)))


@given(st.text(max_size=300))
def test_any_text_is_understood_or_said(text: str) -> None:
    wanted = read_filter(text)
    assert len(wanted.text) <= MAX_LENGTH
    assert wanted.meets(PI) in {True, False}
    assert read_filter(wanted.text) == wanted
