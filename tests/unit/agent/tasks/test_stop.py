"""The task that hears stop orders: what costs a signature's check, what is told, and what is tried again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from metrica_agent.decisions.world import Heard, Memory, Saying, Stamp, Stopped
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.stop import TOLD, WAITING, StopTask
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import BootId, FleetId
from metrica_fleet.signed import Signed
from metrica_fleet.stop import Level, Stop, StopOrder, written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FREEZE = (Stop(level=Level.FREEZE),)


def signed(number: int, by: str = "alice", stops: tuple[Stop, ...] = FREEZE) -> Signed:
    order = StopOrder(fleet="home", number=number, issued_at=datetime(2026, 1, 1, tzinfo=UTC), stops=stops)
    return Signed(written(order), by)


class Device:
    """What the task sees of one: a memory, a ledger, a clock that stands, and pens whose names are signatures."""

    def __init__(self) -> None:
        self.memory = Memory(signers="alice")
        self.told: list[str | None] = []
        self.asked = 0
        self.away = 0
        self.heard: list[int] = []
        self.at_s = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while a signature is looked at."""
        self.task = StopTask(
            fleet=FleetId("home"),
            notary=Notary(verify=self.verify),
            memory=lambda: self.memory,
            ledger=self,
            clock=self,
            wake=Wake(self.now_s),
            noted=Wake(self.now_s),
            chance=lambda: 0.0,
            on_heard=self.obey,
        )

    async def verify(self, text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
        del text, namespace, at
        self.asked += 1
        if self.away:
            self.away -= 1
            raise NotNow("no ssh-keygen", reason="signatures-unverifiable")
        self.meanwhile()
        if signature.decode() not in signers:
            raise Unusable(f"{signature.decode()} may not", reason="signer-unknown")
        return signature.decode()

    def obey(self) -> None:
        assert isinstance(self.task.heard, Heard)
        order = self.task.heard.order
        self.heard.append(order.number)
        self.memory = Memory(signers="alice", stop=Stopped(number=order.number, ordered=order.stops))
        self.task.noted.nudge()

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.told += [saying.reason for saying in sayings]
        return tuple(range(1, 1 + len(sayings)))

    def now_s(self) -> float:
        return self.at_s

    def stamp(self) -> Stamp:
        return Stamp(boot_id=BootId("b"), uptime_s=self.at_s, at=None)

    async def hears(self, *orders: Signed) -> None:
        """Let the task judge all that it hears."""
        for order in orders:
            self.task.hear(order)
        running = asyncio.create_task(self.task.run())  # noqa: TID251 - ended here
        while self.task._waiting:  # noqa: ASYNC110  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0)
        running.cancel()


async def test_an_order_that_is_known_costs_no_signature_and_an_older_one_neither() -> None:
    device = Device()
    await device.hears(signed(7))
    assert (device.heard, device.asked, device.told) == ([7], 1, [])
    await device.hears(signed(7), signed(6), signed(7, stops=()))
    assert (device.heard, device.asked) == ([7], 1)
    assert device.told == ["order-outdated", "order-outdated"]


async def test_refusals_are_told_once_each_and_at_most_so_many_an_hour() -> None:
    device = Device()
    await device.hears(*(signed(7, "mallory") for _ in range(3)))
    assert device.told == ["signer-unknown"]
    await device.hears(*(signed(100 + number, f"mallory-{number}") for number in range(WAITING)))
    assert len(device.told) == TOLD
    device.at_s = 3601.0
    await device.hears(signed(200, "mallory"))
    assert len(device.told) == TOLD + 1
    assert device.heard == []


async def test_a_flood_of_forgeries_does_not_hide_the_newest_order() -> None:
    device = Device()
    await device.hears(*(signed(number, "mallory") for number in range(10, 60)), signed(8))
    assert device.heard == [8]


async def test_what_cannot_be_judged_now_is_judged_later_and_in_order() -> None:
    device = Device()
    device.away = 2
    await device.hears(signed(7), signed(8, stops=()))
    assert (device.heard, device.asked) == ([7, 8], 4)


async def test_an_order_is_judged_again_when_others_may_sign() -> None:
    """The one in force is heard at the first connect, before the first commit has told whom to trust."""
    device = Device()
    device.memory = Memory()
    await device.hears(signed(7))
    assert (device.heard, device.told) == ([], ["signers-none"])
    device.task.remembered()
    await device.hears()
    device.memory = Memory(signers="alice")
    device.task.remembered()
    await device.hears()
    assert device.heard == [7]


async def test_an_order_is_judged_again_when_others_may_sign_since_it_is_looked_at() -> None:
    device = Device()

    def comes() -> None:
        device.memory = replace(device.memory, signers="alice bob")
        device.task.remembered()

    device.meanwhile = comes
    await device.hears(signed(7, "bob"))
    assert (device.heard, device.asked) == ([7], 2)


async def test_an_order_from_a_file_is_done_with_when_it_is_written_down_or_refused() -> None:
    device = Device()
    await device.task.taken(signed(7))
    assert device.memory.stop is not None
    assert device.memory.stop.number == 7
    await device.task.taken(signed(9, "mallory"))
    assert device.told == ["signer-unknown"]
