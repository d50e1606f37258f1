from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.fleet.wire import MESSAGES, said

from metrica_fleet.codec import MAX_PAYLOAD_BYTES, decode, encode
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId
from metrica_fleet.messages import MOST_SERVICES, Message, Presence, Service, Services
from metrica_fleet.topics import CHANNELS, PRESENCE, RECORDS, SERVICES, STATUS, STORED, Channel

REASONS = {"too-large", "missing-field", "wrong-type", "not-json", "not-signed"}


@given(said())
def test_what_is_encoded_is_decoded_to_the_same(pair: tuple[Channel, Message]) -> None:
    channel, message = pair
    payload = encode(message)
    assert decode(channel, payload) == message
    assert encode(decode(channel, payload)) == payload


def test_every_channel_has_a_message() -> None:
    assert set(MESSAGES) == set(CHANNELS)


@given(said(), st.data())
def test_a_message_cut_short_is_refused(pair: tuple[Channel, Message], data: st.DataObject) -> None:
    channel, message = pair
    payload = encode(message)
    with pytest.raises(Unusable) as caught:
        decode(channel, payload[: data.draw(st.integers(0, len(payload) - 1))])
    assert caught.value.reason == "not-json"


@given(said(), st.data())
def test_a_message_that_lacks_a_required_field_is_refused_by_its_name(
    pair: tuple[Channel, Message], data: st.DataObject
) -> None:
    channel, message = pair
    fields = {field.encode_name for field in msgspec.structs.fields(message) if field.required}
    missing = data.draw(st.sampled_from(sorted(fields)))
    table: dict[str, Any] = json.loads(encode(message))
    del table[missing]
    with pytest.raises(Unusable, match=missing) as caught:
        decode(channel, json.dumps(table).encode())
    assert caught.value.reason == "missing-field"


@given(said(), st.data())
def test_a_field_of_another_type_is_refused_with_its_path(pair: tuple[Channel, Message], data: st.DataObject) -> None:
    channel, message = pair
    table: dict[str, Any] = json.loads(encode(message))
    field = data.draw(st.sampled_from(sorted(table)))
    table[field] = [{"no": ["such", "thing"]}]
    with pytest.raises(Unusable) as caught:
        decode(channel, json.dumps(table).encode())
    assert caught.value.reason == "wrong-type"
    assert "$" in caught.value.message or field == "type"


@given(said())
def test_fields_of_a_newer_version_are_ignored(pair: tuple[Channel, Message]) -> None:
    channel, message = pair
    table = json.loads(encode(message)) | {"new_in_v2": {"deep": [1, 2, {"x": None}]}}
    assert decode(channel, json.dumps(table).encode()) == message


@given(st.sampled_from(CHANNELS), st.binary(max_size=200))
def test_bytes_are_a_message_or_refused_with_a_reason(channel: Channel, payload: bytes) -> None:
    try:
        decode(channel, payload)
    except Unusable as error:
        reason, message = error.reason, error.message
    else:
        return
    assert reason in REASONS
    assert message.startswith(channel.name)


@given(said(), st.data())
def test_a_message_with_one_byte_changed_is_another_message_or_refused(
    pair: tuple[Channel, Message], data: st.DataObject
) -> None:
    channel, message = pair
    payload = bytearray(encode(message))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        other = decode(channel, payload)
    except Unusable as error:
        reason = error.reason
    else:
        assert decode(channel, encode(other)) == other
        return
    assert reason in REASONS


@pytest.mark.parametrize(
    ("channel", "payload", "reason"),
    [
        (RECORDS, b"[" * 30_000, "wrong-type"),
        (STATUS, b'{"unknown": ' + b'{"a": ' * 5_000 + b"1" + b"}" * 5_001, "not-json"),
        (STORED, b'{"streams": {}' + b" " * MAX_PAYLOAD_BYTES + b"}", "too-large"),
        (STORED, b"", "not-json"),
        (STORED, b"\xff\xfe", "not-json"),
        (STORED, b"null", "wrong-type"),
        (STORED, b'{"streams": {"' + b"a" * 32 + b'": 9007199254740992}}', "wrong-type"),
        (STORED, b'{"streams": {"' + b"a" * 32 + b'\\n": 1}}', "wrong-type"),
        (STORED, b'{"streams": {"' + b"A" * 32 + b'": 1}}', "wrong-type"),
        (STORED, b'{"streams": {}} {}', "not-json"),
        (RECORDS, b'{"type": "gossip"}', "wrong-type"),
        (RECORDS, b"{}", "missing-field"),
        (PRESENCE, b'{"device": NaN}', "not-json"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(channel: Channel, payload: bytes, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        decode(channel, payload)
    assert caught.value.reason == reason


def test_a_key_that_is_there_twice_counts_once() -> None:
    payload = b'{"streams": {}, "streams": {"' + b"a" * 32 + b'": 4}}'
    assert encode(decode(STORED, payload)) == b'{"streams":{"' + b"a" * 32 + b'":4}}'


def test_a_message_is_written_without_white_space_and_with_null_for_unknown() -> None:
    presence = Presence(
        device="pi-01",  # type: ignore[arg-type]
        state="online",
        reason="connected",
        boot_id="b",
        connection=7,
        agent_version="0.1.0",
    )
    assert encode(presence) == (
        b'{"device":"pi-01","state":"online","reason":"connected","boot_id":"b","connection":7,"agent_version":"0.1.0"}'
    )


def test_as_many_services_as_are_told_fit_a_message_with_the_longest_names() -> None:
    longest = Service(
        name="\N{SNOWMAN}" * 128,
        state="x" * 80,
        health="x" * 80,
        exit_code=-(2**53) + 1,
        restarts=2**53 - 1,
        containers=2**53 - 1,
        image="i" * 256,
        image_id="i" * 64,
        since=datetime(2027, 3, 1, 1, 1, 1, 999999, tzinfo=UTC),
    )
    most = Services(
        device=DeviceId("d" * 63),
        at=None,
        boot_id="b" * 36,
        uptime_s=1.0,
        services=(longest,) * MOST_SERVICES,
        untold=2**53 - 1,
    )
    assert decode(SERVICES, encode(most)) == most
    with pytest.raises(Unusable) as caught:
        decode(
            SERVICES,
            encode(msgspec.structs.replace(most, services=(Service(name="", state="x"),) * (MOST_SERVICES + 1))),
        )
    assert caught.value.reason == "wrong-type"
