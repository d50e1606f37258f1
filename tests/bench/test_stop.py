"""From an emergency stop that is published to the last of five hundred devices that has it in its ledger."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiomqtt
from tests.bench.figures import quantile
from tests.fixtures.agent import FLEET
from tests.fixtures.broker import HOST
from tests.fixtures.signing import Person, allowed
from tests.fixtures.stopping import Operator

from metrica_agent.signatures import require_signer
from metrica_fleet.codec import decode
from metrica_fleet.identity import FleetId
from metrica_fleet.messages import Presence
from metrica_fleet.signed import ORDERS
from metrica_fleet.stop import Level, Stop
from metrica_fleet.topics import PRESENCE, STOP, Address, every_device, topic_of

if TYPE_CHECKING:
    from tests.bench.figures import Table
    from tests.fixtures.broker import Broker

DEVICES: Final = int(os.environ.get("METRICA_BENCH_STOPPED", "500"))
PROCESSES: Final = 2
ROUNDS: Final = 10
"""A stop and a resume in turn."""
WITHIN_S: Final = 1.0
KEYGENS: Final = 20
REST_S: Final = 4.0
HERD: Final = Path(__file__).with_name("stoppable.py")


async def test_a_stop_is_obeyed_by_500_connected_devices(broker: Broker, tmp_path: Path, table: Table) -> None:
    alice = Operator(Person.made(tmp_path, "alice"), FLEET, broker, number=int(time.time()))
    signers = tmp_path / "allowed_signers"
    signers.write_text(allowed(alice.person))
    each = DEVICES // PROCESSES
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - in the field each has its own disk
    with tempfile.TemporaryDirectory(dir=memory) as state:
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(HERD), str(broker.port), str(place * each + 1), str(each), state, str(signers)),
                stdout=asyncio.subprocess.PIPE,
                limit=2**20,
            )
            for place in range(PROCESSES)
        ]
        try:
            began_s = time.monotonic()
            await all_online(broker, each * PROCESSES)
            table.row("devices connected", f"{each * PROCESSES} in {time.monotonic() - began_s:.0f} s")
            every, lasts = await rounds(alice, broker, processes)
        finally:
            for process in processes:
                process.kill()
                await process.communicate()
    keygen_s = keygen(alice, signers.read_text())
    figures = f"p50 {quantile(every, 0.5):.3f} s, p99 {quantile(every, 0.99):.3f} s (n = {len(every)})"
    table.row("published → in a device's ledger", figures)
    table.spread("published → the last of them", lasts, digits=3)
    table.row("ssh-keygen, for one order", f"{keygen_s:.3f} s; asked once a process here, once a device in the field")
    assert quantile(every, 0.99) + keygen_s < WITHIN_S


async def all_online(broker: Broker, count: int) -> None:
    """Return when so many devices have said that they are there."""
    online: set[str] = set()
    async with asyncio.timeout(120), aiomqtt.Client(HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(every_device(FleetId(FLEET), PRESENCE))
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            said = decode(PRESENCE, message.payload)
            if isinstance(said, Presence) and said.state == "online":
                online.add(said.device)
            if len(online) == count:
                return


async def rounds(
    alice: Operator, broker: Broker, processes: list[asyncio.subprocess.Process]
) -> tuple[list[float], list[float]]:
    """Stop and resume in turn; return how long each device took each time, and the last of them."""
    every: list[float] = []
    lasts: list[float] = []
    topic = topic_of(Address(FleetId(FLEET), STOP))
    async with aiomqtt.Client(HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for number in range(ROUNDS):
            stops = (Stop(level=Level.FREEZE, reason="a measurement"),) if number % 2 == 0 else ()
            payload = alice.signed(alice.order(*stops))
            await asyncio.sleep(REST_S)  # what the one before left to be said is said
            began_s = time.monotonic()
            await client.publish(topic, payload, qos=1, retain=True)
            took_s: list[float] = []
            for process in processes:
                assert process.stdout is not None
                async with asyncio.timeout(120):
                    answer = json.loads(await process.stdout.readline())
                assert answer["number"] == alice.number
                took_s += [at_s - began_s for at_s in answer["at_s"]]
            every += took_s
            lasts.append(max(took_s))
    return every, lasts


def keygen(alice: Operator, signers: str) -> float:
    """Return what ssh-keygen takes for one order, on average."""
    text = alice.order(Stop(level=Level.FREEZE)).encode()
    signature = alice.person.sign(text, ORDERS)
    began_s = time.monotonic()
    for _ in range(KEYGENS):
        require_signer(
            text, signature, signers, namespace=ORDERS, at="20261129092000", what="the order", way_out="have it signed"
        )
    return (time.monotonic() - began_s) / KEYGENS
