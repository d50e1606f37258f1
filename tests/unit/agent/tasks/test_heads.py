from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from metrica_agent.decisions.world import HeadMark, Memory, Saying, Stamp
from metrica_agent.tasks.heads import HeadTask
from metrica_agent.tasks.notary import Notary
from metrica_agent.wake import Wake
from metrica_fleet import gate
from metrica_fleet.errors import NotNow
from metrica_fleet.head import LIFETIME_S, Vouched, written
from metrica_fleet.identity import BootId, CommitId, FleetId
from metrica_fleet.messages import Head
from metrica_fleet.signed import GATES, HEADS, joined
from metrica_sim.virtual import pens

AT = datetime(2027, 3, 1, tzinfo=UTC)
C1, C2 = CommitId("1" * 40), CommitId("2" * 40)
POLL_S = 60.0
PATIENCE_S = 3 * POLL_S + 30


def vouched(number: int = 7, commit: CommitId = C1, fleet: str = "demo", later_s: float = 0.0) -> Vouched:
    return Vouched(
        fleet=fleet,
        number=number,
        issued_at=AT + timedelta(seconds=later_s),
        branch="main",
        commit=commit,
        lifetime_s=LIFETIME_S,
    )


def said(one: Vouched, by: str = "hub", namespace: str = HEADS, text: str | None = None) -> Head:
    signed = pens.signed(written(one), namespace, by)
    if text is not None:
        signed = replace(signed, text=text)
    return Head(branch="main", commit=one.commit, number=1, signed=joined(signed).decode())


@dataclass
class Hearing:
    """A head task, on a clock that others turn, and what it asked, told and handed on."""

    memory: Memory = field(default_factory=Memory)
    own: str | None = "hub"
    wanted: CommitId | None = C1
    fails: int = 0
    now_at_s: float = 100.0
    asked: int = 0
    changes: int = 0
    heard: int = 0
    told: list[str] = field(default_factory=list[str])
    meanwhile: Callable[[], None] = lambda: None
    """What happens while a signature is looked at."""

    def __post_init__(self) -> None:
        self.task = HeadTask(
            fleet=FleetId("demo"),
            notary=Notary(verify=self.verify, own=self.own),
            memory=lambda: self.memory,
            wanted=lambda: self.wanted,
            ledger=self,
            clock=self,
            wake=Wake(self.now_s),
            chance=lambda: 0.0,
            poll_s=POLL_S,
            on_heard=self._heard,
            on_change=self._changed,
        )

    def now_s(self) -> float:
        return self.now_at_s

    def stamp(self) -> Stamp:
        return Stamp(boot_id=BootId("b"), uptime_s=self.now_at_s, at=None)

    def remembers(self, memory: Memory) -> None:
        self.memory = memory
        self.task.remembered()

    def _heard(self) -> None:
        self.heard += 1

    def _changed(self) -> None:
        self.changes += 1

    async def verify(self, text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
        self.asked += 1
        if self.asked <= self.fails:
            raise NotNow("no ssh-keygen", reason="signatures-unverifiable")
        self.meanwhile()
        return await pens.verify(text, signature, signers, namespace=namespace, at=at)

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.told += [f"{saying.kind} {saying.reason or ''}".strip() for saying in sayings]
        return (1,)

    async def goes_on(self, *steps: Head | float) -> str | None:
        """Hear, and let time pass, in this order; return why the device is stale then."""
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.task.run())
            for step in (0.0, *steps):
                if isinstance(step, Head):
                    self.task.hear(step)
                else:
                    self.now_at_s += step
                    self.task.wake.nudge()
                for _ in range(50):
                    await asyncio.sleep(0)
            running.cancel()
        return self.task.stale.reason if self.task.stale is not None else None


async def test_who_follows_what_the_hub_names_is_fresh_for_as_long_as_the_hub_goes_on() -> None:
    hearing = Hearing()
    tenth_s = LIFETIME_S / 10
    steps = [step for n in range(40) for step in (said(vouched(7 + n, later_s=n * tenth_s)), tenth_s)]
    assert await hearing.goes_on(*steps) is None
    assert (hearing.told, hearing.changes) == ([], 0)
    assert hearing.asked <= 12, "who signed what says the same is found out when half its life is over, not each time"
    assert hearing.task.heard is not None
    assert await hearing.goes_on(LIFETIME_S) == "head-unheard"
    assert (hearing.told, hearing.changes) == (["head.stale head-unheard"], 1)


async def test_who_hears_of_a_commit_that_no_remote_gives_is_stale_until_one_does() -> None:
    hearing = Hearing()
    assert await hearing.goes_on(said(vouched()), said(vouched(8, C2)), PATIENCE_S - 1.0) is None
    assert await hearing.goes_on(1.0) == "head-held-back"
    hearing.wanted = C2
    assert await hearing.goes_on(1.0) is None
    assert hearing.told == ["head.stale head-held-back", "head.fresh"]
    assert hearing.changes == 2


async def test_a_word_that_comes_again_prolongs_nothing() -> None:
    hearing = Hearing()
    old, new = said(vouched()), said(vouched(8))
    assert await hearing.goes_on(old, new, LIFETIME_S / 2, new, old, LIFETIME_S / 2 - 1.0, new) is None
    assert await hearing.goes_on(old, 1.0, new, old) == "head-unheard"
    # Nor does one that was held back until then.
    assert await hearing.goes_on(said(vouched(9, later_s=1.0)), 2.0) == "head-unheard"
    assert await hearing.goes_on(said(vouched(10, later_s=LIFETIME_S))) is None


async def test_a_restart_forgets_neither_that_the_hub_vouches_nor_how_far() -> None:
    mark = HeadMark(number=8, commit=C2, lifetime_s=LIFETIME_S)
    hearing = Hearing(memory=Memory(head=mark), wanted=C2)
    assert await hearing.goes_on(said(vouched(7)), LIFETIME_S - 1.0) is None
    assert hearing.asked == 0, "what is older than what is remembered is history"
    assert await hearing.goes_on(1.0) == "head-unheard"
    assert await hearing.goes_on(said(vouched(8, C2))) is None
    assert hearing.task.heard == mark


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (said(vouched(), by="mallory"), "signer-unknown"),
        (said(vouched(), namespace=GATES), "signature-bad"),
        (said(vouched(), text=written(vouched(commit=C2))), "signature-bad"),
        (said(vouched(fleet="other")), "head-of-another-fleet"),
        (said(vouched(), text="{}"), "head-unusable"),
    ],
)
async def test_a_word_that_will_not_do_changes_nothing_and_is_told_once(head: Head, reason: str) -> None:
    hearing = Hearing()
    assert await hearing.goes_on(head, head, LIFETIME_S, PATIENCE_S) is None
    assert (hearing.told, hearing.heard, hearing.task.heard) == ([f"head.refused {reason}"], 0, None)


async def test_a_word_is_judged_again_when_others_may_sign_and_counts_from_when_it_was_heard() -> None:
    """A new device hears it at its first connect, before its first commit has told whom to trust."""
    hearing = Hearing(own=None)
    assert await hearing.goes_on(said(vouched()), LIFETIME_S / 2) is None
    hearing.remembers(Memory(signers="carol"))
    assert await hearing.goes_on() is None
    assert (hearing.heard, hearing.asked) == (0, 1)
    hearing.remembers(Memory(signers="hub"))
    assert await hearing.goes_on(LIFETIME_S / 2 - 1.0) is None
    assert (hearing.heard, hearing.asked) == (1, 2)
    assert await hearing.goes_on(1.0) == "head-unheard"
    assert hearing.told == ["head.refused signers-none", "head.refused signer-unknown", "head.stale head-unheard"]


async def test_a_word_is_judged_again_when_others_may_sign_since_it_is_looked_at() -> None:
    hearing = Hearing(own="carol")
    hearing.meanwhile = lambda: hearing.remembers(Memory(signers="hub"))
    await hearing.goes_on(said(vouched()))
    assert (hearing.heard, hearing.asked) == (1, 2)


@pytest.mark.parametrize("signed", [None, "no signature"])
async def test_an_older_hub_whose_word_is_not_signed_makes_nobody_stale(signed: str | None) -> None:
    hearing = Hearing(wanted=C2)
    head = Head(branch="main", commit=C1, number=1, signed=signed)
    assert await hearing.goes_on(head, PATIENCE_S, LIFETIME_S) is None
    assert (hearing.asked, hearing.told) == (0, [])


async def test_what_can_not_be_judged_now_is_judged_again() -> None:
    hearing = Hearing(fails=2)
    await hearing.goes_on(said(vouched()))
    assert (hearing.heard, hearing.told) == (1, [])


def test_a_head_is_no_gate_for_it_is_signed_for_something_else() -> None:
    """Their texts are alike enough that one could be read as the other: the namespace of the signature parts them."""
    assert gate.read(written(vouched())).commit == C1
