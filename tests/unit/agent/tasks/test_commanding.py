"""What becomes of commands on a device: real ledger and orders, a simulated engine, signatures without cryptography."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.ledger import Ledger
from metrica_agent.adapters.spool import Spool
from metrica_agent.decisions.orders import Failed
from metrica_agent.decisions.world import Memory
from metrica_agent.tasks.commanding import AT_ONCE
from metrica_agent.tasks.commands import CommandTask
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.orders import Orders
from metrica_agent.wake import Wake
from metrica_fleet.commands import Command, written
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import BootId, DeviceId, FleetId
from metrica_fleet.records import Vitals
from metrica_fleet.signed import COMMANDS as NAMESPACE
from metrica_fleet.signed import Signed
from metrica_sim.engine import SimulatedEngine
from metrica_sim.virtual import pens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from metrica_fleet.messages import Answer

NOW = datetime(2026, 11, 29, 9, tzinfo=UTC)
FLEET, DEVICE = FleetId("demo"), DeviceId("pi-01")


@dataclass
class Machine:
    """A device as far as commands go. What outlives the agent is here."""

    folder: Path
    boots: int = 1
    stop: str | None = None
    linked: bool = True
    rebooted: int = 0
    broken: Exception | None = None
    knows_the_time: bool = True
    heard: deque[Answer] = field(default_factory=deque["Answer"])
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncGenerator[CommandTask]:
        """Run the commands' task of an agent."""
        clock = Clock(
            boot_id=BootId(f"boot-{self.boots}"),
            boot_s=asyncio.get_running_loop().time,
            utc=lambda: NOW,
            synchronised=lambda: self.knows_the_time,
        )
        rung = Wake(clock.now_s)
        ledger = await Ledger.open(self.folder / "agent.sqlite")
        try:
            async with asyncio.TaskGroup() as group:
                task = CommandTask(
                    fleet=FLEET,
                    device=DEVICE,
                    agent_version="0.1.0",
                    notary=Notary(verify=pens.verify, own="hub"),
                    memory=Memory,
                    stopped=lambda: self.stop,
                    ledger=ledger,
                    clock=clock,
                    orders=Orders(spool=Spool(self.folder), wake=rung, now_s=clock.now_s, chance=lambda: 0.5),
                    look=self._look,
                    engine=SimulatedEngine("demo", clock.now_s),
                    running=self._running,
                    vitals=self._vitals,
                    reboot=self._reboot,
                    answer=self._answer,
                    on_told=lambda: None,
                    wake=Wake(clock.now_s),
                    chance=lambda: 0.5,
                )
                running = group.create_task(task.run())
                task.linked(self.linked)
                yield task
                running.cancel()
        finally:
            await ledger.close()

    async def _look(self) -> str:
        if self.broken is not None:
            raise self.broken
        return "a remote answers, and has nothing new"

    async def _running(self) -> None:
        return None

    async def _vitals(self) -> Vitals:
        return Vitals()

    async def _reboot(self) -> None:
        self.rebooted += 1

    async def _answer(self, answer: Answer) -> None:
        if not self.linked:
            raise NotNow("there is no connection", reason="bus-lost")
        self.heard.append(answer)
        self.news.set()

    async def answer(self, number: int, state: str) -> Answer:
        """Return the first answer about a command in this state."""
        async with asyncio.timeout(10):
            while True:
                self.news.clear()
                for one in self.heard:
                    if (one.number, one.state) == (number, state):
                        return one
                await self.news.wait()


def command(
    number: int, verb: str, *, by: str = "hub", timeout_s: float = 60.0, age_s: float = 0.0, **arguments: Any
) -> Signed:
    issued_at = NOW - timedelta(seconds=age_s)
    text = written(
        Command(
            fleet=FLEET,
            device=DEVICE,
            number=number,
            issued_at=issued_at,
            expires_at=issued_at + timedelta(seconds=60),
            verb=verb,
            arguments=arguments,
            timeout_s=timeout_s,
        )
    )
    return pens.signed(text, NAMESPACE, by)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_a_reboot_is_answered_before_it_and_by_the_next_boot(machine: Machine) -> None:
    async with machine.agent() as agent:
        agent.hear(command(7, "reboot"))
        await machine.answer(7, "running")
        await until(lambda: machine.rebooted == 1)
    machine.boots, machine.linked = 2, False
    async with machine.agent() as agent:
        machine.linked = True
        agent.linked(stands=True)
        assert (await machine.answer(7, "done")).message == "the machine was started anew"
        agent.hear(command(7, "reboot"))
        await until(lambda: [one.state for one in machine.heard].count("done") == 2)
    assert machine.rebooted == 1


async def test_a_machine_that_does_not_go_down_is_answered_as_out_of_time(machine: Machine) -> None:
    async with machine.agent() as agent:
        agent.hear(command(7, "reboot", timeout_s=1))
        failed = await machine.answer(7, "failed")
    assert (failed.reason, failed.message) == ("timeout", "not done within 1 s; the machine still runs")


async def test_nothing_is_changed_while_a_stop_is_in_force_and_what_only_looks_goes_on(machine: Machine) -> None:
    machine.stop = "freeze by alice"
    async with machine.agent() as agent:
        agent.hear(command(7, "reboot"))
        refused = await machine.answer(7, "refused")
        assert (refused.reason, refused.message.endswith("freeze by alice")) == ("stopped", True)
        agent.hear(command(8, "sync"))
        await machine.answer(8, "done")
    assert machine.rebooted == 0


async def test_too_many_at_once_are_refused_and_none_waits_for_a_log(machine: Machine) -> None:
    async with machine.agent() as agent:
        for number in range(1, AT_ONCE + 1):
            agent.hear(command(number, "reboot", timeout_s=600))
            await machine.answer(number, "running")
        agent.hear(command(50, "sync"))
        assert (await machine.answer(50, "refused")).reason == "busy"
        agent.hear(command(51, "cancel", command=3))
        await machine.answer(51, "done")
        assert (await machine.answer(3, "failed")).reason == "cancelled"
        agent.hear(command(52, "sync"))
        await machine.answer(52, "done")
    assert machine.rebooted == 1, "one after the other"


async def test_what_a_device_could_not_say_it_says_over_the_next_connection(machine: Machine) -> None:
    machine.linked = False
    async with machine.agent() as agent:
        agent.hear(command(7, "sync"))
        await ended(agent, 7)
        machine.linked = True
        agent.linked(stands=True)
        await machine.answer(7, "done")


async def test_an_old_command_is_refused_by_a_device_that_knows_the_time(machine: Machine) -> None:
    async with machine.agent() as agent:
        agent.hear(command(7, "sync", age_s=61))
        assert (await machine.answer(7, "refused")).reason == "expired"
        machine.knows_the_time = False
        agent.hear(command(8, "sync", age_s=61))
        await machine.answer(8, "done")


async def test_a_forged_command_uses_up_no_number(machine: Machine) -> None:
    async with machine.agent() as agent:
        agent.hear(command(7, "reboot", by="mallory"))
        assert (await machine.answer(7, "refused")).reason == "signer-unknown"
        agent.hear(command(7, "sync"))
        await machine.answer(7, "done")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (NotNow("no remote serves", reason="git-unreachable"), "git-unreachable"),
        (Unusable("never", reason="never"), "never"),
        (ZeroDivisionError("a mistake of ours"), "unexpected"),
    ],
)
async def test_whatever_goes_wrong_in_a_command_is_its_answer_and_ends_nothing(
    machine: Machine, broken: Exception, reason: str
) -> None:
    machine.broken = broken
    async with machine.agent() as agent:
        agent.hear(command(7, "sync"))
        assert (await machine.answer(7, "failed")).reason == reason
        machine.broken = None
        agent.hear(command(8, "sync"))
        await machine.answer(8, "done")


async def test_a_hold_is_an_order_that_is_obeyed_in_its_turn_or_refused(machine: Machine) -> None:
    async with machine.agent() as agent:
        agent.hear(command(7, "hold", on=True, reason="a visit"))
        await machine.answer(7, "running")
        await given(agent)
        await agent.orders.done("command-7")
        await machine.answer(7, "done")
        agent.hear(command(8, "restart", service="web"))
        await given(agent)
        await agent.orders.done("command-8", Failed(reason="on-trial", message="m"))
        assert (await machine.answer(8, "failed")).reason == "on-trial"
        agent.hear(command(9, "hold", on=False, reason="over", timeout_s=1))
        await given(agent)
        assert (await machine.answer(9, "failed")).reason == "timeout"
        assert agent.orders.given is None, "withdrawn"


async def given(agent: CommandTask) -> None:
    """Have the order of a command be taken, as the converge loop's orders are."""
    async with asyncio.timeout(10):
        while agent.orders.given is None:
            await asyncio.sleep(0)
            await agent.orders.look()


async def ended(agent: CommandTask, number: int) -> None:
    async with asyncio.timeout(10):
        while True:
            book = await agent.ledger.commands()
            if number in book.taken and book.taken[number].state != "running":
                return


async def until(fact: Any) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110  # a fact has no event
            await asyncio.sleep(0.01)
