"""A world: machines, operators, remotes, a broker and a hub, in one virtual time, and all that happens to them."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from metrica_agent.tasks.files import CHECK_S
from metrica_agent.tasks.parts import Pace
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import DeviceId, FleetId
from metrica_sim.virtual.bus import SimulatedBroker
from metrica_sim.virtual.commands import Commands
from metrica_sim.virtual.faults import HOUR_S, Episode, Planned, episodes
from metrica_sim.virtual.git import Remote
from metrica_sim.virtual.history import FLEET, ROLES, History
from metrica_sim.virtual.hub import Database, SimulatedHub
from metrica_sim.virtual.loop import BEGIN_S, VirtualLoop
from metrica_sim.virtual.machine import Around, Machine
from metrica_sim.virtual.mischief import Mischief
from metrica_sim.virtual.operators import Operators
from metrica_sim.virtual.rollouts import Rollouts
from metrica_sim.virtual.settling import Settling
from metrica_sim.virtual.stops import Stops
from metrica_sim.virtual.story import STORY, Story

LOOK_S: Final = 600.0
ABOUT_CLOCKS: Final = frozenset({"clock-unknown", "clock-jumps"})
ABOUT_SIGNATURES: Final = frozenset({"push-signers", "push-forged"})
ABOUT_ROLLOUTS: Final = frozenset({"rollout-word", "gate-forged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which world."""

    seed: int
    hours: float
    devices: int = 4
    intensity: float = 0.15
    """Things that happen to each machine in an hour."""
    kinds: tuple[str, ...] = ()
    """What may happen; empty: everything."""
    only: frozenset[int] | None = None
    """The numbers of what may happen; ``None``: all."""

    def command(self) -> str:
        """Return what repeats it."""
        only = "" if self.only is None else f" --only {','.join(map(str, sorted(self.only)))}"
        kinds = f" --kinds {','.join(self.kinds)}" if self.kinds else ""
        return (
            f"./scripts/simulate --seed {self.seed} --hours {self.hours:g} --devices {self.devices}"
            f" --intensity {self.intensity:g}{kinds}{only}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a world."""

    plan: Plan
    story: Story
    device_hours: float
    happened: int
    trials: int
    crashes: int
    events: int
    worst_taken_back_s: float
    processor_s: float
    """What it took, of one core."""
    numbers: frozenset[int] = field(repr=False)
    """Of all that happened."""

    @property
    def is_well(self) -> bool:
        """Whether every promise held."""
        return self.story.broken is None


def simulated(plan: Plan) -> Outcome:
    """Run the world of ``plan`` to its end, or to the first promise that does not hold."""
    chance = Random(f"{plan.seed} latency")
    with (
        _folder(plan.seed) as root,
        uncollected(),
        asyncio.Runner(loop_factory=lambda: VirtualLoop(lambda: _latency_s(chance))) as runner,
    ):
        return runner.run(_run(plan, root))


@contextmanager
def uncollected() -> Generator[None]:
    """Keep the collector of cycles from running meanwhile: a fifth of the time, and when it runs nobody can say."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def _latency_s(chance: Random) -> float:
    """Return how long a thread takes: mostly milliseconds, now and then an SD card that thinks about it."""
    drawn = chance.random()
    return 0.002 * drawn if drawn < 0.99 else 3.0 * (drawn - 0.99) * 100  # noqa: PLR2004


async def _run(plan: Plan, root: Path) -> Outcome:
    loop = asyncio.get_running_loop()
    began_s = time.process_time()
    story = Story(lambda: loop.time() - BEGIN_S)
    STORY.set(story)
    if isinstance(loop, VirtualLoop):
        loop.when_stuck(lambda what: story.breach("loop", what))
    world = _World(plan, root, story)
    broken = asyncio.Event()
    story.on_broken = broken.set
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(world.play(), name="world")
        watching = group.create_task(broken.wait(), name="broken")
        await asyncio.wait([playing, watching], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        playing.cancel()
    story.end()
    return world.outcome(time.process_time() - began_s)


class _World:
    def __init__(self, plan: Plan, root: Path, story: Story) -> None:
        self._plan, self._story = plan, story
        chance = Random(f"{plan.seed} chance")
        names = [DeviceId(f"pi-{number:02d}") for number in range(1, plan.devices + 1)]
        roles = {name: ROLES[place % len(ROLES)] for place, name in enumerate(names)}
        policy = _policy(Random(f"{plan.seed} rollout"), names, asked_for=bool(ABOUT_ROLLOUTS & set(plan.kinds)))
        windows = _windows(Random(f"{plan.seed} windows"), asked_for=bool(ABOUT_CLOCKS & set(plan.kinds)))
        signed = _are_signed(Random(f"{plan.seed} signatures"), asked_for=bool(ABOUT_SIGNATURES & set(plan.kinds)))
        history = History({str(name): role for name, role in roles.items()}, policy.text, windows, signed=signed)
        remotes = [Remote(f"https://git-{number}.invalid/fleet") for number in range(1, 1 + chance.randint(1, 3))]
        broker = SimulatedBroker(FleetId(FLEET), chance.random)
        self._operators = Operators(history, remotes, story)
        rollouts = self._operators.rollouts = _rollouts(policy, broker, self._operators, story)
        stops = Stops(FleetId(FLEET), broker, story, asyncio.get_running_loop().time)
        broker.on_start = stops.say_again
        commands = Commands(FleetId(FLEET), broker, story, asyncio.get_running_loop().time, lambda: self._hub.is_up)
        self._commands = commands
        broker.on_answer = commands.answered
        around = Around(
            stops=stops,
            commands=commands,
            fleet=FleetId(FLEET),
            history=history,
            remotes=remotes,
            broker=broker,
            story=story,
            root=root,
            pace=Pace(
                poll_s=chance.choice((60.0, 600.0, 600.0, 600.0)),
                heartbeat_s=chance.choice((60.0, *[1800.0] * 7)),
                sample_s=chance.choice((2.0, 5.0, 5.0)),
                look_s=chance.choice((15.0, *[120.0] * 7)),
                check_s=chance.choice((CHECK_S, *[1200.0] * 7)),
            ),
            outbox_bytes=chance.choice((48 * 1024, 1024 * 1024, 24 * 1024 * 1024)),
            rollouts=rollouts,
        )
        self._chance = chance
        self._machines = [Machine(name, role, around, Random(f"{plan.seed} {name}")) for name, role in roles.items()]
        self._hub = SimulatedHub(around.fleet, broker, Database(chance.random), chance.random)
        if rollouts is not None:
            self._hub.database.on_event = rollouts.stored
            self._hub.also = lambda: rollouts.lead(lambda: self._hub.database.up)
        self._mischief = Mischief(
            self._machines, remotes, self._hub, self._operators, story, stops=stops, commands=commands
        )
        self._settling = Settling(self._machines, self._hub, self._operators, self._mischief, story, commands=commands)
        self._loop = asyncio.get_running_loop()
        self._happened: set[int] = set()

    async def play(self) -> None:
        """Let everything run, and happen."""
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self._hub.run(), name="hub")]
            running.append(group.create_task(self._commands.send_again(), name="commands"))
            for machine in self._machines:
                running.append(group.create_task(machine.run(), name=machine.id))
                running.append(group.create_task(self._look(machine), name=f"{machine.id} witness"))
            await self._settling.all_confirm()
            plan = self._plan
            chance = Random(f"{plan.seed} faults")
            drawn = episodes(chance, plan.hours, plan.intensity, len(self._machines), plan.kinds)
            for episode in drawn:
                await self._play(episode)
            for task in running:
                task.cancel()

    async def _play(self, episode: Episode) -> None:
        begin_s = self._loop.time()
        only = self._plan.only
        for planned in episode.happens:
            if only is None or planned.number in only:
                self._loop.call_at(begin_s + planned.at_s, self._happen, planned)
        await asyncio.sleep(episode.lasts_s)
        self._mischief.end_all()
        await self._settling.all_confirm()
        await self._settling.nothing_is_lost()
        match episode.ends:
            case "bad":
                await self._settling.all_refuse(self._chance)
                await self._settling.nothing_is_lost()
            case "poison":
                await self._settling.all_survive_poison(self._chance)
            case _:
                pass

    def _happen(self, planned: Planned) -> None:
        if self._story.broken is None:
            self._happened.add(planned.number)
            self._mischief.do(planned)

    async def _look(self, machine: Machine) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            machine.witness.look()

    def outcome(self, processor_s: float) -> Outcome:
        """Return what came of it."""
        return Outcome(
            plan=self._plan,
            story=self._story,
            device_hours=len(self._machines) * (self._loop.time() - BEGIN_S) / HOUR_S,
            happened=len(self._happened),
            trials=sum(machine.witness.trials for machine in self._machines),
            crashes=sum(machine.deaths for machine in self._machines),
            events=sum(len(rows) for machine in self._machines for rows in machine.witness.events.values()),
            worst_taken_back_s=max(machine.witness.worst_taken_back_s for machine in self._machines),
            processor_s=processor_s,
            numbers=frozenset(self._happened),
        )


@dataclass(frozen=True, slots=True)
class _Policy:
    """How commits go through the fleet, as fleet.toml says it; empty: each device takes them at once."""

    text: str = ""
    go_on_after_s: float | None = None


def _rollouts(policy: _Policy, broker: SimulatedBroker, operators: Operators, story: Story) -> Rollouts | None:
    if not policy.text:
        return None
    return Rollouts(
        fleet=FleetId(FLEET),
        broker=broker,
        head=lambda: operators.newest,
        story=story,
        named=operators.history.name,
        go_on_after_s=policy.go_on_after_s,
    )


def _policy(chance: Random, names: Sequence[DeviceId], *, asked_for: bool) -> _Policy:
    """Draw a policy for every second world, and for each that is to be about rollouts."""
    if chance.random() < 0.5 and not asked_for:  # noqa: PLR2004 half of them
        return _Policy()
    go_on = chance.random() < 0.5  # noqa: PLR2004 likewise
    silent_s = chance.choice((900.0, 3600.0))
    stages = [
        f'name = "half"\nshare = 0.5\nsoak_s = {chance.choice((0, 60))}',
        'name = "all"\nshare = 1.0\nsoak_s = 60',
    ]
    if chance.random() < 0.7:  # noqa: PLR2004 most have canaries
        pause = str(chance.random() < 0.3).lower()  # noqa: PLR2004 some of them wait for a person
        stages.insert(0, f'name = "canary"\ndevices = ["{chance.choice(names)}"]\nsoak_s = 30\npause = {pause}')
    lines = (
        "[rollout]",
        f"failure_share = {chance.choice((0.0, 0.05, 0.5))}",
        "deadline_s = 600",
        f"waiting_s = {chance.choice((600, 1800))}",
        f"prefetch_s = {chance.choice((0, 60))}",
        f"hub_silent_s = {silent_s:g}",
        f'hub_silent = "{"go-on" if go_on else "hold"}"',
        *(f"[[rollout.stages]]\n{stage}" for stage in stages),
    )
    return _Policy("\n".join(lines) + "\n", silent_s if go_on else None)


def _windows(chance: Random, *, asked_for: bool) -> tuple[str, ...]:
    """Draw windows of updates for every third world, and for each that is to be about clocks."""
    if chance.random() < 0.67 and not asked_for:  # noqa: PLR2004 two thirds of them
        return ()
    begins = [chance.randrange(24 * 60) for _ in range(chance.choice((1, 1, 2)))]
    spans = [(begin, (begin + chance.choice((5, 30, 120, 600))) % (24 * 60)) for begin in begins]
    return tuple(f"{_clock(begin)}-{_clock(end)}" for begin, end in spans)


def _are_signed(chance: Random, *, asked_for: bool) -> bool:
    """Draw whether commits must be signed: in every third world, and in each that is to be about that."""
    return chance.random() > 0.67 or asked_for  # noqa: PLR2004 a third of them


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


@contextmanager
def _folder(seed: int) -> Generator[Path]:
    """Give a folder in memory, always the same one for a seed: its name goes into digests.

    Raises:
        Unusable: ``already-running``.
    """
    memory = Path("/dev/shm")  # noqa: S108 a folder of our own is made in it
    base = (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())) / f"metrica-world-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    root = base / f"seed-{seed}"
    with (base / f"seed-{seed}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"the world of seed {seed} is being simulated by another process"
            raise Unusable(message, reason="already-running") from error
        _remove(root)
        root.mkdir()
        try:
            yield root
        finally:
            _remove(root)
            Path(lock.name).unlink(missing_ok=True)


def _remove(root: Path) -> None:
    """Remove a tree in which releases are read-only."""
    if not root.exists():
        return
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o700)  # noqa: PTH101 os.walk gives text
    shutil.rmtree(root)
