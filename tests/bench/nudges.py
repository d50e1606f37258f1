"""The hub's ``head`` on the bus: when it came, and nudges of our own."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Self

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from tests.bench.figures import boot_s
from tests.fixtures.agent import FLEET, until

from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import CommitId, FleetId
from metrica_fleet.messages import Head
from metrica_fleet.topics import HEAD, Address, topic_of

if TYPE_CHECKING:
    from tests.fixtures.broker import Broker

TOPIC = topic_of(Address(FleetId(FLEET), HEAD))


class Nudges:
    """A client that hears every ``head``, and may say one."""

    def __init__(self, broker: Broker) -> None:
        self._heard: dict[str, float] = {}
        self._subscribed = False
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = self._hear
        self._client.on_subscribe = self._answer
        self._client.connect(broker.host, broker.port)

    def __enter__(self) -> Self:
        self._client.subscribe(TOPIC, qos=1)
        self._client.loop_start()
        until(lambda: self._subscribed, what="a subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def heard(self, commit: str) -> float:
        """Wait for the nudge to ``commit``; return when it came, in seconds since boot."""
        return until(lambda: self._heard.get(commit), what=f"a nudge to {commit}") or 0.0

    def nudge(self) -> None:
        """Make every device look at its remote: nobody knows the commit."""
        head = Head(branch="main", commit=CommitId(secrets.token_hex(20)), number=1)
        self._client.publish(TOPIC, encode(head), qos=1)

    def _hear(self, _: Client, __: Any, message: MQTTMessage) -> None:
        now_s = boot_s()
        head = decode(HEAD, message.payload)
        if isinstance(head, Head):
            self._heard.setdefault(head.commit, now_s)

    def _answer(self, *_: Any) -> None:
        self._subscribed = True
