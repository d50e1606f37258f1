"""mosquitto/acl: who may write and read what, from ``metrica_fleet.topics``."""

from __future__ import annotations

from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.topics import CHANNELS, ROOT, Address, Channel, topic_of

_HEAD = """\
# Who may write and read what on the bus. Made from src/metrica_fleet/topics.py by scripts/reference; do not edit.
#
# A user is whom the broker takes a client for: the common name of its certificate (mosquitto/conf.d/tls.conf), or the
# user of a password. A device's user is its id, so a device speaks for itself alone. What is not allowed is denied.
# "hub" and "operator" are no names for devices (metrica_fleet.definition.RESERVED_DEVICES).
#
# A pattern counts for every user, %u being the user's name; "+" stands for the fleet, so one broker serves one
# fleet, or several that trust each other. Mosquitto warns of a pattern without %u: it is the same for all devices.
#
# Mosquitto 2.1 prefers the plugin mosquitto_acl_file, and 3.0 takes acl_file away; this format stays.
"""

_OPERATOR = f"""
# Operators look (mosquitto_sub), and may publish what they signed: without a good signature it stops nobody.
user operator
topic read {ROOT}/#
topic read $SYS/#
"""


def acl() -> str:
    """Return the file."""
    devices = [_rule("pattern", channel, _device_may(channel), "%u") for channel in CHANNELS]
    hub = [_rule("topic", channel, _hub_may(channel), "+") for channel in CHANNELS]
    operators = [_rule("topic", channel, "write", "+") for channel in CHANNELS if channel.operators]
    return (
        "\n".join(
            [
                _HEAD,
                "# Devices.",
                *devices,
                "",
                "# The hub.",
                "user hub",
                *hub,
                "topic read $SYS/broker/#",
                _OPERATOR + "\n".join(operators),
            ]
        )
        + "\n"
    )


def _rule(kind: str, channel: Channel, may: str, device: str) -> str:
    return f"{kind} {may} {topic_of(Address(FleetId('+'), channel, DeviceId(device)))}"


def _device_may(channel: Channel) -> str:
    return "write" if channel.writer == "device" else "read"


def _hub_may(channel: Channel) -> str:
    if channel.operators:
        return "readwrite"
    return "write" if channel.writer == "hub" else "read"
