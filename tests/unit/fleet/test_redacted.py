from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from metrica_fleet.logs import redact, redacted


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
        ("the one that was made: mtr_hunter2hunter2hunter2hunter2", "hunter2"),
        ("enrol --token mte_hunter2hunter2hunter2hunter2", "hunter2"),
        ("signed with whsec_aHVudGVyMmh1bnRlcjJodW50ZXIy", "aHVudGVyMm"),
        ("AGE-SECRET-KEY-1HUNTER2HUNTER2HUNTER2", "HUNTER2"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2 and the end is cut off", "hunter2"),
    ],
)
def test_what_looks_like_a_secret_does_not_leave_the_machine(text: str, hidden: str) -> None:
    assert hidden not in redacted(text)
    assert "***" in redacted(text)


@pytest.mark.parametrize("text", ["a plain line", "12 tokens were read", "key of the door", "mail bob@example.org"])
def test_what_is_none_is_left(text: str) -> None:
    assert redacted(text) == text


NESTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"bus_password": 7, "n": 1}, {"bus_password": "***", "n": 1}),
    ({"at": {"url": "https://a:hunter2@b/c", "token": "x"}}, {"at": {"url": "https://***@b/c", "token": "***"}}),
    ({"urls": ("https://a:hunter2@b/c", 3)}, {"urls": ["https://***@b/c", 3]}),
    ({"error": "token: it has expired"}, {"error": "token: it has expired"}),
]


@pytest.mark.parametrize(("said", "logged"), NESTED)
def test_a_log_line_is_without_secrets_however_deep_they_are(said: dict[str, Any], logged: dict[str, Any]) -> None:
    assert redact(None, "", dict(said)) == logged


FAILS = """
import logging, msgspec, structlog
from metrica_fleet import logs
logs.set_up("debug", encode=msgspec.json.encode)
for log in (structlog.get_logger(), logging.getLogger("a library")):
    try:
        raise ValueError("https://me:hunter2@git.example/fleet.git with Bearer hunter2hunter2")
    except ValueError:
        log.exception("it failed")
"""


def test_a_traceback_is_without_secrets_too() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, check=True)
    assert done.stdout.count("ValueError") == 2
    assert done.stdout.count("https://***@git.example") == 2
    assert "hunter2" not in done.stdout + done.stderr
