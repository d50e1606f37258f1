"""How many messages that can't be used are kept."""

from __future__ import annotations

from metrica_hub.decisions.allowance import OF_ALL, OF_ONE, WINDOW_S, Allowance


def kept(allowance: Allowance, name: str, count: int, now_s: float) -> int:
    return sum(allowance.takes(name, now_s) for _ in range(count))


def test_of_one_name_so_many_are_kept_in_a_window_and_as_many_in_the_next() -> None:
    allowance = Allowance(now_s=0.0)
    assert kept(allowance, "pi-01", 10_000, 1.0) == OF_ONE
    assert kept(allowance, "pi-01", 10_000, WINDOW_S - 1) == 0
    assert kept(allowance, "pi-01", 10_000, WINDOW_S) == OF_ONE


def test_one_that_floods_does_not_take_the_place_of_another() -> None:
    allowance = Allowance(now_s=0.0)
    kept(allowance, "pi-01", 10_000, 1.0)
    assert kept(allowance, "pi-02", 3, 2.0) == 3


def test_invented_names_share_one_bound() -> None:
    allowance = Allowance(now_s=0.0)
    assert sum(kept(allowance, f"invented-{number}", 5, 1.0) for number in range(10_000)) == OF_ALL
