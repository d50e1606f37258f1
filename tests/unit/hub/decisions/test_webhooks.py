"""To whom events are told, in which words, and when again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_hub.decisions.fleet_state import EventRow
from metrica_hub.decisions.webhooks import (
    LASTS_S,
    Kind,
    Listener,
    after_failure,
    cloud_event,
    headers_of,
    may_reach,
    objection,
    secret_of,
    wants,
)


def test_a_message_is_signed_as_other_implementations_sign_it() -> None:
    """The example of the libraries of the specification's authors."""
    made = headers_of(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (made["webhook-id"], made["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=50))
def test_another_secret_or_body_is_another_signature(chance: bytes, body: bytes) -> None:
    def signature(secret: bytes, content: bytes) -> str:
        return headers_of(secret_of(secret), "a:1", 1, content)["webhook-signature"]

    assert signature(chance, body) != signature(chance[::-1] + b"x", body)
    assert signature(chance, body) != signature(chance, body + b" ")


@pytest.mark.parametrize(
    ("kinds", "kind", "told"),
    [
        (("*",), "release.confirmed", True),
        (("release.*",), "release.confirmed", True),
        (("release.*",), "releases.confirmed", False),
        (("release.*",), "release", False),
        (("release.refused", "stop.obeyed"), "stop.obeyed", True),
        (("release.refused",), "release.refused.again", False),
    ],
)
def test_which_kinds_are_told(kinds: tuple[str, ...], kind: str, *, told: bool) -> None:
    assert wants(kinds, kind) == told


@pytest.mark.parametrize(
    ("kind", "good"), [("*", True), ("a.*", True), ("a.b", True), ("a*", False), ("*.a", False), ("", False)]
)
def test_how_kinds_are_named(kind: str, *, good: bool) -> None:
    try:
        msgspec.convert(kind, Kind)
    except msgspec.ValidationError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize(
    ("url", "on_the_internet", "nearby"),
    [
        ("https://example.org/hook?x=1", True, True),
        ("https://example.org:8443/hook", True, True),
        ("https://93.184.216.34/", True, True),
        ("http://example.org/", False, False),
        ("http://93.184.216.34/", False, False),
        ("http://127.0.0.1:9000/", False, True),
        ("http://localhost:9000/", False, True),
        ("http://[::1]:9000/", False, True),
        ("http://[::ffff:127.0.0.1]:9000/", False, True),
        ("http://192.168.0.7/", False, False),
        ("https://192.168.0.7/", False, True),
        ("https://100.64.0.7/", False, True),
        ("https://127.0.0.1/", False, True),
        ("https://169.254.169.254/latest", False, False),
        ("https://[fe80::1]/", False, False),
        ("https://0.0.0.0/", False, False),
        ("https://user:password@example.org/", False, False),
        ("https://example.org/#part", False, False),
        ("https:///nowhere", False, False),
        ("https://example.org:99999/", False, False),
        ("https://[::1/", False, False),
        ("ftp://example.org/", False, False),
    ],
)
def test_where_something_is_told(url: str, *, on_the_internet: bool, nearby: bool) -> None:
    assert (objection(url, private=False) is None) == on_the_internet
    assert (objection(url, private=True) is None) == nearby


@pytest.mark.parametrize(
    ("address", "on_the_internet", "nearby"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1::1", True, True),
        ("10.0.0.1", False, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("fd00::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("224.0.0.1", False, False),
        ("::", False, False),
        ("nothing", False, False),
    ],
)
def test_what_a_name_may_stand_for(address: str, *, on_the_internet: bool, nearby: bool) -> None:
    assert may_reach(address, private=False) == on_the_internet
    assert may_reach(address, private=True) == nearby


def listener(attempts: int, failing_s: float) -> Listener:
    return Listener(
        id=1, url="https://example.org/", kinds=("*",), secret="", cursor=0, attempts=attempts, failing_s=failing_s
    )


@given(st.integers(0, 10_000), st.floats(0, LASTS_S - 1), st.floats(0, 1, exclude_max=True))
def test_it_is_tried_again_within_ten_minutes_for_a_day(attempts: int, failing_s: float, chance: float) -> None:
    retry = after_failure(listener(attempts, failing_s), is_gone=False, chance=chance)
    assert retry.after_s is not None
    assert 0 <= retry.after_s <= 600
    assert after_failure(listener(attempts, LASTS_S), is_gone=False, chance=chance).after_s is None
    assert after_failure(listener(attempts, failing_s), is_gone=True, chance=chance).after_s is None


def row(**other: Any) -> EventRow:
    facts: dict[str, Any] = {
        "cursor": 7, "device": "pi-01", "stream": "5" * 32, "seq": 3, "uptime_s": 1.0, "boot_id": "b",
        "received_at": datetime(2026, 1, 2, tzinfo=UTC), "at": None, "kind": "release.confirmed", "reason": None,
        "message": "it runs", "commit": "a" * 40, "release": None, "detail": {"n": 1},
    }  # fmt: skip
    return EventRow(**{**facts, **other})


def test_an_event_is_told_as_a_cloud_event() -> None:
    told = msgspec.json.decode(cloud_event("home", row()))
    assert told["data"]["message"] == "it runs"
    del told["data"]
    assert told == {
        "specversion": "1.0",
        "id": f"{'5' * 32}:3",
        "source": "/fleets/home/devices/pi-01",
        "type": "fleet.metrica.release.confirmed.v1",
        "datacontenttype": "application/json",
    }
    more = msgspec.json.decode(cloud_event("home", row(at=datetime(2026, 1, 2, 3, tzinfo=UTC), release="c" * 64)))
    assert (more["time"], more["subject"]) == ("2026-01-02T03:00:00Z", "c" * 64)
