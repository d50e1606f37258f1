"""What is read quickly is what the codec reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json, structs, to_builtins
from tests.unit.hub.values import event, heartbeat

from metrica_fleet.codec import decode, encode
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import CommitId, ReleaseDigest
from metrica_fleet.topics import RECORDS
from metrica_hub.decisions import heartbeats
from metrica_hub.decisions.heartbeats import RecordReader

WHOLE = structs.replace(heartbeat(7), commit=CommitId("a" * 40), release=ReleaseDigest("b" * 64), phase="confirmed")
ODD = ["", "a" * 32, "a" * 40, "b" * 64, "steady", "confirmed", "A", "a\n", "x" * 81, None, 7]


def outcome(reader: RecordReader | None, payload: bytes) -> object:
    try:
        return to_builtins(reader.decode(payload) if reader else decode(RECORDS, payload))
    except Unusable as error:
        return error.reason, error.message


@given(
    st.lists(
        st.tuples(st.sampled_from(["stream", "commit", "release", "mode", "phase", "seq", "at"]), st.sampled_from(ODD)),
        max_size=2,
    )
)
def test_whatever_came_before_a_heartbeat_is_read_as_the_codec_reads_it(changes: list[tuple[str, object]]) -> None:
    reader = RecordReader()
    payload = json.encode({**json.decode(encode(WHOLE)), **dict(changes)})
    for one in (payload, encode(WHOLE), payload, encode(WHOLE), payload):
        assert outcome(reader, one) == outcome(None, one)


@pytest.mark.parametrize("payload", [b"", b"{", b"17", b"\xff", b"[" * 20_000, encode(WHOLE) + b" " * 65_536])
def test_what_the_codec_refuses_is_refused_with_its_words(payload: bytes) -> None:
    reader = RecordReader()
    reader.decode(encode(WHOLE))
    assert outcome(reader, payload) == outcome(None, payload)


def test_an_event_is_read() -> None:
    assert RecordReader().decode(encode(event(3))) == event(3)


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "REMEMBERED", 10)
    reader = RecordReader()
    for number in range(100):
        reader.decode(encode(structs.replace(WHOLE, mode=f"mode-{number}")))
    assert reader.remembered <= 4 * 12
