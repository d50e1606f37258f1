"""A client that publishes what no device would: other people's fridges, broken software, and worse."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import aiomqtt

from metrica_fleet.identity import FleetId
from metrica_fleet.retry import full_jitter
from metrica_fleet.topics import PRESENCE, RECORDS, STATUS, Address, Channel, topic_of
from metrica_sim.crowd.plan import Plan

STREAM: Final = "f" * 32
"""A stream of nobody: what is set aside must not stand in for a device's record."""
BURST_S: Final = 0.1
DEPTH: Final = 20_000
LARGE_BYTES: Final = 60_000
"""Just below what the broker passes on (mosquitto.conf, message_size_limit)."""

POISONS: Final[dict[str, tuple[Channel, Callable[[str], bytes]]]] = {
    "not JSON": (RECORDS, lambda _: b"\xff\xfe\x00temperature=21"),
    "empty": (RECORDS, lambda _: b""),
    "cut off": (RECORDS, lambda _: b'{"stream":"' + STREAM.encode() + b'","seq":1,"pr'),
    "deep": (RECORDS, lambda _: b"[" * DEPTH + b"]" * DEPTH),
    "large": (RECORDS, lambda _: b'{"kind":"' + b"x" * LARGE_BYTES + b'"}'),
    "not a number": (RECORDS, lambda _: _record(uptime_s="NaN")),
    "too large a number": (RECORDS, lambda _: _record(uptime_s="1e999")),
    "no text": (RECORDS, lambda _: _record(message='"\\u0000"')),
    "another's name": (STATUS, lambda device: f'{{"device":"not-{device}"}}'.encode()),
    "no such state": (PRESENCE, lambda device: f'{{"device":"{device}","state":"asleep"}}'.encode()),
}
"""Name -> where it is published, and what makes the payload for a device."""


class Poisoner:
    """One client; it connects again when the broker throws it out."""

    def __init__(self, plan: Plan, chance: random.Random) -> None:
        self._plan = plan
        self._chance = chance
        self._over = False
        self.sent = 0

    def end(self) -> None:
        """Publish no more. To be called before ``run`` is cancelled: aiomqtt may let a cancellation pass unheard."""
        self._over = True

    async def run(self) -> None:
        """Publish until cancelled."""
        failures = 0
        while not self._over:
            try:
                async with aiomqtt.Client(self._plan.host, self._plan.port, protocol=aiomqtt.ProtocolVersion.V5) as bus:
                    failures = 0
                    await self._poison(bus)
            except aiomqtt.MqttError:
                failures += 1
            await asyncio.sleep(full_jitter(failures, self._chance.random(), 0.5, 10.0))

    async def _poison(self, bus: aiomqtt.Client) -> None:
        due = 0.0
        while not self._over:
            due += self._plan.poison_per_s * BURST_S
            while due >= 1:
                due -= 1
                channel, made = POISONS[self._chance.choice(tuple(POISONS))]
                device = self._chance.choice(self._plan.names)
                topic = topic_of(Address(FleetId(self._plan.fleet), channel, device))
                await bus.publish(topic, made(device), qos=1)
                self.sent += 1
            await asyncio.sleep(BURST_S)


def _record(**changed: str) -> bytes:
    """Return an event of nobody's stream, with some of its JSON values changed."""
    fields = {
        "type": '"event"',
        "stream": f'"{STREAM}"',
        "seq": "1",
        "prev": "0",
        "at": "null",
        "boot_id": '"x"',
        "uptime_s": "1.0",
        "kind": '"drift.found"',
        "reason": "null",
        "message": '""',
        "commit": "null",
        "release": "null",
        "detail": "{}",
    }
    return ("{" + ",".join(f'"{name}":{value}' for name, value in (fields | changed).items()) + "}").encode()
