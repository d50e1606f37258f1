from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrica_fleet.codec import MAX_PAYLOAD_BYTES, encode
from metrica_fleet.commands import (
    FOLLOWED_S,
    LONGEST_S,
    PART_BYTES,
    SHORTEST_S,
    VERBS,
    AnyTask,
    Collect,
    Command,
    Logs,
    Restart,
    arguments_of,
    task_of,
    timeout_of,
    understood,
    written,
)
from metrica_fleet.errors import Unusable
from metrica_fleet.messages import Answer

NOW = datetime(2026, 11, 29, 9, tzinfo=UTC)
COMMAND = Command(
    fleet="demo",
    device="pi-01",  # pyright: ignore[reportArgumentType]
    number=7,
    issued_at=NOW,
    expires_at=NOW + timedelta(minutes=5),
    verb="logs",
    arguments={"service": "web", "tail": 5},
    timeout_s=60,
)
WHOLE: dict[str, dict[str, Any]] = {
    "redeploy": {},
    "restart": {"service": "web"},
    "sync": {},
    "logs": {"service": "web", "tail": 7, "since_s": 60.5, "follow": True, "timestamps": True},
    "reboot": {},
    "safe-mode": {"on": True, "reason": "the camera smokes"},
    "hold": {"on": False, "reason": "the exhibition is over"},
    "accept-history": {"commit": "a" * 40, "reason": "the branch was cleaned"},
    "explain": {"limit": 3},
    "collect": {},
    "cancel": {"command": 6},
}


def test_a_command_is_read_as_it_was_written() -> None:
    assert understood(written(COMMAND)) == COMMAND


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"number": 1}', written(COMMAND).replace('"number":7', '"number":0')]
)
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(Unusable) as caught:
        understood(text)
    assert caught.value.reason == "bad-command"


def test_every_verb_has_arguments_that_come_back_as_they_went() -> None:
    assert WHOLE.keys() == VERBS.keys()
    for verb, arguments in WHOLE.items():
        assert arguments_of(task_of(verb, arguments)) == arguments


def test_every_verb_says_what_it_does_and_ends_by_itself() -> None:
    for name, verb in VERBS.items():
        assert verb.about.endswith("."), name
        assert SHORTEST_S <= verb.timeout_s <= LONGEST_S, name
    assert timeout_of(Logs(service="web")) == VERBS["logs"].timeout_s
    assert timeout_of(Logs(service="web", follow=True)) == FOLLOWED_S
    assert timeout_of(Restart(service="web")) == VERBS["restart"].timeout_s


def test_no_verb_is_a_viewers() -> None:
    assert {verb.role for verb in VERBS.values()} <= {"operator", "admin"}


def test_every_task_is_a_verb() -> None:
    tasks: tuple[type[object], ...] = AnyTask.__args__
    assert {verb.task for verb in VERBS.values()} == set(tasks)
    assert VERBS["collect"].task is Collect


@pytest.mark.parametrize(
    ("verb", "arguments", "reason"),
    [
        ("sh", {}, "unknown-verb"),
        ("", {}, "unknown-verb"),
        ("restart", {}, "bad-arguments"),
        ("restart", {"service": "--all"}, "bad-arguments"),
        ("restart", {"service": "../web"}, "bad-arguments"),
        ("restart", {"service": "web\n"}, "bad-arguments"),
        ("restart", {"service": "web", "verb": "reboot"}, "bad-arguments"),
        ("restart", {"service": "web", "signal": "KILL"}, "bad-arguments"),
        ("redeploy", {"release": "a" * 64}, "bad-arguments"),
        ("logs", {"service": "web", "tail": -1}, "bad-arguments"),
        ("logs", {"service": "web", "tail": 10_001}, "bad-arguments"),
        ("logs", {"service": "web", "since_s": 0}, "bad-arguments"),
        ("logs", {"service": "web", "since_s": "1h"}, "bad-arguments"),
        ("safe-mode", {"on": "yes", "reason": "why"}, "bad-arguments"),
        ("hold", {"on": True, "reason": ""}, "bad-arguments"),
        ("hold", {"on": True, "reason": "two\nlines"}, "bad-arguments"),
        ("accept-history", {"commit": "HEAD", "reason": "why"}, "bad-arguments"),
    ],
)
def test_what_is_not_known_or_out_of_bounds_is_refused(verb: str, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        task_of(verb, arguments)
    assert caught.value.reason == reason


_SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=20)


def _understood(verb: str, arguments: dict[str, Any]) -> AnyTask | str:
    try:
        return task_of(verb, arguments)
    except Unusable as error:
        return error.reason


@given(st.sampled_from(sorted(VERBS)), st.dictionaries(st.text(max_size=10) | st.just("service"), _SCALARS, max_size=4))
def test_whatever_the_arguments_a_command_is_understood_or_refused(verb: str, arguments: dict[str, Any]) -> None:
    task = _understood(verb, arguments)
    assert task == "bad-arguments" or (not isinstance(task, str) and _understood(verb, arguments_of(task)) == task)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=PART_BYTES // 16))
def test_a_part_of_an_answer_fits_on_the_bus(line: str) -> None:
    share = line.encode()[: PART_BYTES // 16].decode(errors="ignore")
    assert len(encode(Answer(number=2**53 - 1, state="running", lines=(share,)))) <= MAX_PAYLOAD_BYTES
    data = encode(Answer(number=2**53 - 1, state="running", data=b"\xff" * PART_BYTES))
    assert len(data) <= MAX_PAYLOAD_BYTES
    assert json.loads(data)["part"] == 0


def test_an_unknown_field_of_a_command_is_ignored() -> None:
    fields = msgspec.json.decode(written(COMMAND)) | {"since": "a later version"}
    assert understood(msgspec.json.encode(fields).decode()) == COMMAND
