"""How many wrong tokens an address may try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.failures import AT_ONCE, FORGIVEN_S, MOST, Failures, household, remote_of


def tried(failures: Failures, address: str, count: int, now_s: float) -> int:
    """How many of ``count`` tries were let through, all of them wrong."""
    passed = 0
    for _ in range(count):
        if not failures.wait_s(address, now_s):
            failures.note(address, now_s)
            passed += 1
    return passed


def test_so_many_at_once_and_then_one_now_and_then() -> None:
    failures = Failures()
    assert tried(failures, "192.0.2.1", 1000, 5.0) == AT_ONCE
    assert failures.wait_s("192.0.2.1", 5.0) == pytest.approx(FORGIVEN_S)
    assert tried(failures, "192.0.2.1", 1000, 5.0 + FORGIVEN_S) == 1
    assert tried(failures, "192.0.2.1", 1000, 5.0 + FORGIVEN_S * 1.5) == 0
    assert tried(failures, "192.0.2.1", 1000, 5.0 + FORGIVEN_S * 100) == AT_ONCE


def test_one_address_does_not_lock_out_another() -> None:
    failures = Failures()
    tried(failures, "192.0.2.1", 1000, 0.0)
    assert failures.wait_s("192.0.2.2", 0.0) == 0


@given(st.lists(st.tuples(st.integers(0, MOST * 3), st.floats(0, 3)), max_size=300))
def test_memory_is_bounded_and_time_only_forgives(steps: list[tuple[int, float]]) -> None:
    failures = Failures()
    now_s = 0.0
    for number, later_s in steps:
        now_s += later_s
        address = f"10.0.{number // 256}.{number % 256}"
        before = failures.wait_s(address, now_s)
        failures.note(address, now_s)
        assert failures.wait_s(address, now_s) >= before
    assert len(failures) <= len({number for number, _ in steps})


def test_invented_addresses_are_forgotten_oldest_first() -> None:
    failures = Failures()
    tried(failures, "192.0.2.1", AT_ONCE, 0.0)
    for number in range(MOST):
        failures.note(f"10.1.{number // 256}.{number % 256}", 1.0)
    assert len(failures) == MOST
    assert failures.wait_s("192.0.2.1", 1.0) == 0


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "192.0.2.2", False),
    ],
)
def test_what_one_household_has_is_counted_as_one(one: str, other: str, *, alike: bool) -> None:
    assert (household(one) == household(other)) == alike


@pytest.mark.parametrize(
    ("peer", "forwarded", "remote"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "203.0.113.1, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "203.0.113.1,198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "10.0.0.2,127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7, unknown", "127.0.0.1"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_an_address_is_believed_as_far_as_our_own_proxies_wrote_it(peer: str, forwarded: str, remote: str) -> None:
    assert remote_of(peer, forwarded, ("127.0.0.1", "10.0.0.2")) == remote
