"""What is planned, done: to one machine, to what all share, or by an operator; and how all of it is mended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.drift import RESTART
from metrica_agent.decisions.orders import HoldOrder, SafeModeOrder
from metrica_fleet.commands import SafeMode
from metrica_fleet.stop import WHOLE_FLEET, Level
from metrica_hub.errors import BusAway
from metrica_sim.virtual.commands import FORGERIES as FORGERIES_OF_COMMANDS
from metrica_sim.virtual.commands import TASKS
from metrica_sim.virtual.condition import CONDITIONS
from metrica_sim.virtual.git import TROUBLES
from metrica_sim.virtual.history import ROLES
from metrica_sim.virtual.stops import AGAIN_S, FORGERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metrica_sim.virtual.commands import Commands
    from metrica_sim.virtual.faults import Planned
    from metrica_sim.virtual.git import Remote
    from metrica_sim.virtual.history import Commit
    from metrica_sim.virtual.hub import SimulatedHub
    from metrica_sim.virtual.machine import Machine
    from metrica_sim.virtual.operators import Operators
    from metrica_sim.virtual.rollouts import Rollouts
    from metrica_sim.virtual.stops import Stops
    from metrica_sim.virtual.story import Story

SERVICES: Final = ("web", "recorder", "setup")
EDITABLE: Final = ("files/site/index.html", "compose.json")
JUMPS: Final = (timedelta(days=-20_400), timedelta(days=3650), timedelta(hours=-1))
_LASTING: Final = {"engine-silent": "silent", "disk-full": "full", "cut": "cut", "registry-gone": "registry"}


class Mischief:
    """Whatever happens in a world."""

    def __init__(
        self,
        machines: Sequence[Machine],
        remotes: Sequence[Remote],
        hub: SimulatedHub,
        operators: Operators,
        story: Story,
        *,
        stops: Stops,
        commands: Commands,
    ) -> None:
        self._machines, self._remotes = machines, remotes
        self._stops = stops
        self._commands = commands
        self._hub, self._operators = hub, operators
        self._story = story
        self._ends: dict[int, Callable[[], None]] = {}

    def do(self, planned: Planned) -> None:
        """Let it happen, and end when it is to end."""
        group, _, _ = planned.kind.partition("-")
        match group:
            case "push":
                self._push(planned)
            case "stop":
                self._story.tell("world", str(planned))
                self._stop(planned, self._machines[planned.target % len(self._machines)])
            case "command":
                self._command(planned, self._machines[planned.target % len(self._machines)])
            case "remote":
                self._to_remote(planned, self._remotes[planned.target % len(self._remotes)])
            case "rollout" | "gate":
                self._story.tell("world", str(planned))
                if self._operators.rollouts is not None:
                    self._to_rollout(planned, self._operators.rollouts)
            case "hub" | "database" | "broker":
                self._story.tell("world", str(planned))
                self._to_hub(planned)
            case _:
                machine = self._machines[planned.target % len(self._machines)]
                machine.tell(str(planned))
                self._to_machine(planned, machine)

    def end_all(self) -> None:
        """Mend everything that lasts."""
        self._story.tell("world", "all is mended")
        for number in list(self._ends):
            self._end(number)
        for machine in self._machines:
            machine.mend()
        for remote in self._remotes:
            remote.trouble, remote.lags = None, False
            self._operators.mend(remote)

    def _lasts(self, planned: Planned, end: Callable[[], None]) -> None:
        self._ends[planned.number] = end
        asyncio.get_running_loop().call_later(planned.lasts_s, self._end, planned.number)

    def _end(self, number: int) -> None:
        end = self._ends.pop(number, None)
        if end is not None:
            self._story.tell("world", f"[{number}] is over")
            end()

    # --- by whom, to whom ---------------------------------------------------------------------------------------

    def _push(self, planned: Planned) -> None:
        role = ROLES[planned.target % len(ROLES)]
        match planned.kind:
            case "push-slow":
                self._operators.push_slow(role)
            case "push-other-role":
                self._operators.push_role(role)
            case "push-bad":
                self._operators.push_bad(role, planned.amount)
            case "push-bad-again":
                self._operators.push_bad_again(role)
            case "push-back":
                self._operators.push_back()
            case "push-force":
                self._operators.push_force()
            case "push-signers":
                self._operators.push_signers()
            case "push-forged":
                self._forge(planned)
            case _:
                self._operators.push_good()

    def _forge(self, planned: Planned) -> None:
        """Let every remote have what nobody made who may; where nothing need be signed it would do, so not there."""
        if not self._operators.history.signed:
            return
        forged = self._operators.forged(planned.amount)
        self._story.tell("stranger", f"{planned} {forged}")
        for remote in self._remotes:
            if not remote.lags:
                remote.take(forged)
        self._lasts(planned, lambda: self._throw_away(forged))

    def _throw_away(self, forged: Commit) -> None:
        for remote in self._remotes:
            if remote.head is forged:
                self._operators.mend(remote)
                remote.forget_unreachable()

    def _stop(self, planned: Planned, machine: Machine) -> None:
        """Stop by an order or in Git, until it is lifted; or try to, without being allowed to."""
        level = tuple(Level)[planned.amount % 3]
        if planned.kind == "stop-forged":
            self._stops.pretend(FORGERIES[planned.amount])
            asyncio.get_running_loop().call_later(AGAIN_S, self._stops.say_again)
            return
        for one in self._machines:
            one.begin("stopped", planned.number)
        if planned.kind == "stop-in-git":
            self._operators.push_stop(f'level = "{level}"\n', usable=planned.amount < len(Level))
            self._lasts(planned, lambda: self._lift(planned.number, self._unstop_in_git))
            return
        scope = (WHOLE_FLEET, f"role:{machine.role}", f"device:{machine.id}")[planned.amount // 3]
        self._stops.stop(level, scope)
        self._lasts(planned, lambda: self._lift(planned.number, lambda: self._stops.resume(scope)))

    def _command(self, planned: Planned, machine: Machine) -> None:
        """Tell a device to do something, with or without being allowed to; out of safe mode it is told, too."""
        machine.tell(str(planned))
        machine.trouble()
        if planned.kind == "command-forged":
            self._commands.pretend(machine.id, FORGERIES_OF_COMMANDS[planned.amount])
            return
        task = TASKS[planned.amount]
        self._commands.give(machine.id, task)
        if isinstance(task, SafeMode):
            back = SafeMode(on=False, reason="simulated")
            self._lasts(planned, lambda: self._commands.give(machine.id, back))

    def _unstop_in_git(self) -> None:
        if self._operators.head.content.stop is not None:
            self._operators.push_stop(None)

    def _lift(self, number: int, lift: Callable[[], None]) -> None:
        lift()
        for one in self._machines:
            one.end("stopped", number)

    def _to_machine(self, planned: Planned, machine: Machine) -> None:
        lasting = f"{planned.kind}-{planned.amount}" if planned.kind in CONDITIONS else _LASTING.get(planned.kind)
        if lasting is not None:
            machine.begin(lasting, planned.number)
            self._lasts(planned, lambda: machine.end(lasting, planned.number))
            return
        match planned.kind:
            case "kill":
                machine.kill()
            case "kill-at":
                machine.kill_at(planned.amount + 1)
            case "crash-twice":
                machine.kill_at_each_start(planned.amount + 1, times=2)
            case "crash-loop":
                machine.crash_loop(1.0 + planned.amount)
            case "restart":
                machine.restart()
            case "power":
                machine.cut_power(planned.lasts_s)
            case "power-at-update":
                self._operators.push_role(machine.role)
                machine.cut_power_at(planned.amount + 1, planned.lasts_s)
            case "engine-restart":
                machine.restart_engine()
            case _:
                self._to_console(planned, machine)

    def _to_console(self, planned: Planned, machine: Machine) -> None:
        match planned.kind:
            case "hold":
                machine.spool.give(HoldOrder(on=True, reason="simulated"))
                self._lasts(planned, lambda: machine.spool.give(HoldOrder(on=False, reason="simulated")))
            case "lock":
                machine.lock(planned.number)
                self._lasts(planned, lambda: machine.unlock(planned.number))
            case "hold-over-lock":
                self._hold_over_a_lock(planned, machine)
            case "safe-mode":
                machine.spool.give(SafeModeOrder(on=True, reason="simulated"))
                self._lasts(planned, lambda: machine.spool.give(SafeModeOrder(on=False, reason="simulated")))
            case _:
                self._to_containers_or_clock(planned, machine)

    def _hold_over_a_lock(self, planned: Planned, machine: Machine) -> None:
        """Let a lock put an update off, and a hold come and go meanwhile: the lock is held until long after it."""
        machine.lock(planned.number)
        self._ends[-planned.number] = lambda: machine.unlock(planned.number)
        self._operators.push_role(machine.role)
        loop = asyncio.get_running_loop()
        loop.call_later(planned.lasts_s / 2, self._hold, planned.number, machine)
        self._lasts(planned, lambda: machine.spool.give(HoldOrder(on=False, reason="simulated")))
        loop.call_later(3 * planned.lasts_s, self._end, -planned.number)

    def _hold(self, number: int, machine: Machine) -> None:
        if number in self._ends:
            machine.spool.give(HoldOrder(on=True, reason="simulated"))

    def _to_containers_or_clock(self, planned: Planned, machine: Machine) -> None:
        machine.trouble()
        match planned.kind:
            case "container-removed":
                machine.engine.kill(SERVICES[planned.amount])
            case "container-stopped":
                machine.engine.stop(SERVICES[planned.amount])
            case "container-foreign":
                machine.engine.intrude(f"stranger-{planned.number}")
            case "container-changed":
                machine.engine.tamper(SERVICES[planned.amount], RESTART, "no")
            case "file-edited":
                machine.edit_file(EDITABLE[planned.amount])
            case "clock-unknown":
                machine.set_clock(known=False)
                self._lasts(planned, lambda: machine.set_clock(known=True))
            case "clock-jumps":
                machine.set_clock(off=JUMPS[planned.amount])
            case "mirror-lost":
                machine.git.lose()
            case _:
                raise AssertionError(planned.kind)

    def _to_remote(self, planned: Planned, remote: Remote) -> None:
        operators = self._operators
        match planned.kind:
            case "remote-trouble":
                remote.trouble = TROUBLES[planned.amount % len(TROUBLES)]
                self._lasts(planned, lambda: setattr(remote, "trouble", None))
            case "remote-lags":
                remote.lags = True
                self._lasts(planned, lambda: self._catch_up(remote))
            case "remote-back":
                remote.lags = True
                for _ in range(2):
                    remote.head = remote.head.parents[0] if remote.head and remote.head.parents else remote.head
                self._lasts(planned, lambda: self._catch_up(remote))
            case _:
                remote.lags = True
                remote.take(operators.stray())
                self._lasts(planned, lambda: self._catch_up(remote))
        at = f" at {remote.head}" if remote.head else ""
        self._story.tell("remote", f"{planned} {remote.url}{at} {remote.trouble or ''}".rstrip())

    def _to_rollout(self, planned: Planned, rollouts: Rollouts) -> None:
        match planned.kind, planned.amount:
            case "gate-forged", which:
                for gate, by in islice(rollouts.forgeries(), which, which + 1):
                    with suppress(BusAway):
                        rollouts.publish(gate, by)
            case _, 0:
                rollouts.say_pause("simulated")
                self._lasts(planned, lambda: rollouts.say_go_on("simulated"))
            case _, 1:
                rollouts.say_go_on("simulated")
            case _, which:
                rollouts.say_abort("simulated", revert=which == 3)  # noqa: PLR2004 the last one drawn

    def _catch_up(self, remote: Remote) -> None:
        remote.lags = False
        self._operators.mend(remote)
        remote.forget_unreachable()

    def _to_hub(self, planned: Planned) -> None:
        hub = self._hub
        match planned.kind:
            case "hub-gone":
                hub.kill()
                self._lasts(planned, hub.start)
            case "hub-killed":
                hub.kill()
                hub.start()
            case "database-gone":
                hub.database.up = False
                self._lasts(planned, lambda: setattr(hub.database, "up", True))
            case "broker-gone":
                hub.broker.stop()
                self._lasts(planned, hub.broker.start)
            case _:
                hub.broker.stop()
                hub.broker.start(wiped=True)
