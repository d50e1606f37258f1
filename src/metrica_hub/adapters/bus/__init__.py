"""The broker: MQTT 5 by the ``mqtt5`` codec in a plain ``asyncio.Protocol``.

``Bus.run`` keeps a connection: connects, subscribes, serves until it is lost, waits with jitter, connects again. What
the broker delivers waits in one queue until ``take`` fetches it. It is acknowledged by ``acknowledge`` only, after the
database's commit, in the order of arrival, and only on the connection that it came by: on the next one the broker
delivers it again under another packet id.

The queue is bounded by not reading the socket (``decisions/flow.py``). Mosquitto 2.0.11 does not keep to Receive
Maximum (CONVENTIONS.md F1), so the hub asks for it and does not rely on it.

What the hub says is retained and replaces what it said before on the topic. So only the newest payload of a topic is
kept until the broker has acknowledged it, over reconnections too (``sayings``).

link       one connection: packets in, packets out
sayings    what is to be said, and what the broker has not yet acknowledged
session    the connection kept, the queue, the brake
"""

from __future__ import annotations

from metrica_hub.adapters.bus.session import Account, Broker, Bus

__all__ = ["Account", "Broker", "Bus"]
