"""Every topic of the bus, in both directions, and who may write it (DESIGN.md section 5).

No other module contains a topic: subscriptions, access rules and the AsyncAPI document are made from ``CHANNELS``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId, is_name

ROOT = "metrica/v1"


class Channel(msgspec.Struct, frozen=True):
    """One kind of topic: ``metrica/v1/<fleet>/[devices/<device>/]<name>``."""

    name: str
    per_device: bool
    writer: Literal["device", "hub"]
    retained: bool
    about: str
    qos: Literal[0, 1] = 1
    signed: bool = False
    """Whether what is said there is a signed text, instead of JSON."""
    operators: bool = False
    """Whether operators may write there as well."""


PRESENCE = Channel("presence", per_device=True, writer="device", retained=True, about="online or offline")
STATUS = Channel("status", per_device=True, writer="device", retained=True, about="the whole current state")
SERVICES = Channel("services", per_device=True, writer="device", retained=True, about="what runs on it")
RECORDS = Channel("records", per_device=True, writer="device", retained=False, about="heartbeats and events")
STORED = Channel("stored", per_device=True, writer="hub", retained=True, about="what the device may forget")
HEAD = Channel("head", per_device=False, writer="hub", retained=True, about="the branch's commit: a nudge")

COMMANDS = Channel("commands", per_device=True, writer="hub", retained=False, about="what it is to do", signed=True)
ANSWERS = Channel("answers", per_device=True, writer="device", retained=False, about="what came of its commands")
STOP = Channel(
    "orders/stop",
    per_device=False,
    writer="hub",
    retained=True,
    about="the emergency stop: all that is stopped",
    signed=True,
    operators=True,
)
GATE = Channel(
    "orders/rollout",
    per_device=False,
    writer="hub",
    retained=True,
    about="how far the newest commit's gate is open",
    signed=True,
)

CHANNELS = (PRESENCE, STATUS, SERVICES, RECORDS, STORED, HEAD, COMMANDS, ANSWERS, STOP, GATE)

_BY_PLACE = {(channel.per_device, channel.name): channel for channel in CHANNELS}


class Address(msgspec.Struct, frozen=True):
    """A channel of one fleet, and of one device where the channel has one per device."""

    fleet: FleetId
    channel: Channel
    device: DeviceId | None = None


def topic_of(address: Address) -> str:
    """Return the topic of ``address``; inverse of ``address_of``."""
    if address.channel.per_device:
        return f"{ROOT}/{address.fleet}/devices/{address.device}/{address.channel.name}"
    return f"{ROOT}/{address.fleet}/{address.channel.name}"


def address_of(topic: str) -> Address:
    """Return what ``topic`` addresses; inverse of ``topic_of``.

    Raises:
        Unusable: ``unknown-topic``.
    """
    prefix, _, rest = topic.partition(f"{ROOT}/")
    levels = rest.split("/")
    if not prefix and all(map(is_name, levels)):
        match levels:
            case [fleet, "devices", device, name] if (True, name) in _BY_PLACE:
                return Address(FleetId(fleet), _BY_PLACE[True, name], DeviceId(device))
            case [fleet, *names] if (False, "/".join(names)) in _BY_PLACE:
                return Address(FleetId(fleet), _BY_PLACE[False, "/".join(names)])
            case _:
                pass
    raise Unusable(f'"{topic[:200]}" is no topic of a Metrica fleet', reason="unknown-topic")


def shared(pattern: str, group: str) -> str:
    """Return the subscription filter by which each message of ``pattern`` goes to one member of ``group``."""
    return f"$share/{group}/{pattern}"


def every_device(fleet: FleetId, channel: Channel) -> str:
    """Return the subscription filter for ``channel`` of all devices of ``fleet``."""
    return topic_of(Address(fleet, channel, DeviceId("+")))
