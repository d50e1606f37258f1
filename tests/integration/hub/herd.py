"""Devices that obey the gate, by the rules of the language, and need no machine: what the hub sees of a whole fleet.

One connection tells for all of them. Each wants the head that the hub names, asks ``may_start`` with the gate that it
heard, and, when it may, is on trial and comes to its end: confirmed, refused if it is among the ``bad``, or nothing at
all if it is among the ``mute``.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiomqtt
from tests.fixtures.broker import HOST
from tests.fixtures.git_servers import binary
from tests.fixtures.hub import FLEET
from tests.integration.hub.device import presence, status, topic

from metrica_fleet import gate as gates
from metrica_fleet.codec import decode, encode
from metrica_fleet.identity import CommitId, DeviceId, FleetId
from metrica_fleet.messages import Head, Refusal
from metrica_fleet.signed import GATES, Signed
from metrica_fleet.topics import GATE, HEAD, PRESENCE, STATUS, Address, topic_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

    from metrica_fleet.policies import RolloutPolicy

BEFORE = "a" * 40
AGAIN_S = 0.2


@dataclass
class Herd:
    """A fleet."""

    devices: Mapping[DeviceId, tuple[str, ...]]
    policy: RolloutPolicy
    signers: Path
    bad: frozenset[DeviceId] = frozenset()
    mute: frozenset[DeviceId] = frozenset()
    off: frozenset[DeviceId] = frozenset()
    heard: list[gates.Gate] = field(default_factory=list[gates.Gate])
    started: dict[CommitId, list[DeviceId]] = field(default_factory=dict[CommitId, list[DeviceId]])
    failed_s: dict[DeviceId, float] = field(default_factory=dict[DeviceId, float])
    """When each of the bad said so."""
    halted_s: float | None = None
    """When a gate was heard that is halted."""
    wanted: CommitId | None = None
    _uptime_s: float = 1.0
    _said: dict[DeviceId, bytes] = field(default_factory=dict[DeviceId, bytes])
    """The last status of each device: it is said again on each connection."""
    _trying: dict[DeviceId, CommitId] = field(default_factory=dict[DeviceId, CommitId])
    """Who began what and has not come to its end."""

    @property
    def last(self) -> gates.Gate | None:
        """The gate that is in force: the one of the highest number."""
        return max(self.heard, key=lambda gate: gate.number, default=None)

    def started_on(self, commit: CommitId) -> set[DeviceId]:
        """Return who began ``commit``."""
        return set(self.started.get(commit, ()))

    async def tell(self, client: aiomqtt.Client, device: DeviceId, **said: object) -> None:
        """Publish a device's status."""
        self._uptime_s += 0.001
        one = status(device, uptime_s=self._uptime_s, **said)  # pyright: ignore[reportArgumentType]
        self._said[device] = encode(one)
        await client.publish(topic(device, STATUS), self._said[device], qos=1, retain=True)

    async def live_on(self, port: int) -> None:
        """Live until cancelled, over as many connections as it takes."""
        while True:
            try:
                async with connection(port) as client:
                    await self.live(client)
            except aiomqtt.MqttError:
                await asyncio.sleep(AGAIN_S)

    async def live(self, client: aiomqtt.Client) -> None:
        """Live until cancelled, or until the connection is lost."""
        for device in self.devices:
            if device in self.off:
                continue
            await client.publish(topic(device, PRESENCE), encode(presence(device, "online", 1)), qos=1, retain=True)
            if device in self._said:
                await client.publish(topic(device, STATUS), self._said[device], qos=1, retain=True)
            else:
                await self.tell(client, device, commit=BEFORE, wanted_commit=BEFORE)
        for device, commit in tuple(self._trying.items()):
            await self._end(client, device, commit)
        await client.subscribe(topic_of(Address(FleetId(FLEET), HEAD)), qos=1)
        await client.subscribe(topic_of(Address(FleetId(FLEET), GATE)), qos=1)
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if message.topic.matches(topic_of(Address(FleetId(FLEET), HEAD))):
                head = decode(HEAD, message.payload)
                assert isinstance(head, Head)
                self.wanted = head.commit
            else:
                signed = decode(GATE, message.payload)
                assert isinstance(signed, Signed)
                self.verify(signed)
                self.heard.append(gates.read(signed.text))
                if self.halted_s is None and self.heard[-1].state == "halted":
                    self.halted_s = time.monotonic()
            await self._begin(client)

    def verify(self, signed: Signed) -> None:
        """Judge as OpenSSH does whether the hub signed it."""
        signature = self.signers.with_name("signature")
        signature.write_text(signed.signature)
        verify = ("-Y", "verify", "-n", GATES, "-I", "hub", "-f", str(self.signers), "-s", str(signature))
        command = [binary("ssh-keygen", "openssh-client"), *verify]
        subprocess.run(command, input=signed.text.encode(), capture_output=True, check=True)

    async def _begin(self, client: aiomqtt.Client) -> None:
        commit = self.wanted
        if commit is None:
            return
        begun = self.started.setdefault(commit, [])
        for device, tags in self.devices.items():
            asker = gates.Asker(device=device, tags=tags, commit=commit)
            if device in begun or device in self.off:
                continue
            if gates.may_start(self.policy, self.last, asker, silent_s=0).granted:
                begun.append(device)
                await self._try(client, device, commit)

    async def _try(self, client: aiomqtt.Client, device: DeviceId, commit: CommitId) -> None:
        trial = {"wanted_commit": commit, "commit": BEFORE, "phase": "trial", "mode": "trial", "reason": "in-progress"}
        self._trying[device] = commit
        await self.tell(client, device, **trial)
        await self._end(client, device, commit)

    async def _end(self, client: aiomqtt.Client, device: DeviceId, commit: CommitId) -> None:
        if device in self.bad:
            refused = Refusal(commit=commit, reason="unhealthy", message=f"{device} did not come up")
            said = {"wanted_commit": commit, "commit": BEFORE, "phase": "refused", "refused": refused}
            await self.tell(client, device, **said)
            self.failed_s[device] = time.monotonic()
        elif device not in self.mute:
            await self.tell(client, device, wanted_commit=commit, commit=commit, release="c" * 64)
        self._trying.pop(device, None)


def connection(port: int) -> aiomqtt.Client:
    return aiomqtt.Client(HOST, port, protocol=aiomqtt.ProtocolVersion.V5, timeout=5)


@asynccontextmanager
async def living(herd: Herd, port: int) -> AsyncGenerator[aiomqtt.Client]:
    """Have the herd live for the block; the connection may tell more of its devices."""
    async with connection(port) as client, asyncio.TaskGroup() as group:
        life = group.create_task(herd.live(client))
        yield client
        life.cancel()


@asynccontextmanager
async def lasting(herd: Herd, port: int) -> AsyncGenerator[None]:
    """Have the herd live for the block, whatever becomes of the broker."""
    async with asyncio.TaskGroup() as group:
        life = group.create_task(herd.live_on(port))
        yield
        life.cancel()
