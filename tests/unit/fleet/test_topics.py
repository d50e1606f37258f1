from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.fleet.wire import NAMES

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.topics import CHANNELS, RECORDS, Address, Channel, address_of, every_device, shared, topic_of


@given(NAMES.map(FleetId), st.sampled_from(CHANNELS), NAMES.map(DeviceId))
def test_a_topic_and_its_address_are_inverse(fleet: FleetId, channel: Channel, device: DeviceId) -> None:
    address = Address(fleet, channel, device if channel.per_device else None)
    assert address_of(topic_of(address)) == address


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["metrica", "v1", "a", "devices", "records", "head", "orders", "stop", ""])).map(
        "/".join
    )
)
def test_a_text_is_a_topic_of_ours_or_refused(text: str) -> None:
    try:
        address = address_of(text)
    except Unusable as error:
        reason = error.reason
    else:
        assert topic_of(address) == text
        return
    assert reason == "unknown-topic"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "metrica/v1/a",
        "metrica/v2/a/head",
        "metrica/v1/a/heads",
        "metrica/v1/a/orders",
        "metrica/v1/a/orders/stop/",
        "metrica/v1/a/stop",
        "metrica/v1//head",
        "/metrica/v1/a/head",
        "metrica/v1/a/head/",
        "metrica/v1/a/head\n",
        "metrica/v1/A/head",
        "metrica/v1/a/devices/+/records",
        "metrica/v1/a/devices/pi_01/records",
        "metrica/v1/a/devices/pi-01/head",
        "metrica/v1/a/records",
        "x/metrica/v1/a/head",
        "$SYS/metrica/v1/a/head",
    ],
)
def test_what_is_no_topic_of_ours_is_refused(topic: str) -> None:
    with pytest.raises(Unusable) as caught:
        address_of(topic)
    assert caught.value.reason == "unknown-topic"


def test_the_hub_subscribes_to_all_devices_of_one_fleet() -> None:
    assert every_device(FleetId("a"), RECORDS) == "metrica/v1/a/devices/+/records"


def test_hubs_that_share_subscribe_as_one_group() -> None:
    assert shared(every_device(FleetId("home"), RECORDS), "hub") == "$share/hub/metrica/v1/home/devices/+/records"


def test_every_channel_has_a_place_of_its_own() -> None:
    assert len({topic_of(Address(FleetId("a"), channel, DeviceId("b"))) for channel in CHANNELS}) == len(CHANNELS)
