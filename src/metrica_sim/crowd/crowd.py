"""Many members in one process: switched on, troubled while they tell, and in the end waited for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from metrica_sim.crowd.diary import Diary
from metrica_sim.crowd.member import Member
from metrica_sim.crowd.plan import Plan
from metrica_sim.crowd.poison import Poisoner
from metrica_sim.crowd.tally import Tally

HOUR_S: Final = 3600.0


@dataclass(slots=True)
class Crowd:
    """The devices of one process."""

    plan: Plan
    diary: Diary
    thread: ThreadPoolExecutor
    began_s: float = field(default_factory=time.monotonic)
    over: bool = False
    _cuts: int = 0
    _poisoner: Poisoner | None = None
    _members: tuple[Member, ...] = field(init=False)
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self._chance = random.Random(plan.seed)
        self._members = tuple(
            Member(
                id=name,
                plan=plan,
                thread=self.thread,
                diary=self.diary,
                chance=random.Random(f"{plan.seed} {name}"),
                relayed=plan.cuts_an_hour > 0,
            )
            for name in plan.names
        )

    async def run(self) -> None:
        """Let them live for as long as the plan says, then wait until what they told is stored, or patience ends."""
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(member.run(), name=str(member.id)) for member in self._members]
            async with self._troubled():
                await asyncio.sleep(self.plan.ramp_s + self.plan.duration_s)
            for member in self._members:
                await member.fall_quiet()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.plan.patience_s):
                    for member in self._members:
                        await member.heard()
            self.over = True
            for life in lives:
                life.cancel()

    def tally(self) -> Tally:
        """Return where they stand."""
        members = self._members
        return Tally(
            at_s=time.monotonic() - self.began_s,
            devices=len(members),
            on=sum(member.on for member in members),
            connected=sum(member.connected for member in members),
            cut_off=sum(not member.network.is_up for member in members),
            events=sum(member.events for member in members),
            records=sum(member.records for member in members),
            stored=sum(member.stored for member in members),
            unheard=sum(not member.is_heard for member in members),
            reboots=sum(member.reboots for member in members),
            cuts=self._cuts,
            poison=self._poisoner.sent if self._poisoner else 0,
            over=self.over,
        )

    # --- what goes wrong ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _troubled(self) -> AsyncGenerator[None]:
        """Make trouble until the end of the block; all networks are mended then."""
        plan = self.plan
        async with asyncio.TaskGroup() as group:
            troubles = [
                group.create_task(self._now_and_then(plan.cuts_an_hour, self._cut)),
                group.create_task(self._now_and_then(plan.reboots_an_hour, self._reboot)),
            ]
            if plan.poison_per_s:
                self._poisoner = Poisoner(plan, self._chance)
                troubles.append(group.create_task(self._poisoner.run()))
            try:
                yield
            finally:
                if self._poisoner is not None:
                    self._poisoner.end()
                for trouble in troubles:
                    trouble.cancel()
                for member in self._members:
                    member.network.mend()

    async def _now_and_then(self, an_hour: float, happens: Callable[[Member], Coroutine[object, object, None]]) -> None:
        if an_hour == 0:
            return
        a_second = an_hour * len(self._members) / HOUR_S
        async with asyncio.TaskGroup() as happening:
            while True:
                await asyncio.sleep(self._chance.expovariate(a_second))
                happening.create_task(happens(self._chance.choice(self._members)))

    async def _cut(self, member: Member) -> None:
        self._cuts += 1
        member.network.cut()
        await asyncio.sleep(self._chance.expovariate(1 / self.plan.cut_s))
        member.network.mend()

    async def _reboot(self, member: Member) -> None:
        member.reboot(power_cut=self._chance.random() < 1 / 2)
