"""A gate on its way: signed by ssh-keygen, kept by a real broker, judged by the device with ssh-keygen."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace
from tests.fixtures.broker import Broker
from tests.fixtures.signing import Person
from tests.integration.agent.reporting import FLEET, device, tiny_hub, until

from metrica_agent.decisions.world import Asking, Memory, Saying, Stamp
from metrica_agent.tasks.gates import GateTask
from metrica_agent.tasks.notary import Notary
from metrica_agent.wake import Wake
from metrica_agent.wiring import verified
from metrica_fleet.gate import EVERYBODY, Gate, written
from metrica_fleet.identity import BootId, CommitId
from metrica_fleet.signed import COMMANDS, GATES, Signed
from metrica_fleet.topics import GATE, Channel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

C1 = CommitId("1" * 40)
OPEN = Gate(fleet=FLEET, number=7, issued_at=datetime(2027, 3, 1, tzinfo=UTC), commit=C1, threshold=EVERYBODY)
HALTED = replace(OPEN, number=8, state="halted", reason="smoke")


class Told:
    """The ledger of a task that only tells."""

    def __init__(self) -> None:
        self.reasons: list[str | None] = []

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.reasons += [saying.reason for saying in sayings]
        return (1,)


def said(gate: Gate, by: Person, namespace: str = GATES) -> Signed:
    text = written(gate)
    return Signed(text, by.sign(text.encode(), namespace).decode())


async def test_a_gate_that_the_hub_signed_is_believed_and_no_other(tmp_path: Path) -> None:
    hub, mallory = Person.made(tmp_path, "hub"), Person.made(tmp_path, "mallory")
    told, memory = Told(), Memory(asking=Asking(commit=C1, boot_id=BootId("b"), since_s=0.0))
    with Broker(tmp_path) as broker:
        async with tiny_hub(broker.port) as bus, device(tmp_path, broker.port) as pi:
            task = GateTask(
                fleet=FLEET,
                notary=Notary(verify=verified, own=hub.line(f'namespaces="{GATES},{COMMANDS}"')),
                memory=lambda: memory,
                ledger=told,
                clock=pi.clock,
                wake=Wake(pi.clock.now_s),
                chance=lambda: 0.0,
                on_heard=lambda: None,
            )

            def heard(channel: Channel, signed: Signed) -> None:
                assert channel is GATE
                task.hear(signed)

            pi.task.on_signed = heard
            async with asyncio.TaskGroup() as group:
                judging = group.create_task(task.run())
                await bus.say(GATE, said(OPEN, hub))
                await until(lambda: task.heard == OPEN)
                await bus.say(GATE, said(HALTED, mallory))
                await until(lambda: told.reasons == ["signer-unknown"])
                await bus.say(GATE, said(HALTED, hub, COMMANDS))
                await until(lambda: told.reasons[1:] == ["signature-bad"])
                await bus.say(GATE, said(HALTED, hub))
                await until(lambda: task.heard == HALTED)
                task.heard_s = None
                await bus.say(GATE, said(replace(HALTED, issued_at=HALTED.issued_at + timedelta(minutes=1)), hub))
                await until(lambda: task.heard_s is not None)
                judging.cancel()
            assert task.heard == HALTED


async def test_who_connects_later_hears_the_gate_that_the_broker_kept(tmp_path: Path) -> None:
    hub = Person.made(tmp_path, "hub")
    heard: list[Signed] = []
    with Broker(tmp_path) as broker:
        async with tiny_hub(broker.port) as bus:
            await bus.say(GATE, said(HALTED, hub))
        async with device(tmp_path, broker.port) as pi:
            pi.task.on_signed = lambda _channel, signed: heard.append(signed)
            await until(lambda: heard)
    assert heard == [said(HALTED, hub)]
