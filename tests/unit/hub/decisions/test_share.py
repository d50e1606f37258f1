"""Whether a hub takes its part of the records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.share import LOOKS_IN_VAIN, Part, group_of, looked


def after(looks: list[tuple[int, int]]) -> Part:
    part = Part()
    for waiting, batches in looks:
        part = looked(part, waiting=waiting, batches=batches)
    return part


def test_who_commits_nothing_of_what_waits_for_so_many_looks_gives_its_part_back() -> None:
    assert after([(5, 7)] * LOOKS_IN_VAIN).taken
    assert not after([(5, 7)] * (LOOKS_IN_VAIN + 1)).taken  # the first one saw a batch


def test_any_batch_begins_the_count_anew_however_much_waits() -> None:
    assert after([(5, 7)] * LOOKS_IN_VAIN + [(4000, 8)] + [(4000, 8)] * (LOOKS_IN_VAIN - 1)).taken


def test_it_is_taken_again_when_all_that_waited_is_committed_and_not_before() -> None:
    given_back = [(5, 7)] * (LOOKS_IN_VAIN + 1)
    assert not after([*given_back, (3, 8)]).taken
    assert after([*given_back, (3, 8), (0, 9)]).taken


@given(st.lists(st.integers(0, 3), max_size=50))
def test_without_anything_that_waits_it_is_always_taken(batches: list[int]) -> None:
    assert after([(0, count) for count in batches]).taken


def test_the_group_of_the_hubs_has_a_name_that_who_does_not_know_their_password_can_not_guess() -> None:
    assert group_of(None) == "hub"
    assert group_of(b"one") == group_of(b"one") != group_of(b"two")
    assert "one" not in group_of(b"one")
    assert len(group_of(b"one")) == len("hub-") + 32
