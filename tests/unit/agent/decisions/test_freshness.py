from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.agent.decisions.worlds import observed

from metrica_agent.decisions import freshness
from metrica_agent.decisions.freshness import Stale, Word
from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.world import HeadMark, Memory
from metrica_fleet.head import LIFETIME_S, Vouched
from metrica_fleet.identity import CommitId

C1, C2 = CommitId("1" * 40), CommitId("2" * 40)
MARK = HeadMark(number=7, commit=C1, lifetime_s=LIFETIME_S)
BEGAN_S, HEARD_S = 50.0, 100.0
AT = datetime(2027, 3, 1, tzinfo=UTC)
OFFSET_S = HEARD_S - AT.timestamp()
NAMED = Word(mark=MARK, heard_s=HEARD_S, since_s=HEARD_S, offset_s=OFFSET_S)
GIVEN = replace(NAMED, given=True)
POLL_S = 60.0
PATIENCE_S = 3 * POLL_S + 30


STOPPED = replace(GIVEN, stop=5, stop_since_s=HEARD_S)


def reason(word: Word | None, remembered: HeadMark | None, now_s: float, stop: int = 0) -> str | None:
    stale = freshness.staleness(word, remembered, began_s=BEGAN_S, poll_s=POLL_S, now_s=now_s, stop=stop)
    return stale.reason if stale is not None else None


@pytest.mark.parametrize(
    ("word", "remembered", "now_s", "expected"),
    [
        # Nobody ever vouched: an older hub, or one whose key is not believed.
        (None, None, 1e9, None),
        # Named, and on its way for a while.
        (NAMED, None, HEARD_S + PATIENCE_S - 1, None),
        (NAMED, None, HEARD_S + PATIENCE_S, "head-held-back"),
        (GIVEN, None, HEARD_S + PATIENCE_S, None),
        # Said again, and still not given: it counts from when it was named first.
        (replace(NAMED, heard_s=HEARD_S + 500), None, HEARD_S + 501, "head-held-back"),
        # The hub is silent.
        (GIVEN, None, HEARD_S + LIFETIME_S - 1, None),
        (GIVEN, None, HEARD_S + LIFETIME_S, "head-unheard"),
        (NAMED, None, HEARD_S + LIFETIME_S, "head-unheard"),
        # After a restart nothing was heard yet, of a hub that once vouched.
        (None, MARK, BEGAN_S + LIFETIME_S - 1, None),
        (None, MARK, BEGAN_S + LIFETIME_S, "head-unheard"),
        (GIVEN, MARK, BEGAN_S + LIFETIME_S, None),
    ],
)
def test_a_device_is_stale_when_the_hub_is_silent_or_names_what_no_remote_gives(
    word: Word | None, remembered: HeadMark | None, now_s: float, expected: str | None
) -> None:
    assert reason(word, remembered, now_s) == expected


marks = st.builds(HeadMark, number=st.integers(1, 9), commit=st.sampled_from([C1, C2]), lifetime_s=st.floats(1, 10_000))
words = st.builds(
    Word,
    mark=marks,
    heard_s=st.floats(BEGAN_S, 10_000),
    since_s=st.floats(BEGAN_S, 10_000),
    offset_s=st.just(0.0),
    given=st.booleans(),
    stop=st.integers(0, 3),
    stop_since_s=st.floats(BEGAN_S, 10_000),
)


@given(st.none() | words, st.none() | marks, st.floats(10_000, 20_000), st.floats(0, 1), st.integers(0, 3))
def test_the_answer_changes_by_time_alone_only_when_it_is_due(
    word: Word | None, remembered: HeadMark | None, now_s: float, share: float, stop: int
) -> None:
    due_s = freshness.due_s(word, remembered, began_s=BEGAN_S, poll_s=POLL_S, now_s=now_s, stop=stop)
    later_s = now_s + 1e6 if due_s is None else now_s + share * (due_s - now_s)
    if due_s is None or later_s < due_s:
        assert reason(word, remembered, now_s, stop) == reason(word, remembered, later_s, stop)


def test_a_stop_order_that_the_hub_has_and_the_device_does_not_get_is_withheld() -> None:
    patience_s = freshness.PATIENCE_S
    assert reason(STOPPED, None, HEARD_S + patience_s - 1) is None
    assert reason(STOPPED, None, HEARD_S + patience_s, stop=4) == "stop-withheld"
    assert reason(STOPPED, None, HEARD_S + patience_s, stop=5) is None
    assert reason(STOPPED, None, HEARD_S + patience_s, stop=6) is None
    assert freshness.due_s(STOPPED, None, began_s=0, poll_s=POLL_S, now_s=HEARD_S, stop=4) == HEARD_S + patience_s
    # Named again it counts from the first time; another one begins anew, and outlives a commit.
    word = freshness.after(STOPPED, replace(vouched(C2, 8, later_s=90.0), stop=5), HEARD_S + 90)
    assert (word.stop, word.stop_since_s, word.given) == (5, HEARD_S, False)
    assert (
        freshness.after(word, replace(vouched(C2, 9, later_s=95.0), stop=6), HEARD_S + 95).stop_since_s == HEARD_S + 95
    )
    # A hub of before names none.
    assert freshness.after(None, vouched(C1, 7), HEARD_S).stop == 0


def vouched(commit: CommitId, number: int, later_s: float = 0.0) -> Vouched:
    at = AT + timedelta(seconds=later_s)
    return Vouched(fleet="demo", number=number, issued_at=at, branch="main", commit=commit, lifetime_s=LIFETIME_S)


def test_a_word_said_again_lives_longer_and_another_commit_begins_anew() -> None:
    assert freshness.after(None, vouched(C1, 7), HEARD_S) == replace(NAMED, stop_since_s=HEARD_S)
    again = freshness.after(GIVEN, vouched(C1, 8, later_s=800.0), 900.0)
    assert again == replace(GIVEN, mark=replace(MARK, number=8), heard_s=900.0)
    # One that was held back for an hour has lived that hour already, and none makes up for another that was slow.
    assert freshness.after(GIVEN, vouched(C1, 8, later_s=800.0), 4500.0).heard_s == 900.0
    assert freshness.after(GIVEN, vouched(C1, 8, later_s=801.0), 900.0).offset_s == OFFSET_S - 1.0
    other = freshness.after(GIVEN, vouched(C2, 8, later_s=800.0), 900.0)
    assert (other.since_s, other.given) == (900.0, False)
    # One that was given once holds nobody back, whatever the remotes give now.
    assert freshness.looked_at(NAMED, C1) == GIVEN
    assert freshness.looked_at(GIVEN, C2) == GIVEN
    assert freshness.looked_at(NAMED, C2) == NAMED
    assert freshness.looked_at(None, C2) is None


def test_a_change_is_told_once_and_its_end_too() -> None:
    silent = Stale(reason="head-unheard", message="long ago", commit=C1)
    held = Stale(reason="head-held-back", message="another", commit=C2)
    assert freshness.to_tell(None, None) is None
    told = freshness.to_tell(None, silent)
    assert told is not None
    assert (told.kind, told.reason, told.commit) == ("head.stale", "head-unheard", C1)
    assert freshness.to_tell(silent, replace(silent, message="longer ago")) is None
    assert freshness.to_tell(silent, held) is not None
    fresh = freshness.to_tell(held, None)
    assert fresh is not None
    assert fresh.kind == "head.fresh"


def test_what_the_hub_vouched_for_is_written_down_once_for_each_commit() -> None:
    def noted(memory: Memory, heard: HeadMark | None) -> Memory | None:
        choice = freshness.noted(observed(memory, head=heard))
        if choice is None:
            return None
        assert isinstance(choice.step, Settle)
        return choice.step.memory

    assert noted(Memory(), None) is None
    assert noted(Memory(), MARK) == Memory(head=MARK)
    assert noted(Memory(head=MARK), MARK) is None
    assert noted(Memory(head=MARK), replace(MARK, number=8)) is None
    assert noted(Memory(head=MARK), replace(MARK, number=7 + freshness.REMEMBERED)) is not None
    assert noted(Memory(head=MARK), HeadMark(number=8, commit=C2, lifetime_s=9)) is not None
    assert noted(Memory(head=MARK), HeadMark(number=6, commit=C2, lifetime_s=9)) is None
