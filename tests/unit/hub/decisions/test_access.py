"""Roles, tokens, and where one goes after signing in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.access import (
    ROLES,
    Role,
    csrf_of,
    digest_of,
    is_loopback,
    is_token,
    is_token_name,
    reaches,
    same,
    token_of,
    way_back,
)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("wanted", ROLES)
def test_each_role_may_do_what_those_before_it_may(role: Role, wanted: Role) -> None:
    may = {"viewer": {"viewer"}, "operator": {"viewer", "operator"}, "admin": {"viewer", "operator", "admin"}}
    assert reaches(role, wanted) == (wanted in may[role])


@given(st.binary(min_size=32, max_size=32))
def test_every_secret_makes_a_token_of_the_one_form(secret: bytes) -> None:
    token = token_of(secret)
    assert token.startswith("mtr_")
    assert is_token(token)
    assert len(digest_of(token)) == 32


@given(st.text())
def test_whatever_is_shown_can_be_looked_up_and_compared(text: str) -> None:
    assert not is_token(text)
    assert len(digest_of(text)) == 32
    assert same(csrf_of(text), csrf_of(text))
    assert not same(text, csrf_of(text))


@pytest.mark.parametrize("name", ["ci", "anna@example.org", "a", "a" * 63, "grafana_ro.2"])
def test_names_of_tokens(name: str) -> None:
    assert is_token_name(name)


@pytest.mark.parametrize("name", ["", "A", "a" * 64, "-a", "a\n", "a b", "a\0", "ä"])
def test_what_can_not_name_a_token(name: str) -> None:
    assert not is_token_name(name)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/", "/"),
        ("/devices/pi-01?show=all#x", "/devices/pi-01?show=all#x"),
        ("", "/"),
        ("devices", "/"),
        ("//example.org/", "/"),
        ("/\\example.org", "/"),
        ("/a\\b", "/"),
        ("https://example.org/", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("/\t/example.org", "/"),
        ("/ä", "/"),
    ],
)
def test_after_signing_in_one_is_led_to_this_hub_only(asked: str, target: str) -> None:
    assert way_back(asked) == target


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("[::1]:8080", True),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("hub.example.org", False),
        ("192.168.0.7:8080", False),
        ("", False),
    ],
)
def test_only_ones_own_machine_is_trusted_over_plain_http(host: str, *, own: bool) -> None:
    assert is_loopback(host) == own
