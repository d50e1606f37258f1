from __future__ import annotations

import pytest

from metrica_fleet.logs import redacted


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("git https://bob:hunter2@git.example/fleet.git", "hunter2"),
        ("MQTT_PASSWORD=hunter2 and more", "hunter2"),
        ('{"api_key": "hunter2", "n": 1}', "hunter2"),
        ("Authorization: Bearer mtr_hunter2hunter2", "hunter2"),
        ("sent with bearer mtr_hunter2hunter2.", "hunter2"),
        ("access-token: hunter2", "hunter2"),
        ("secret = 'hunter2'", "hunter2"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\nrest", "hunter2"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2 and the end is cut off", "hunter2"),
    ],
)
def test_what_looks_like_a_secret_does_not_leave_the_machine(text: str, hidden: str) -> None:
    assert hidden not in redacted(text)
    assert "***" in redacted(text)


@pytest.mark.parametrize("text", ["a plain line", "12 tokens were read", "key of the door", "mail bob@example.org"])
def test_what_is_none_is_left(text: str) -> None:
    assert redacted(text) == text
