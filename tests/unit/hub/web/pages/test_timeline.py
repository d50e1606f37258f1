"""Events of a device, as a story."""

from __future__ import annotations

import pytest
from tests.unit.hub.values import START, at
from tests.unit.hub.values import event_row as row

from metrica_hub.web.pages.timeline import in_words, timeline_of

GOOD, BAD = "a" * 40, "b" * 40


STORY = [
    row(1, "agent.started", None),
    row(2, "commit.seen"),
    row(4, "release.staged"),
    row(5, "release.trial_started"),
    row(70, "release.confirmed"),
    row(100, "commit.seen", BAD),
    row(101, "release.trial_started", BAD),
    row(105, "strain.entered", None),
    row(131, "release.refused", BAD, reason="unhealthy", message="the web is down"),
    row(132, "rollback.started", GOOD),
    row(140, "rollback.finished", GOOD),
    row(200, "commit.seen", "c" * 40),
]


def test_each_release_is_an_entry_with_its_steps_durations_end_and_reason() -> None:
    newest, back, refused, confirmed = timeline_of(STORY)
    assert [step.word for step in confirmed.steps] == ["pushed", "staged", "trial", "confirmed"]
    assert [step.took for step in confirmed.steps] == ["", "2 s", "1 s", "1 min 5 s"]
    assert (confirmed.outcome.word, confirmed.took, confirmed.commit) == ("confirmed", "1 min 8 s", "aaaaaaaa")
    assert (refused.outcome.word, refused.reason, refused.took) == ("refused", "the web is down", "31 s")
    assert (back.is_way_back, back.outcome.word, back.took) == (True, "back", "8 s")
    assert (newest.outcome.word, newest.took) == ("under way", "")
    assert newest.begun_at == at(200)


def test_a_release_that_another_one_overtook_is_superseded() -> None:
    overtaking, overtaken = timeline_of([row(1, "release.staged"), row(2, "release.staged", BAD)])
    assert (overtaken.outcome.word, overtaking.outcome.word) == ("superseded", "under way")


def test_a_second_way_back_is_another_entry() -> None:
    kinds = ("rollback.started", "rollback.failed", "rollback.started", "rollback.finished")
    entries = timeline_of([row(number, kind) for number, kind in enumerate(kinds, 1)])
    assert [entry.outcome.word for entry in entries] == ["back", "no way back"]


def test_over_a_reboot_the_clock_on_the_wall_counts_and_without_one_nothing_is_said() -> None:
    first = row(1, "release.trial_started")
    for later, took in ((at(61), "1 min"), (None, "")):
        (entry,) = timeline_of([first, row(2, "release.confirmed", boot_id="other", uptime_s=3.0, at=later)])
        assert entry.took == took


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.25, "250 ms"), (1, "1 s"), (59.4, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h"),
        (3660, "1 h 1 min"), (86400 * 3 + 7200, "3 d 2 h"),
    ],
)  # fmt: skip
def test_durations_are_told_in_two_parts_at_most(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_of_nothing_there_is_no_story() -> None:
    assert timeline_of([]) == []
    assert timeline_of([row(1, "agent.started", None, received_at=START)]) == []
