"""Looks at the machine every few seconds: what it is like, how far it is strained, and what becomes of the reserve.

It changes nothing but the reserve; what follows from strain is the converge loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from metrica_agent.decisions import strain as straining
from metrica_agent.decisions.strain import Need, ReserveOrder, StrainLimits
from metrica_agent.decisions.world import Memory, Saying, Strain
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake
from metrica_fleet.records import Vitals


class Reserve(Protocol):
    """Room on disk that is the agent's own."""

    @property
    def there(self) -> bool: ...
    @property
    def whole(self) -> bool: ...
    @property
    def times_used(self) -> int:
        """How often it was given up, by whomever."""
        ...

    def give_up(self) -> bool: ...
    def make(self) -> int:
        """Make it; return how large it is, 0 where there is no room for it."""
        ...


@dataclass(slots=True, kw_only=True)
class MachineTask:
    """The loop that looks, and what it saw last."""

    vitals: Callable[[], Awaitable[Vitals]]
    limits: StrainLimits
    memory: Callable[[], Memory]
    reserve: Reserve | None
    ledger: Teller
    clock: Clock
    wake: Wake
    look_s: float
    felt: Strain
    """How far the machine is strained now."""
    pulse: Pulse = field(default_factory=Pulse)
    on_change: Callable[[], None]
    """Wakes the converge loop: the machine is strained otherwise than is remembered, or a low disk still is."""
    seen: Vitals = field(default_factory=Vitals)
    _seen_once: bool = False
    _told_used: int = 0
    _worst: Strain | None = None
    """The worst that was felt and could not be written down yet."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.wake.clear()
            self.pulse.works()
            await self.look()
            await self._tend_reserve()
            if self.strain.levels != self.memory().strain.levels or self.need is not None:
                self.on_change()
            await self.wake.wait_until(self.clock.now_s() + self.look_s)

    async def look(self) -> None:
        """Look at the machine now."""
        self.seen = await self.vitals()
        self._seen_once = True
        self.felt = straining.felt(self.felt, self.seen, self.limits, self.clock.now_s())
        self._worst = straining.worst_untold(self._worst, self.felt, self.memory().strain)

    async def last_seen(self) -> Vitals:
        """Return what the machine was like at the last look."""
        if not self._seen_once:
            await self.look()
        return self.seen

    @property
    def strain(self) -> Strain:
        """What is to be told: the worst that was felt since the ledger last took it, and then what is felt now."""
        return self._worst or self.felt

    @property
    def need(self) -> Need | None:
        """What is to be freed, on a disk that is low."""
        return straining.need(self.felt, self.seen, self.limits)

    async def _tend_reserve(self) -> None:
        reserve = self.reserve
        if reserve is None:
            return
        if reserve.times_used > self._told_used and await self._tell_used():
            self._told_used = reserve.times_used
        there, whole = reserve.there, reserve.whole
        match straining.reserve_order(self.felt, self.seen, self.limits, there=there, whole=whole):
            case ReserveOrder.GIVE_UP:
                await asyncio.to_thread(reserve.give_up)
            case ReserveOrder.MAKE:
                await self._restore(reserve)
            case None:
                pass

    async def _restore(self, reserve: Reserve) -> None:
        size_bytes = await asyncio.to_thread(reserve.make)
        if size_bytes and self._told_used:
            message = f"{size_bytes // 1024} KiB are set aside again"
            await self._tell(Saying(kind="reserve.restored", message=message, detail={"reserve_bytes": size_bytes}))

    async def _tell_used(self) -> bool:
        message = "the reserve on disk was given up, so that what the agent must write can be written"
        return await self._tell(Saying(kind="reserve.used", reason="disk-critical", message=message))

    async def _tell(self, saying: Saying) -> bool:
        return await self.ledger.record(self.clock.stamp(), sayings=(saying,)) != ()
