"""A simulated machine: its disk, engine, clock and network, and the agent that runs on it and may be killed anywhere.

The agent is the real one: its tasks, decisions, ledger, releases and staging. What it asks of the world is simulated.
"""

from __future__ import annotations

import asyncio
import errno
import traceback
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.ledger import Bounds, Ledger, remembered
from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.adapters.releases import Releases
from metrica_agent.decisions.starting import CRASH_LOOP_STARTS
from metrica_agent.decisions.world import Memory
from metrica_agent.tasks.device import run_device
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.orders import Orders
from metrica_agent.tasks.parts import Identity, Pace, Parts
from metrica_agent.tasks.staging import SHIPPED_SAFE_MODE, Staging
from metrica_agent.wake import Wake
from metrica_fleet import __version__
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import BootId, DeviceId, FleetId, ReleaseDigest
from metrica_fleet.records import Vitals
from metrica_fleet.topics import COMMANDS, GATE
from metrica_sim.network import Network
from metrica_sim.probes import SimulatedProbe
from metrica_sim.virtual import condition, pens, signers
from metrica_sim.virtual.book import WitnessedBook
from metrica_sim.virtual.bus import SimulatedBroker, SimulatedBus
from metrica_sim.virtual.engine import MachineEngine, is_poison
from metrica_sim.virtual.git import Remote, SimulatedMirror
from metrica_sim.virtual.history import LOCKS
from metrica_sim.virtual.hub import EPOCH
from metrica_sim.virtual.loop import Process, operation, process
from metrica_sim.virtual.spool import SimulatedSpool
from metrica_sim.virtual.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path
    from random import Random

    from metrica_agent.decisions.commanding import Taken
    from metrica_fleet.signed import Signed
    from metrica_fleet.topics import Channel
    from metrica_sim.virtual.commands import Commands
    from metrica_sim.virtual.history import History
    from metrica_sim.virtual.rollouts import Rollouts
    from metrica_sim.virtual.stops import Stops
    from metrica_sim.virtual.story import Story

PROJECT: Final = "metrica"
RESTART_S: Final = 5.0
REBOOT_S: Final = 30.0
ORDERS_LOOK_S: Final = 900.0
"""Between looks for orders that nobody rang for: here everybody rings, and each look is a turn of the loop."""
CRASH_LOOP_FOUND_S: Final = 180.0
_WRITES: Final = (":write", ":link", ":symlink", "directory:make")


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What all machines of a world share."""

    fleet: FleetId
    history: History
    remotes: Sequence[Remote]
    broker: SimulatedBroker
    stops: Stops
    commands: Commands
    story: Story
    root: Path
    pace: Pace
    outbox_bytes: int
    rollouts: Rollouts | None = None
    """``None``: every device takes a commit at once."""


@dataclass(slots=True)
class _CrashLoop:
    """An agent that dies some seconds after each of its next starts."""

    lives_s: float
    begun_s: float
    troubles: int
    left: int = CRASH_LOOP_STARTS + 1


class Machine:
    """One device of a world."""

    def __init__(self, device: DeviceId, role: str, around: Around, chance: Random) -> None:
        self.id, self.role = device, role
        self.folder = around.root / device
        self.outbox_bytes = around.outbox_bytes
        self.network = Network()
        self.clock_known, self._clock_off = True, timedelta()
        self.clock_set_s = 0.0
        """When its wall clock was last set, lost or found."""
        self.edited: ReleaseDigest | None = None
        """A release whose files somebody changed, and that was not found repaired yet."""
        self.troubles = 0
        """How often something was done to this machine."""
        self.troubled_s = 0.0
        self.deaths = 0
        self._around = around
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._boots, self._booted_s = 1, self._loop.time() - 20.0
        self._lasting: dict[str, set[int]] = {}
        self._powered = asyncio.Event()
        self._powered.set()
        self._process: Process | None = None
        self._agent: asyncio.Task[BaseException | None] | None = None
        self._book: WitnessedBook | None = None
        self._told_to_stop = False
        self._doomed: list[int] = []
        self._crashes: _CrashLoop | None = None
        self._off_s: float | None = None
        self._locked: set[int] = set()
        self.locked_since_s: float | None = None
        """Since when a service holds its lock."""
        self.witness = Witness(self, around.history, around.stops, around.commands, around.rollouts)
        self.engine = MachineEngine(PROJECT, self._loop.time, name=device, network=self.network, witness=self.witness)
        self.spool = SimulatedSpool()
        self.git = SimulatedMirror(around.history, around.remotes, self.network, chance.random)

    # --- what others see of it ----------------------------------------------------------------------------------

    def now_s(self) -> float:
        """Return the world's time."""
        return self._loop.time()

    def boot_clock_s(self) -> float:
        """Return the seconds since this machine was started."""
        return self._loop.time() - self._booted_s

    def memory(self) -> Memory:
        """Return what its ledger holds."""
        if self._book is not None:
            return self._book.memory
        try:
            return remembered(self.folder / "agent.sqlite")
        except NotNow:
            return Memory()

    def outbox_end(self) -> tuple[str, int] | None:
        """Return the stream of the outbox and its last number; ``None`` while no agent runs."""
        return None if self._book is None else (self._book.stream, self._book.last_seq)

    def current(self) -> ReleaseDigest | None:
        """Return what ``current`` leads to."""
        link = self.folder / "current"
        return ReleaseDigest(link.readlink().name) if link.is_symlink() else None

    @property
    def is_able(self) -> bool:
        """Whether agent, engine and disk are there at all."""
        return self._book is not None and not self._lasting.get("silent") and not self._lasting.get("full")

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that lasts is wrong with it now."""
        return self._powered.is_set() and not any(self._lasting.values())

    @property
    def strains(self) -> frozenset[str]:
        """All that strains it now."""
        return condition.strains(self._begun())

    def _begun(self) -> list[str]:
        return [what for what, numbers in self._lasting.items() if numbers]

    @property
    def is_on(self) -> bool:
        """Whether there is power."""
        return self._powered.is_set()

    def tell(self, what: str) -> None:
        """Write down what happened to it."""
        self._around.story.tell(self.id, what)

    def breach(self, what: str) -> None:
        """Write down that a promise did not hold."""
        self._around.story.breach(self.id, what)

    # --- what may be done to it ---------------------------------------------------------------------------------

    def trouble(self) -> None:
        """Note that something is done to it."""
        self.troubles += 1
        self.troubled_s = self.now_s()

    def begin(self, what: str, number: int) -> None:
        """Let a lasting trouble begin: silent, full, cut, registry."""
        self.trouble()
        self._lasting.setdefault(what, set()).add(number)
        self._take_effect()

    def end(self, what: str, number: int) -> None:
        """Let it end; of several at once the last one counts."""
        self.trouble()
        self._lasting.get(what, set()).discard(number)
        self._take_effect()

    def _take_effect(self) -> None:
        self.engine.silence(silent=bool(self._lasting.get("silent")))
        self.engine.registry_up = not self._lasting.get("registry")
        if self._lasting.get("cut"):
            self.network.cut()
        else:
            self.network.mend()

    def kill(self) -> None:
        """Kill the agent now."""
        self.trouble()
        if self._process is not None and self._agent is not None and not self._process.dead:
            self._process.dead = True
            self._agent.cancel()

    def kill_at(self, operations: int) -> None:
        """Kill the agent at that operation from now."""
        self.trouble()
        if self._process is not None:
            self._process.arm(operations)

    def watch(self, is_enough: Callable[[str], bool]) -> None:
        """Have ``is_enough`` asked at each operation of this agent until it says yes; nothing is done to it."""
        if self._process is not None:
            self._process.watch(is_enough)

    def kill_at_each_start(self, operations: int, *, times: int) -> None:
        """Kill the agent now, and the next ``times`` agents each at that operation of its life."""
        self._doomed = [operations] * times
        self.kill()

    def crash_loop(self, lives_s: float) -> None:
        """Kill the agent now, and the next ones ``lives_s`` after each start: it must come to be in safe mode."""
        self.kill()
        self._crashes = _CrashLoop(lives_s, self.now_s(), self.troubles)

    def cut_power_at(self, operations: int, off_s: float) -> None:
        """Let the power go at that operation of the agent from now."""
        self.kill_at(operations)
        self._off_s = off_s

    def restart(self) -> None:
        """Have the agent end in good order; it is started again."""
        self.trouble()
        if self._agent is not None and not self._agent.done():
            self._told_to_stop = True
            self._agent.cancel()

    def cut_power(self, off_s: float) -> None:
        """Let the power be gone for ``off_s``."""
        if not self._powered.is_set():
            return
        self.kill()
        self._powered.clear()
        self.begin("silent", -1)
        self.engine.power_off()
        self._loop.call_later(off_s, self._boot)

    def _boot(self) -> None:
        self.trouble()
        self._boots += 1
        self._booted_s = self.now_s()
        self.tell(f"boots for the {self._boots}. time")
        self._loop.call_later(2 + 20 * self._chance.random(), self._powered.set)
        self._loop.call_later(2 + 30 * self._chance.random(), self._engine_boots)

    def _engine_boots(self) -> None:
        self.end("silent", -1)
        self.engine.power_on()

    def restart_engine(self) -> None:
        """Let dockerd be restarted: everything ends, and what runs always is started again."""
        self.trouble()
        self.engine.power_off()
        self.engine.power_on()
        self._take_effect()

    def mend(self) -> None:
        """Let nothing happen any more that was only to happen later."""
        self._doomed, self._crashes, self._off_s = [], None, None
        if self._process is not None:
            self._process.disarm()

    def edit_file(self, name: str) -> None:
        """Let somebody edit a file of the current release, as an editor that writes in place does."""
        self.trouble()
        current = self.current()
        path = self.folder / "releases" / (current or "none") / name
        if not path.is_file():
            return
        path.chmod(0o644)
        with path.open("a", encoding="utf-8") as file:
            file.write("edited\n")
        path.chmod(0o444)
        self.edited = current

    def set_clock(self, *, known: bool | None = None, off: timedelta | None = None) -> None:
        """Set its wall clock, or whether anything says that it is right."""
        self.clock_known = self.clock_known if known is None else known
        self._clock_off = self._clock_off if off is None else off
        self.clock_set_s = self.now_s()

    def lock(self, number: int) -> None:
        """Let the service that may take its lock: it asks not to be restarted."""
        if not self._locked:
            self.witness.time_waiting()
            self.locked_since_s = self.now_s()
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file.touch()
        self._locked.add(number)

    def unlock(self, number: int) -> None:
        """Let it give the lock back; of several at once the last one counts."""
        self._locked.discard(number)
        if not self._locked:
            self.witness.time_waiting()
            self._lock_file.unlink(missing_ok=True)
            self.locked_since_s = None

    @property
    def _lock_file(self) -> Path:
        return self.folder / "data" / self.role / "locks" / LOCKS / "lock"

    # --- the agent ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the agent whenever there is power, until cancelled."""
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            await self._powered.wait()
            await self._one_life()
            self.witness.look_at_disk()
            await asyncio.sleep(RESTART_S)

    async def _one_life(self) -> None:
        life = Process(self._died)
        self._process, self._told_to_stop = life, False
        if self._doomed:
            life.arm(self._doomed.pop())
        crashes = self._crashes
        if crashes is not None:
            crashes.left -= 1
            self._loop.call_later(crashes.lives_s, self._crash_again, life, crashes)
        async with asyncio.TaskGroup() as group:
            with process(life):
                agent = self._agent = group.create_task(_outlived(self._run_agent()), name=f"{self.id} agent")
        failure = agent.result() if not agent.cancelled() else None
        if self._book is not None:
            self._book.abandon()
            self._book = None
        self.deaths += life.dead
        if life.dead or self._told_to_stop:
            return
        if failure is not None and is_poison(failure):
            self.trouble()
            self.tell("agent crashed of what the commit does to it")
            return
        shown = "".join(traceback.format_exception(failure)) if failure else "it ended"
        self.breach(f"the agent crashed: {shown}")

    def _crash_again(self, life: Process, loop: _CrashLoop) -> None:
        if life.dead or self._crashes is not loop:
            return
        if loop.left:
            loop.troubles += 1
            self.kill()
            return
        self._crashes = None
        if loop.troubles != self.troubles or self._lasting.get("full") or self.memory().safe is not None:
            return
        if not loop.begun_s <= self.witness.safe_entered_s < loop.begun_s + CRASH_LOOP_FOUND_S:
            self.breach("the agent crashes again and again, and is not in safe mode")

    def _died(self, where: str) -> None:
        self.trouble()
        self.tell(f"agent killed at {where}")
        if self._agent is not None:
            self._loop.call_soon(self._agent.cancel)
        if self._off_s is not None:
            off_s, self._off_s = self._off_s, None
            self._loop.call_soon(self.cut_power, off_s)

    async def _run_agent(self) -> None:
        """As the agent's own main does it."""
        releases = Releases(self.folder, at=self._disk_operation)
        await releases.clear_leftovers()
        async with AsyncExitStack() as stack:
            ledger = await Ledger.open(
                self.folder / "agent.sqlite",
                bounds=Bounds(outbox_bytes=self.outbox_bytes, decisions=50),
                book=self._open_book,
            )
            stack.push_async_callback(ledger.close)
            await run_device(self._parts(ledger, releases))

    def _open_book(self, path: Path, bounds: Bounds) -> WitnessedBook:
        self._book = WitnessedBook(path, bounds, full=self._is_full, witness=self.witness)
        return self._book

    def _parts(self, ledger: Ledger, releases: Releases) -> Parts:
        around = self._around
        clock = Clock(
            boot_id=BootId(f"{self.id}-{self._boots}"),
            boot_s=self.boot_clock_s,
            utc=self.wall_clock,
            synchronised=lambda: self.clock_known,
        )
        rung = Wake(clock.now_s)
        self.spool.ring = rung.nudge
        return Parts(
            identity=Identity(fleet=around.fleet, device=self.id, agent_version=__version__),
            pace=around.pace,
            remotes=tuple(remote.url for remote in around.remotes),
            git=self.git,
            releases=releases,
            runtime=Staging(
                git=self.git,
                store=releases,
                engine=self.engine,
                project=PROJECT,
                safe_mode=SHIPPED_SAFE_MODE,
                leftovers=Leftovers(),
            ),
            engine=self.engine,
            probe=SimulatedProbe(self.engine, self._loop.time),
            ledger=ledger,
            bus=SimulatedBus(around.broker, self.network, self.id, self._chance.random, self._hears),
            clock=clock,
            vitals=self._vitals,
            orders=Orders(
                spool=self.spool,
                wake=rung,
                now_s=clock.now_s,
                chance=self._chance.random,
                look_s=ORDERS_LOOK_S,
            ),
            notary=Notary(verify=pens.verify, own=pens.OPERATORS),
            own_signers=signers.file_of(0) if around.history.signed else None,
            chance=self._chance.random,
            reboot=self._reboot,
        )

    def _hears(self, channel: Channel, signed: Signed) -> None:
        if channel is GATE:
            self.witness.hears_gate(signed)
        elif channel is COMMANDS:
            self.trouble()

    def commanded(self) -> tuple[Taken, ...]:
        """Return the commands that its ledger says are being done."""
        taken = () if self._book is None else self._book.commands().taken.values()
        return tuple(one for one in taken if one.state == "running")

    async def _reboot(self) -> None:
        """As systemd does it: it takes it on, and ends the agent a moment later."""
        operation("power:reboot")
        self.witness.rebooting(self.commanded())
        self._loop.call_later(1.0, self.cut_power, REBOOT_S)

    async def _vitals(self) -> Vitals:
        return condition.vitals(self._begun(), disk_path=str(self.folder), clock_synchronised=self.clock_known)

    def wall_clock(self, ago_s: float = 0.0) -> datetime:
        """Return what its wall clock shows, or showed if nobody has set it since."""
        return EPOCH.astimezone(UTC) + timedelta(seconds=self.now_s() - ago_s) + self._clock_off

    def _disk_operation(self, name: str) -> None:
        if name == "switch:fsync-directory":
            self.witness.switched()
        operation(f"disk:{name}")
        if self._is_full() and name.endswith(_WRITES):
            raise OSError(errno.ENOSPC, "No space left on device (simulated)", name)

    def _is_full(self) -> bool:
        return bool(self._lasting.get("full"))


async def _outlived(agent: Coroutine[object, object, None]) -> BaseException | None:
    """Return how the agent ended: whatever it was, the machine goes on."""
    try:
        await agent
    except asyncio.CancelledError:
        return None
    except BaseException as error:  # noqa: BLE001 the machine judges it
        return error
    return None
