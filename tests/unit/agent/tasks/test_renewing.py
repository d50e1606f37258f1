"""The loop that keeps a certificate good, on a clock and an identity in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from metrica_agent.decisions.renewing import Papers
from metrica_agent.decisions.world import Saying, Stamp
from metrica_agent.tasks.renewing import EXPIRED, REVOKED, UNTIMELY, Means, RenewalTask
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import BootId

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Device:
    """Identity, hub, clock and ledger of one device."""

    wall: datetime | None = BEGIN + timedelta(days=80)
    now: float = 1000.0
    serial: str = "000000"
    next: bool = False
    shown_next: bool = False
    asked: int = 0
    turns: int = 0
    hub_is_away: bool = False
    told: list[Saying] = field(default_factory=list[Saying])
    meanwhile: Callable[[], None] = lambda: None
    """Called while the certificate is read."""

    def has_next(self) -> bool:
        return self.next

    async def taken(self) -> bool:
        if not (self.next and self.shown_next):
            return False
        self.next, self.shown_next, self.serial = False, False, "000001"
        return True

    async def papers(self) -> Papers:
        self.meanwhile()
        begin = BEGIN if self.serial == "000000" else BEGIN + timedelta(days=80)
        return Papers(serial=self.serial, not_before=begin, not_after=begin + timedelta(days=90))

    async def ask(self) -> None:
        self.asked += 1
        if self.hub_is_away:
            raise NotNow("the hub is away", reason="hub-unreachable")
        self.next = True

    def now_s(self) -> float:
        return self.now

    def stamp(self) -> Stamp:
        return Stamp(boot_id=BootId("b"), uptime_s=self.now, at=None)

    async def record(self, stamp: Stamp, *, sayings: Sequence[Saying] = ()) -> tuple[int, ...]:
        del stamp
        self.told += sayings
        return (len(self.told),)

    def kinds(self) -> list[str]:
        return [one.kind for one in self.told]


@asynccontextmanager
async def running(device: Device) -> AsyncGenerator[RenewalTask]:
    def turn() -> None:
        device.turns += 1

    task = RenewalTask(
        means=Means(identity=device, ask=device.ask, wall=lambda: device.wall),
        turn=turn,
        ledger=device,
        clock=device,
        wake=Wake(device.now_s),
    )
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(task.run())
        yield task
        loop.cancel()


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_old_certificate_is_followed_by_one_that_the_broker_took() -> None:
    device = Device()
    async with running(device) as task:
        task.linked(stands=True)
        await settled()
        assert (device.asked, device.turns, device.serial) == (1, 1, "000000")
        device.shown_next = True
        task.linked(stands=False)
        task.linked(stands=True)
        await settled()
    assert (device.serial, device.asked, device.kinds()) == ("000001", 1, ["identity.renewed"])


async def test_a_hub_that_is_away_is_asked_ever_later_and_that_is_told_once() -> None:
    device = Device(hub_is_away=True)
    async with running(device) as task:
        task.linked(stands=True)
        for _ in range(200):
            device.now += 600
            task.wake.nudge()
            await settled()
    assert 5 < device.asked < 15
    assert device.kinds().count("identity.unrenewed") == 2  # in 33 hours: once a day


async def test_with_a_clock_that_is_not_right_nothing_is_asked_until_the_broker_says_so() -> None:
    device = Device(wall=None)
    async with running(device) as task:
        await settled()
        assert device.asked == 0
        task.troubled(EXPIRED)
        await settled()
    assert device.asked == 1
    assert device.kinds() == ["identity.refused"]


async def test_a_connection_by_the_next_certificate_that_comes_to_stand_at_any_moment_is_not_given_up() -> None:
    device = Device(wall=None)
    async with running(device) as task:

        def connect() -> None:
            if device.next:
                device.shown_next = True
                task.linked(stands=True)

        device.meanwhile = connect
        task.troubled(EXPIRED)
        await settled()
    assert (device.serial, device.asked, device.turns) == ("000001", 1, 0)
    assert device.kinds() == ["identity.refused", "identity.renewed"]


async def test_a_boot_in_1970_is_told_and_passes_by_itself() -> None:
    device = Device(wall=None)
    async with running(device) as task:
        for _ in range(5):
            task.troubled(UNTIMELY)
            await settled()
        assert device.kinds() == ["bus.untimely"]
        device.wall = BEGIN + timedelta(days=1)
        task.linked(stands=True)
        await settled()
    assert (device.asked, device.turns, device.kinds()) == (0, 0, ["bus.untimely"])


async def test_who_is_revoked_asks_for_nothing_and_says_so() -> None:
    device = Device()
    async with running(device) as task:
        device.wall = BEGIN
        task.wake.nudge()
        await settled()
        device.asked, device.next = 0, False
        task.troubled(REVOKED)
        device.wall = BEGIN + timedelta(days=80)
        device.now += 100_000
        task.wake.nudge()
        await settled()
    assert device.asked == 0
    assert "identity.refused" in device.kinds()
