"""Where a device is in a rollout, by what it says of itself; and what keeps it from beginning."""

from __future__ import annotations

import pytest

from metrica_fleet.rollout import DeviceState
from metrica_hub.decisions.outcome import CONFIRMED, STARTED, UNCHANGED, WAITING, Outcome, Said, obstacle, outcome

OLD, NEW, NEXT = "a" * 40, "b" * 40, "c" * 40
BEFORE, AFTER = "1" * 64, "2" * 64


def failed(reason: str, message: str = "") -> Outcome:
    return Outcome(state=DeviceState.REFUSED, reason=reason, message=message)


def online(**said: str | None) -> Said:
    return Said(connection="online", **{"mode": "steady", "commit": OLD, "release": BEFORE, **said})  # pyright: ignore[reportArgumentType]


CASES = {
    "nothing is known": (Said(), WAITING),
    "another commit is wanted": (online(wanted_commit=OLD, phase="confirmed"), WAITING),
    "the commit was seen": (online(wanted_commit=NEW, phase="pending"), WAITING),
    "it is complete on disk": (online(wanted_commit=NEW, phase="staged", reason="gate-closed"), WAITING),
    "it is on trial": (online(wanted_commit=NEW, phase="trial", mode="trial"), STARTED),
    "the trial was taken back by a freeze": (online(wanted_commit=NEW, phase="staged", mode="rolling-back"), WAITING),
    "it is confirmed": (online(wanted_commit=NEW, commit=NEW, release=AFTER, phase="confirmed"), CONFIRMED),
    "it is confirmed, and means what ran before": (
        online(wanted_commit=NEW, commit=NEW, release=BEFORE, phase="confirmed"),
        UNCHANGED,
    ),
    "it is confirmed, and a newer one is wanted": (
        online(wanted_commit=NEXT, commit=NEW, release=AFTER, phase="pending"),
        CONFIRMED,
    ),
    "it is confirmed, and gone back to after a repair": (
        online(wanted_commit=NEW, commit=NEW, release=AFTER, phase="trial", mode="rolling-back"),
        CONFIRMED,
    ),
    "it is refused": (
        online(
            wanted_commit=NEW, phase="refused", refused_commit=NEW, refused_reason="died", refused_message="web died"
        ),
        failed("died", "web died"),
    ),
    "it is refused, and what is remembered is another refusal": (
        online(wanted_commit=NEW, phase="refused", reason="died", message="web died", refused_commit=NEXT),
        failed("died", "web died"),
    ),
    "it is refused, and a newer one is wanted": (
        online(wanted_commit=NEXT, phase="pending", refused_commit=NEW, refused_reason="died"),
        failed("died"),
    ),
    "it was refused, tried again and confirmed": (
        online(wanted_commit=NEW, commit=NEW, release=AFTER, phase="confirmed", refused_commit=NEW),
        CONFIRMED,
    ),
    "it was refused after it was confirmed": (
        online(wanted_commit=NEW, commit=OLD, phase="refused", refused_commit=NEW, refused_reason="died"),
        failed("died"),
    ),
    "a person aborted it, and it has gone back": (
        online(wanted_commit=NEW, commit=OLD, phase="refused", refused_commit=NEW, refused_reason="rollout-aborted"),
        WAITING,
    ),
    "it was confirmed, and fell into safe mode": (
        online(wanted_commit=NEW, commit=NEW, release=AFTER, phase="confirmed", mode="safe", reason="crash-loop"),
        failed("crash-loop"),
    ),
    "it was confirmed, and was ordered into safe mode": (
        online(wanted_commit=NEW, commit=NEW, release=AFTER, phase="confirmed", mode="safe", reason="ordered"),
        CONFIRMED,
    ),
    "it is in safe mode and has not begun": (
        online(wanted_commit=NEW, phase="staged", mode="safe", reason="crash-loop"),
        WAITING,
    ),
}


@pytest.mark.parametrize(("said", "expected"), CASES.values(), ids=CASES)
def test_a_device_is_where_it_says(said: Said, expected: Outcome) -> None:
    assert outcome(NEW, said, release_before=BEFORE) == expected


def test_a_device_that_nobody_knew_before_proves_the_commit() -> None:
    said = online(wanted_commit=NEW, commit=NEW, release=BEFORE, phase="confirmed")
    assert outcome(NEW, said, release_before=None) is CONFIRMED


OBSTACLES = {
    "never seen": (Said(), "never-seen"),
    "offline": (Said(connection="offline", wanted_commit=NEW), "offline"),
    "comes and goes": (Said(connection="flapping", mode="steady"), None),
    "has not looked yet": (online(wanted_commit=OLD), None),
    "gate closed": (online(wanted_commit=NEW, reason="gate-closed"), None),
    "rollout paused": (online(wanted_commit=NEW, reason="rollout-paused"), None),
    "its turn to download": (online(wanted_commit=NEW, reason="prefetch-spread"), None),
    "about to": (online(wanted_commit=NEW, reason="in-progress"), None),
    "safe mode": (online(wanted_commit=NEW, mode="safe", reason="crash-loop"), "safe-mode"),
    "held": (online(wanted_commit=NEW, mode="held"), "held"),
    "halted": (online(wanted_commit=OLD, mode="halted"), "halted"),
    "window": (online(wanted_commit=NEW, reason="outside-window"), "outside-window"),
    "wheels out of reach": (
        online(wanted_commit=NEW, phase="pending", reason="wheel-unreachable"),
        "wheel-unreachable",
    ),
    "strain": (online(wanted_commit=NEW, mode="degraded", reason="disk-low"), "disk-low"),
}


@pytest.mark.parametrize(("said", "expected"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_keeps_a_device_from_beginning_is_told_and_the_gate_is_no_obstacle(
    said: Said, expected: str | None
) -> None:
    assert obstacle(NEW, said) == expected
