"""Whether two machines go by one name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.values import START, at

from metrica_hub.decisions.claims import ENDS_S, Claims, claimants, greeted, heard, resumed
from metrica_hub.decisions.fleet_state import Claimant


def claimant(boot: str, connection: int, now_s: float = 0.0) -> Claimant:
    return Claimant(boot_id=boot, connection=connection, agent_version="1", last_heard_at=at(now_s))


def after(greetings: list[tuple[str, int]], *, apart_s: float = 1.0) -> tuple[Claims, float]:
    claims, now_s = Claims(), 0.0
    for boot, connection in greetings:
        now_s += apart_s
        claims = greeted(claims, claimant(boot, connection, now_s), now_s)
    return claims, now_s


@pytest.mark.parametrize(
    ("about", "greetings", "boots"),
    [
        ("one machine", [("a", 1), ("a", 2), ("a", 3)], []),
        ("one that was rebooted", [("a", 1), ("b", 2), ("c", 3)], []),
        ("a new card: its count begins again", [("a", 70), ("b", 1)], []),
        ("a cloned card: who was there first comes back", [("a", 7), ("b", 8), ("a", 9)], ["a", "b"]),
        ("two with one id, each with its own count", [("a", 900), ("b", 1), ("a", 901), ("b", 2)], ["b", "a"]),
        ("three", [("a", 1), ("b", 1), ("c", 1), ("a", 2)], ["a", "c", "b"]),
        ("the broker gives the same again", [("a", 1), ("b", 2), ("a", 1), ("b", 2)], []),
        ("one word comes late", [("a", 1), ("a", 2), ("b", 3), ("a", 1)], []),
    ],
)
def test_who_claims_the_name(about: str, greetings: list[tuple[str, int]], boots: list[str]) -> None:
    claims, now_s = after(greetings)
    assert [one.boot_id for one in claimants(claims, now_s)] == boots, about


def test_each_is_shown_with_when_it_was_last_heard() -> None:
    claims, now_s = after([("a", 1), ("b", 2), ("a", 3)])
    claims = heard(claims, at(now_s + 30), now_s + 30)
    assert [(one.boot_id, one.last_heard_at) for one in claimants(claims, now_s + 30)] == [("a", at(33)), ("b", at(2))]


def test_it_is_over_when_only_one_was_heard_for_long() -> None:
    claims, now_s = after([("a", 1), ("b", 2), ("a", 3)])
    late_s = now_s + ENDS_S
    claims = heard(claims, at(late_s), late_s)
    assert claimants(claims, late_s) == ()
    assert claimants(greeted(claims, claimant("b", 9), late_s), late_s) != ()


def test_the_next_hub_knows_them_and_lets_them_prove_it() -> None:
    found = (claimant("a", 3), claimant("b", 2))
    claims = resumed(found, 1000.0)
    assert claimants(claims, 1001.0) == found
    assert claimants(claims, 1001.0 + ENDS_S) == ()
    assert resumed((), 0.0) == Claims()


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.data())
def test_one_machine_is_one_whatever_is_given_again(connections: list[int], data: st.DataObject) -> None:
    """``connections`` in each boot; any of the last words may come again."""
    said: list[Claimant] = []
    claims, number = Claims(), 0
    for boot, count in enumerate(connections):
        for _ in range(count):
            number += 1
            said.append(claimant(f"boot-{boot}", number))
            claims = greeted(claims, said[-1], 1.0)
            claims = greeted(claims, data.draw(st.sampled_from(said[-12:])), 1.0)
    assert claimants(claims, 1.0) == ()


def test_no_more_boots_are_remembered_than_need_be() -> None:
    claims, _ = after([(f"boot-{number}", number) for number in range(100)])
    assert len(claims.boots) == 16
    assert at(0) == START
