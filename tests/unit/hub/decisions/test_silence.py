"""Whether a device is gone that says no word of its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.silence import GRACE_S, Ear, Heard, Hearing, allowance_s, hearing

NOW = 10_000.0
LONG = Ear(since_s=0.0)
DEAF = Ear(since_s=None)
ONLINE = None


def heard(ago_s: float | None, *, every_s: float | None = 60.0, offline_ago_s: float | None = ONLINE) -> Heard:
    return Heard(
        last_s=None if ago_s is None else NOW - ago_s,
        heartbeat_s=every_s,
        offline_s=None if offline_ago_s is None else NOW - offline_ago_s,
    )


def listening(for_s: float) -> Ear:
    return Ear(since_s=NOW - for_s)


CASES: list[tuple[str, Heard, Ear, Hearing | None, Hearing | None]] = [
    ("heard just now", heard(0.5), LONG, None, None),
    ("the next heartbeat is as late as it may be", heard(66), LONG, None, None),
    ("one heartbeat is missing", heard(81), LONG, None, "silent"),
    ("a strained device beats five times more rarely, and says so", heard(299, every_s=300), LONG, None, None),
    ("and is silent in its time", heard(381, every_s=300), LONG, None, "silent"),
    ("an agent that does not say beats as usual", heard(81, every_s=None), LONG, None, "silent"),
    ("the hub does not listen", heard(9000), DEAF, None, None),
    ("the hub was away, and has just begun to listen", heard(9000), listening(1), None, None),
    ("within the grace it may still come back", heard(9000), listening(79), None, None),
    ("after the grace it is gone", heard(9000), listening(81), None, "silent"),
    ("never heard by this hub, within the grace", heard(None), listening(79), None, None),
    ("never heard by this hub, after it", heard(None), listening(81), None, "silent"),
    ("a strained one has more than the grace", heard(None, every_s=300), listening(379), None, None),
    ("heard since the listening began: no grace any more", heard(81), listening(82), None, "silent"),
    ("silent, and the hub does not listen any more", heard(9000), DEAF, "silent", "silent"),
    ("silent, and heard again", heard(1), LONG, "silent", None),
    ("silent, and heard by a hub that is behind", heard(1), DEAF, "silent", None),
    ("its last word was offline: that says it all", heard(9000, offline_ago_s=8990), LONG, None, None),
    ("silent, and then its last will came after all", heard(90, offline_ago_s=1), LONG, "silent", None),
    ("heard after it was offline: a late will", heard(1, offline_ago_s=30), LONG, None, "heard"),
    ("what was said just before may come just after", heard(1, offline_ago_s=10), LONG, None, None),
    ("what a broker gives again proves nothing", heard(1, offline_ago_s=30), listening(70), None, None),
    ("but it stays heard while the hub comes back", heard(1, offline_ago_s=30), listening(70), "heard", "heard"),
    ("heard, and then silent: offline, as its last word is", heard(81, offline_ago_s=130), LONG, "heard", None),
]


@pytest.mark.parametrize(("about", "what", "ear", "before", "expected"), CASES, ids=[case[0] for case in CASES])
def test_what_is_held_against_the_last_word(
    about: str, what: Heard, ear: Ear, before: Hearing | None, expected: Hearing | None
) -> None:
    assert hearing(what, ear, (before, NOW - 20), NOW) == expected, about


def test_a_silent_death_is_known_within_90_s_at_the_default_interval_and_a_late_heartbeat_is_none() -> None:
    look_s, latest_heartbeat_s = 5.0, 60 * 1.1
    assert latest_heartbeat_s + 10 < allowance_s(60.0)
    assert allowance_s(60.0) + look_s < 90


@given(
    last_s=st.none() | st.floats(0, 1e5),
    every_s=st.none() | st.floats(0.1, 3600),
    since_s=st.none() | st.floats(0, 1e5),
    offline_s=st.none() | st.floats(0, 1e5),
    now_s=st.floats(0, 1e5),
)
def test_nobody_is_silent_who_was_heard_in_time_or_whom_nobody_listened_for(
    last_s: float | None, every_s: float | None, since_s: float | None, offline_s: float | None, now_s: float
) -> None:
    found = hearing(Heard(last_s, every_s, offline_s), Ear(since_s), (None, 0.0), now_s)
    if found == "silent":
        assert since_s is not None
        allowed_s = allowance_s(every_s or 60.0)
        assert now_s - max(since_s, last_s or 0.0) > min(allowed_s, GRACE_S)
        assert offline_s is None
        again = hearing(Heard(last_s, every_s, offline_s), Ear(None), (found, now_s), now_s + 1)
        assert again == "silent", "a hub that is cut off unsays nothing"
        assert hearing(Heard(now_s + 1, every_s, None), Ear(None), (found, now_s), now_s + 1) is None
