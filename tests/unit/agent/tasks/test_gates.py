from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from metrica_agent.decisions.world import Asking, Memory, Saying, Stamp
from metrica_agent.tasks.gates import GateTask
from metrica_agent.tasks.notary import Notary
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow
from metrica_fleet.gate import Gate, written
from metrica_fleet.identity import BootId, CommitId, FleetId
from metrica_fleet.signed import COMMANDS, GATES, Signed
from metrica_sim.virtual import pens

AT = datetime(2027, 3, 1, tzinfo=UTC)
C1 = CommitId("1" * 40)
WAITS = Memory(asking=Asking(commit=C1, boot_id=BootId("b"), since_s=0.0))


def gate(number: int = 7, **changes: object) -> Gate:
    return replace(Gate(fleet="demo", number=number, issued_at=AT, commit=C1), **changes)


def said(one: Gate, by: str = "hub", namespace: str = GATES) -> Signed:
    return pens.signed(written(one), namespace, by)


def again(one: Gate, minutes: int = 5) -> Gate:
    return replace(one, issued_at=one.issued_at + timedelta(minutes=minutes))


class Clock:
    def now_s(self) -> float:
        return 100.0

    def stamp(self) -> Stamp:
        return Stamp(boot_id=BootId("b"), uptime_s=100.0, at=None)


@dataclass
class Hearing:
    """A gate task, and what it asked, told and handed on."""

    memory: Memory = WAITS
    own: str | None = "hub"
    asked: int = 0
    fails: int = 0
    nudges: int = 0
    told: list[str | None] = field(default_factory=list[str | None])
    meanwhile: Callable[[], None] = lambda: None
    """What happens while a signature is looked at."""

    def __post_init__(self) -> None:
        clock = Clock()
        self.task = GateTask(
            fleet=FleetId("demo"),
            notary=Notary(verify=self.verify, own=self.own),
            memory=lambda: self.memory,
            ledger=self,
            clock=clock,
            wake=Wake(clock.now_s),
            chance=lambda: 0.0,
            on_heard=self.nudge,
        )

    async def verify(self, text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
        self.asked += 1
        if self.asked <= self.fails:
            raise NotNow("no ssh-keygen", reason="signatures-unverifiable")
        self.meanwhile()
        return await pens.verify(text, signature, signers, namespace=namespace, at=at)

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.told += [saying.reason for saying in sayings]
        return (1,)

    def nudge(self) -> None:
        self.nudges += 1

    def remembers(self, memory: Memory) -> None:
        self.memory = memory
        self.task.remembered()

    async def hears(self, *all_signed: Signed) -> Gate | None:
        """Let the task judge each of these, and look again for as long as it wants to."""
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.task.run())
            for signed in (None, *all_signed):
                if signed is not None:
                    self.task.hear(signed)
                for _ in range(50):
                    await asyncio.sleep(0)
            running.cancel()
        return self.task.heard


async def test_what_the_hub_signed_is_handed_on_and_wakes() -> None:
    hearing = Hearing()
    assert await hearing.hears(said(gate())) == gate()
    assert (hearing.task.heard_s, hearing.nudges, hearing.told) == (100.0, 1, [])


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        (said(gate(), by="mallory"), "signer-unknown"),
        (said(gate(), namespace=COMMANDS), "signature-bad"),
        (replace(said(gate()), text=written(gate(stage=1))), "signature-bad"),
        (said(gate(fleet="other")), "gate-of-another-fleet"),
        (pens.signed("{}", GATES, "hub"), "gate-unusable"),
    ],
)
async def test_a_gate_that_will_not_do_changes_nothing_and_is_told_once(signed: Signed, reason: str) -> None:
    hearing = Hearing()
    assert await hearing.hears(signed, signed) is None
    assert (hearing.task.heard_s, hearing.nudges, hearing.told) == (None, 0, [reason])


async def test_where_nobody_may_sign_gates_none_is_taken() -> None:
    hearing = Hearing(own=None)
    assert await hearing.hears(said(gate())) is None
    assert hearing.told == ["signers-none"]


async def test_a_gate_is_judged_again_when_others_may_sign() -> None:
    """A new device hears it at its first connect, before its first commit has told whom to trust."""
    hearing = Hearing(own=None)
    assert await hearing.hears(said(gate())) is None
    hearing.remembers(replace(WAITS, tags=("a",)))
    assert await hearing.hears() is None
    hearing.remembers(replace(WAITS, signers="carol"))
    assert await hearing.hears() is None
    assert (hearing.asked, hearing.told) == (1, ["signers-none", "signer-unknown"])
    hearing.remembers(replace(WAITS, signers="hub"))
    assert await hearing.hears() == gate()
    assert (hearing.nudges, hearing.told) == (1, ["signers-none", "signer-unknown"])


async def test_a_gate_is_judged_again_when_others_may_sign_since_it_is_looked_at() -> None:
    hearing = Hearing(own="carol")
    hearing.meanwhile = lambda: hearing.remembers(replace(WAITS, signers="hub"))
    assert await hearing.hears(said(gate())) == gate()
    assert hearing.asked == 2


async def test_the_newest_gate_is_enough_for_who_comes_to_know_its_signer() -> None:
    hearing = Hearing(own=None)
    await hearing.hears(said(gate()))
    hearing.task.hear(said(gate(8)))
    hearing.remembers(replace(WAITS, signers="hub"))
    assert await hearing.hears() == gate(8)
    assert (hearing.asked, hearing.told) == (1, ["signers-none"])


async def test_numbers_only_grow_and_none_says_two_things() -> None:
    hearing = Hearing()
    halted = gate(8, state="halted")
    assert await hearing.hears(said(gate()), said(halted), said(gate())) == halted
    assert hearing.told == ["gate-outdated"]
    assert await hearing.hears(said(gate(8, state="open"))) == halted
    assert hearing.told == ["gate-outdated", "gate-number-reused"]
    assert await hearing.hears(said(gate(9))) == gate(9)


async def test_what_memory_knows_is_not_heard_as_new_after_a_restart() -> None:
    hearing = Hearing(memory=replace(WAITS, gate=gate(8, state="halted")))
    assert await hearing.hears(said(gate(8, state="halted")), said(gate(7))) is None
    assert (hearing.asked, hearing.told) == (0, ["gate-outdated"])


async def test_a_gate_said_again_is_a_sign_of_life_to_who_waits_and_costs_nobody_else_anything() -> None:
    waits, rests = Hearing(), Hearing(memory=Memory())
    for hearing, asked in ((waits, 2), (rests, 1)):
        await hearing.hears(said(gate()))
        hearing.task.heard_s = 1.0
        assert await hearing.hears(said(gate()), said(again(gate())), said(again(gate())), said(gate())) == gate()
        assert (hearing.asked, hearing.told) == (asked, [])
    assert (waits.task.heard_s, rests.task.heard_s) == (100.0, 1.0)


async def test_what_can_not_be_judged_now_is_judged_again() -> None:
    hearing = Hearing(fails=2)
    assert await hearing.hears(said(gate())) == gate()
    assert hearing.told == []
