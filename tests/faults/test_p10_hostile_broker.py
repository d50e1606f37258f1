"""P10: a broker that has turned hostile silences nobody without being noticed.

That it can neither stop, start nor roll out is shown where those are: ``test_p11_stop.py``, and of tests/integration
``agent/test_gates.py``, ``agent/test_notary.py``, ``hub/test_commands.py``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.broker import Broker
from tests.fixtures.hostile import Hostile, hostile
from tests.fixtures.hub import Hub
from tests.fixtures.signing import Person
from tests.integration.agent import reporting
from tests.integration.hub.device import Device, event, heartbeat, new_stream, status

from metrica_agent.decisions.world import Memory, Saying, Stamp, Stopped
from metrica_agent.tasks.heads import HeadTask
from metrica_agent.tasks.notary import Notary
from metrica_agent.wake import Wake
from metrica_agent.wiring import verified
from metrica_fleet.head import Vouched, written
from metrica_fleet.identity import CommitId
from metrica_fleet.messages import Head
from metrica_fleet.signed import COMMANDS, GATES, HEADS, ORDERS, Signed, joined
from metrica_fleet.stop import Level, Stop, StopOrder, understood
from metrica_fleet.stop import written as ordered
from metrica_fleet.topics import HEAD, STOP, Channel
from metrica_hub.adapters.store.arrears import Arrears
from metrica_hub.adapters.store.pool import close_pool, open_pool
from metrica_hub.decisions.arrears import STILL_S, Owed, missing, weighed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.fixtures.database import Cluster

    from metrica_agent.adapters.clock import Clock

C1, C2 = CommitId("1" * 40), CommitId("2" * 40)
LIFETIME_S: Final = 1.5
"""Of what the hub vouches for, in these tests."""
POLL_S: Final = 0.1


async def owed(arrears: Arrears, stream: str, fact: Callable[[Sequence[Owed]], bool]) -> Sequence[Owed]:
    """Return what is owed of ``stream`` once ``fact`` holds of it."""
    async with asyncio.timeout(45):
        while True:
            if fact(found := [one for one in await arrears.owed() if one.stream == stream]):
                return found
            await asyncio.sleep(0.05)


# --- swallowed records ----------------------------------------------------------------------------------------------


async def test_records_that_are_swallowed_while_heartbeats_pass_are_found_missing_by_their_numbers(
    cluster: Cluster, tmp_path: Path
) -> None:
    # A database of its own: in the one that tests share, the hub that they share leads, and this one would only wait.
    stream = new_stream()
    with cluster.database() as database, Broker(tmp_path) as broker, Hub(database.url, broker.port) as hub:
        hub.wait_until_ready()
        pool = await open_pool(database.url, name="test", size=1)
        try:
            async with hostile(broker.port) as evil, Device("pi-owes", evil.port) as device:
                evil.passes = lambda _, payload: None if b'"type":"event"' in payload else payload
                await device.has_status(status("pi-owes", stream=stream, last_seq=4))
                for record in (heartbeat(stream, 1), event(stream, 2), heartbeat(stream, 3), heartbeat(stream, 4)):
                    await device.tell(record)
                arrears = Arrears(pool)
                found = await owed(
                    arrears, stream, lambda rows: bool(rows) and (rows[0].stored, rows[0].said) == (1, 4)
                )
                assert [tuple(one) for one in found] == [("pi-owes", stream, 1, 4)]
                assert evil.swallowed == 1
                # It is sent again, and swallowed again: after a while that is no accident.
                first = weighed({}, found, 0.0)
                await device.tell(event(stream, 2))
                again = weighed(first, await owed(arrears, stream, bool), STILL_S)
                assert missing(again, STILL_S) == {"pi-owes": 3}
                # Let through, it closes the gap.
                evil.passes = lambda _, payload: payload
                await device.tell(event(stream, 2))
                await owed(arrears, stream, lambda rows: rows == [])
        finally:
            await close_pool(pool, within_s=5)


# --- a withheld word of the hub -------------------------------------------------------------------------------------


@dataclass
class Told:
    """The ledger of a task that only tells."""

    kinds: list[str] = field(default_factory=list[str])

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.kinds += [f"{saying.kind} {saying.reason or ''}".strip() for saying in sayings]
        return (1,)


@dataclass
class Voice:
    """The hub's word on the branch, said again and again."""

    bus: reporting.TinyHub
    hub: Person
    number: int = 100
    stop: int = 0

    def head(self, commit: CommitId, by: Person | None = None, namespace: str = HEADS) -> Head:
        self.number += 1
        text = written(
            Vouched(
                fleet=reporting.FLEET,
                number=self.number,
                issued_at=datetime.now(UTC),
                branch="main",
                commit=commit,
                lifetime_s=LIFETIME_S,
                stop=self.stop,
            )
        )
        signature = (by or self.hub).sign(text.encode(), namespace).decode()
        return Head(branch="main", commit=commit, number=1, signed=joined(Signed(text, signature)).decode())

    async def goes_on(self, commit: CommitId) -> None:
        while True:
            await self.bus.say(HEAD, self.head(commit))
            await asyncio.sleep(LIFETIME_S / 5)  # its interval


def judge(
    hub: Person, told: Told, clock: Clock, *, memory: Callable[[], Memory], wanted: Callable[[], CommitId | None]
) -> HeadTask:
    """Return a device's task that judges what this hub says."""
    return HeadTask(
        fleet=reporting.FLEET,
        notary=Notary(verify=verified, own=hub.line(f'namespaces="{GATES},{COMMANDS},{HEADS}"')),
        memory=memory,
        wanted=wanted,
        ledger=told,
        clock=clock,
        wake=Wake(clock.now_s),
        chance=lambda: 0.0,
        poll_s=POLL_S,
        on_heard=lambda: None,
        on_change=lambda: None,
    )


@pytest.fixture
def air(tmp_path: Path) -> Broker:
    return Broker(tmp_path)


async def test_a_device_whose_broker_withholds_repeats_or_forges_the_hub_s_word_says_stale(
    air: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrica_agent.decisions.freshness.PATIENCE_S", 0.5)
    hub, mallory = Person.made(tmp_path, "hub"), Person.made(tmp_path, "mallory")
    told, memory = Told(), Memory()
    with air as broker:
        async with (
            hostile(broker.port) as evil,
            reporting.tiny_hub(broker.port) as bus,
            reporting.device(tmp_path, evil.port) as pi,
            asyncio.TaskGroup() as group,
        ):
            wanted = [C1]
            task = judge(hub, told, pi.clock, memory=lambda: memory, wanted=lambda: wanted[-1])
            pi.task.on_head = task.hear
            judging = group.create_task(task.run())
            voice = Voice(bus, hub)
            speaking = group.create_task(voice.goes_on(C1))
            await reporting.until(lambda: task.heard is not None)
            # Withheld: nothing is heard any more, while the connection stands.
            kept = hold_back(evil)
            await reporting.until(lambda: task.stale is not None)
            assert told.kinds == ["head.stale head-unheard"]
            # Repeated: what was said before lives no longer for that.
            evil.passes = lambda topic, payload: kept[0] if topic == HEAD_TOPIC else payload
            passed = evil.swallowed
            await asyncio.sleep(LIFETIME_S / 2)  # for as long as it is said again and again
            assert evil.swallowed == passed
            assert task.stale is not None
            evil.passes = lambda _, payload: payload
            await reporting.until(lambda: task.stale is None)
            # Forged: of another's key, or signed for something else.
            speaking.cancel()
            await bus.say(HEAD, voice.head(C2, by=mallory))
            await reporting.until(lambda: "head.refused signer-unknown" in told.kinds)
            await bus.say(HEAD, voice.head(C2, namespace=GATES))
            await reporting.until(lambda: "head.refused signature-bad" in told.kinds)
            # And true, while no remote gives what it names.
            speaking = group.create_task(voice.goes_on(C2))
            await reporting.until(lambda: "head.stale head-held-back" in told.kinds)
            wanted.append(C2)
            task.wake.nudge()
            await reporting.until(lambda: task.stale is None)
            speaking.cancel()
            judging.cancel()


async def test_a_stop_that_the_broker_withholds_is_missed_by_the_hub_s_word(
    air: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrica_agent.decisions.freshness.PATIENCE_S", 0.5)
    hub, alice = Person.made(tmp_path, "hub"), Person.made(tmp_path, "alice")
    told, memories = Told(), [Memory()]
    order = StopOrder(fleet=reporting.FLEET, number=7, issued_at=datetime.now(UTC), stops=(Stop(level=Level.HALT),))
    text = ordered(order)
    signed = Signed(text, alice.sign(text.encode(), ORDERS).decode())
    with air as broker:
        async with (
            hostile(broker.port) as evil,
            reporting.tiny_hub(broker.port) as bus,
            reporting.device(tmp_path, evil.port) as pi,
            asyncio.TaskGroup() as group,
        ):
            task = judge(hub, told, pi.clock, memory=lambda: memories[-1], wanted=lambda: C1)

            def heard(channel: Channel, what: Signed) -> None:
                if channel is STOP:
                    memories.append(Memory(stop=Stopped(number=understood(what.text, reporting.FLEET).number)))
                    task.wake.nudge()

            pi.task.on_head, pi.task.on_signed = task.hear, heard
            evil.passes = lambda topic, payload: None if topic == STOP_TOPIC else payload
            judging = group.create_task(task.run())
            voice = Voice(bus, hub)
            speaking = group.create_task(voice.goes_on(C1))
            await reporting.until(lambda: task.heard is not None)
            assert task.stale is None
            await bus.say(STOP, signed)
            voice.stop = order.number
            await reporting.until(lambda: task.stale is not None)
            assert told.kinds == ["head.stale stop-withheld"]
            assert (evil.swallowed, memories[-1].stop) == (1, None)
            # It comes after all, on this way or another.
            evil.passes = lambda _, payload: payload
            await bus.say(STOP, signed)
            await reporting.until(lambda: task.stale is None)
            assert told.kinds[-1] == "head.fresh"
            speaking.cancel()
            judging.cancel()


HEAD_TOPIC: Final = reporting.topic(HEAD)
STOP_TOPIC: Final = reporting.topic(STOP)


def hold_back(evil: Hostile) -> list[bytes]:
    """Withhold the hub's word from now on; return what was withheld."""
    kept: list[bytes] = []

    def passes(topic: str, payload: bytes) -> bytes | None:
        if topic != HEAD_TOPIC:
            return payload
        kept.append(payload)
        return None

    evil.passes = passes
    return kept
