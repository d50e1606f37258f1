"""When all is mended a device comes to rest within a bound: on the good head, or off the bad one with a reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from metrica_fleet.codec import decode
from metrica_fleet.messages import Status
from metrica_fleet.topics import STATUS, Address, topic_of
from metrica_sim.virtual.history import FLEET_ILLS, ILLS, ROLES, WINDOW_PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from metrica_sim.virtual.commands import Commands
    from metrica_sim.virtual.history import Commit
    from metrica_sim.virtual.hub import SimulatedHub
    from metrica_sim.virtual.machine import Machine
    from metrica_sim.virtual.mischief import Mischief
    from metrica_sim.virtual.operators import Operators
    from metrica_sim.virtual.story import Story

SETTLED_S: Final = 3600.0 + 1800.0
"""The longest that a remote is left alone, and an update with all its deadlines."""
MOST_STAGES: Final = 3
TOLD_S: Final = 3600.0
LOOK_S: Final = 30.0


class Settling:
    """The checks at the end of an episode."""

    def __init__(
        self,
        machines: Sequence[Machine],
        hub: SimulatedHub,
        operators: Operators,
        mischief: Mischief,
        story: Story,
        *,
        commands: Commands,
    ) -> None:
        self._commands = commands
        self._machines, self._hub = machines, hub
        self._operators, self._mischief = operators, mischief
        self._story = story
        # Each stage of a rollout waits for a window by itself.
        stages = MOST_STAGES if operators.rollouts is not None else 1
        self._settled_s = SETTLED_S + stages * WINDOW_PATIENCE_S * bool(operators.history.windows)

    async def all_confirm(self) -> None:
        """Push something good on top of all that any device has taken; each must come to run it."""
        memories = [machine.memory() for machine in self._machines]
        stopped = [memory.stop.commit for memory in memories if memory.stop is not None]
        taken = [one for one in (*(memory.accepted for memory in memories), *stopped) if one is not None]
        commit = self._operators.push_good(*dict.fromkeys(taken))
        await self._each(lambda machine: _not_confirmed(machine, commit), self._settled_s)

    async def all_refuse(self, chance: Random) -> None:
        """Push something bad; each that it concerns refuses it, or never begins it, and goes on as before."""
        ills = (*ILLS, *FLEET_ILLS)
        which = chance.randrange(len(ills))
        role = chance.choice(ROLES)
        before = {machine.id: machine.memory().confirmed for machine in self._machines}
        commit = self._operators.push_bad(role, which)

        def wrong(machine: Machine) -> str | None:
            if commit.content.ill_for(machine.role) is None:
                return _not_confirmed(machine, commit)
            confirmed, was = machine.memory().confirmed, before[machine.id]
            if confirmed is None or was is None or confirmed.release != was.release:
                return "another release is confirmed"
            rollouts = self._operators.rollouts
            if rollouts is not None and rollouts.has_stopped(commit.id):
                return machine.witness.unrest()  # others have tried it, and it is begun by nobody any more
            return _not_refused(machine, commit)

        await self._each(wrong, self._settled_s)

    async def all_survive_poison(self, chance: Random) -> None:
        """Push what crashes every agent that looks at it; each must come to be in safe mode, and still be heard of."""
        commit = self._operators.push_poison(chance.choice(ROLES))
        await self._each(lambda machine: _not_safe(machine, commit), self._settled_s)
        await self.nothing_is_lost()
        await self.all_confirm()

    async def nothing_is_lost(self) -> None:
        """Wait until the hub has every event of every device, and compare; and until it says where each stands."""
        await self._each(self._not_told, TOLD_S)
        for twice in self._hub.database.twice:
            self._story.breach("hub", f"a number means two things: {twice}")

    async def _each(self, wrong: Callable[[Machine], str | None], within_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        for machine in self._machines:
            while (what := wrong(machine)) is not None:
                if loop.time() > until_s:
                    machine.breach(f"{within_s:.0f} s after all was mended: {what}")
                    return
                await asyncio.sleep(LOOK_S)

    def _not_told(self, machine: Machine) -> str | None:
        end = machine.outbox_end()
        if end is None:
            return "no agent runs"
        has = self._hub.events_of(machine.id)
        for stream, events in machine.witness.events.items():
            rows = {seq: (event.kind, event.message) for seq, event in has.get(stream, {}).items()}
            if rows != events:
                odd = sorted(seq for seq in rows.keys() | events.keys() if rows.get(seq) != events.get(seq))
                return f"the hub does not have event {odd[0]} of {len(events)} ({events.get(odd[0], ('none',))[0]})"
        number = self._commands.unanswered(machine.id)
        if number is not None:
            return f"command {number} has no last word"
        return self._status_is_wrong(machine)

    def _status_is_wrong(self, machine: Machine) -> str | None:
        address = Address(self._hub.fleet, STATUS, machine.id)
        payload = self._hub.broker.retained.get(topic_of(address))
        status = decode(STATUS, payload) if payload is not None else None
        confirmed = machine.memory().confirmed
        if not isinstance(status, Status) or confirmed is None:
            return "it has told no status"
        if status.commit != confirmed.commit:
            return f"its status tells of commit {self._operators.history.name(status.commit)}"
        return None


def _not_confirmed(machine: Machine, commit: Commit) -> str | None:
    memory = machine.memory()
    refused = memory.refusal_of(commit.id)
    if refused is not None:
        return f"{commit} is good and refused: {refused.message}"
    if memory.confirmed is None or memory.confirmed.commit != commit.id:
        return f"{commit} is good and not confirmed"
    return machine.witness.unrest()


def _not_safe(machine: Machine, commit: Commit) -> str | None:
    if commit.content.ill_for(machine.role) is None:
        return _not_confirmed(machine, commit)
    if machine.memory().safe is None:
        return f"{commit} crashes the agent, and it is not in safe mode"
    return machine.witness.unrest()


def _not_refused(machine: Machine, commit: Commit) -> str | None:
    if machine.memory().refusal_of(commit.id) is None:
        return f"{commit} is bad and not refused"
    return machine.witness.unrest()
