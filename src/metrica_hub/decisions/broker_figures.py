"""What Mosquitto says of itself on ``$SYS``, as figures: which of its topics mean what, and in which unit.

The broker publishes them every ``sys_interval`` (mosquitto.conf: 10 s), each when it changed, and retains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric that comes from the broker."""

    name: str
    about: str
    kind: Literal["counter", "gauge"] = "gauge"


FIGURES: Final[dict[str, Figure]] = {
    "$SYS/broker/publish/messages/dropped": Figure(
        "metrica_broker_dropped_messages",
        "Messages that the broker dropped: somebody's queue was full, or somebody may not hear them.",
        "counter",
    ),
    "$SYS/broker/messages/received": Figure(
        "metrica_broker_received_messages", "MQTT packets that the broker received.", "counter"
    ),
    "$SYS/broker/messages/sent": Figure("metrica_broker_sent_messages", "MQTT packets that it sent.", "counter"),
    "$SYS/broker/bytes/received": Figure("metrica_broker_received_bytes", "Bytes that it received.", "counter"),
    "$SYS/broker/bytes/sent": Figure("metrica_broker_sent_bytes", "Bytes that it sent.", "counter"),
    "$SYS/broker/store/messages/count": Figure(
        "metrica_broker_stored_messages", "Messages that it holds: retained, and waiting for somebody."
    ),
    "$SYS/broker/store/messages/bytes": Figure("metrica_broker_stored_bytes", "What these take."),
    "$SYS/broker/retained messages/count": Figure("metrica_broker_retained_messages", "Messages that it retains."),
    "$SYS/broker/clients/connected": Figure("metrica_broker_connected_clients", "Clients that are connected."),
    "$SYS/broker/clients/disconnected": Figure(
        "metrica_broker_absent_clients", "Clients that are away and have a session."
    ),
    "$SYS/broker/subscriptions/count": Figure("metrica_broker_subscriptions", "Subscriptions of all clients."),
    "$SYS/broker/heap/current": Figure("metrica_broker_heap_bytes", "Memory that the broker has allocated."),
    "$SYS/broker/uptime": Figure("metrica_broker_uptime_seconds", "For how long the broker has run."),
}
"""Topic -> metric. Of the broker's own names only these are ours; ``$SYS`` has no standard."""


def read_figure(topic: str, payload: bytes) -> tuple[Figure, float] | None:
    """Return what ``payload`` says on ``topic``; ``None`` for a topic or a text that is not known."""
    figure = FIGURES.get(topic)
    if figure is None:
        return None
    number, _, unit = payload.decode("ascii", "replace").partition(" ")
    if unit not in {"", "seconds"} or not number.isdecimal():
        return None
    return figure, float(number)
