"""A fleet in virtual time that rolls commits out stage by stage, and whoever may be killed meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from metrica_agent.adapters.ledger import Bounds
from metrica_agent.decisions.world import TrialKind
from metrica_agent.tasks.parts import Pace
from metrica_fleet.codec import decode
from metrica_fleet.identity import DeviceId, FleetId
from metrica_fleet.messages import Status
from metrica_fleet.topics import STATUS, Address, topic_of
from metrica_sim.virtual.bus import SimulatedBroker
from metrica_sim.virtual.commands import Commands
from metrica_sim.virtual.git import Remote
from metrica_sim.virtual.history import FLEET, Commit, History
from metrica_sim.virtual.hub import Database, SimulatedHub
from metrica_sim.virtual.loop import BEGIN_S, VirtualLoop
from metrica_sim.virtual.machine import Around, Machine
from metrica_sim.virtual.operators import Operators
from metrica_sim.virtual.rollouts import Rollout, Rollouts
from metrica_sim.virtual.stops import Stops
from metrica_sim.virtual.story import STORY, Story, quiet_logs
from metrica_sim.virtual.world import uncollected

PACE = Pace(poll_s=600.0, heartbeat_s=1800.0, sample_s=5.0, look_s=600.0, check_s=86_400.0)


@dataclass
class RolloutWorld:
    """Machines, a hub with its rollouts, and one who pushes."""

    machines: list[Machine]
    hub: SimulatedHub
    rollouts: Rollouts
    stops: Stops
    operators: Operators
    history: History
    story: Story
    begun: dict[Commit, dict[DeviceId, float]] = field(default_factory=dict["Commit", "dict[DeviceId, float]"])

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time() - BEGIN_S

    def rollout(self, commit: Commit) -> Rollout:
        return self.rollouts.all[commit.id]

    def confirmed(self, commit: Commit) -> set[DeviceId]:
        found = ((machine.id, machine.memory().confirmed) for machine in self.machines)
        return {device for device, one in found if one is not None and one.commit == commit.id}

    def started(self, commit: Commit) -> dict[DeviceId, float]:
        """Return who has begun ``commit``, and when."""
        return self.begun.get(commit, {})

    def status(self, device: DeviceId) -> Status:
        status = decode(STATUS, self.hub.broker.retained[topic_of(Address(FleetId(FLEET), STATUS, device))])
        assert isinstance(status, Status)
        return status

    async def until(self, what: Callable[[], bool], within_s: float) -> float:
        """Wait until it is so, and return how long that took."""
        began_s = self.now_s
        while not what():
            assert self.story.broken is None, self.story.broken
            assert self.now_s < began_s + within_s, "\n".join(map(str, self.story.lines[-60:]))
            await asyncio.sleep(1.0)
        return self.now_s - began_s

    async def go_on_for(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        assert self.story.broken is None, self.story.broken


def played(
    roles: Mapping[str, str],
    policy: str,
    scene: Callable[[RolloutWorld], Coroutine[object, object, None]],
    *,
    hub_is_dead: bool = False,
    new: bool = False,
    pace: Pace = PACE,
) -> None:
    """Play ``scene`` in a fleet whose devices run a first commit, pushed before there was a policy; or ``new`` ones.

    With an empty ``policy`` every device takes a commit at once, and nobody leads.
    """
    quiet_logs()
    memory = Path("/dev/shm")  # noqa: S108 a folder of our own is made in it
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        uncollected(),
        asyncio.Runner(loop_factory=lambda: VirtualLoop(lambda: 0.001)) as runner,
    ):
        runner.run(_play(Path(folder), roles, policy, scene, hub_is_dead=hub_is_dead, new=new, pace=pace))


async def _play(
    root: Path,
    roles: Mapping[str, str],
    policy: str,
    scene: Callable[[RolloutWorld], Coroutine[object, object, None]],
    *,
    hub_is_dead: bool,
    new: bool,
    pace: Pace,
) -> None:
    async with _world(root, roles, pace, hub_is_dead=hub_is_dead, is_led=bool(policy)) as world:
        if not new:
            first = world.operators.push_good()
            await world.until(lambda: len(world.confirmed(first)) == len(world.machines), 900)
        world.history.rollout = policy
        world.rollouts.go_on_after_s = 900.0 if "go-on" in policy else None
        await scene(world)
        assert world.story.broken is None, world.story.broken


@asynccontextmanager
async def _world(
    root: Path, roles: Mapping[str, str], pace: Pace, *, hub_is_dead: bool, is_led: bool
) -> AsyncGenerator[RolloutWorld]:
    loop = asyncio.get_running_loop()
    story = Story(lambda: loop.time() - BEGIN_S)
    STORY.set(story)
    chance = Random("rollouts")
    fleet = FleetId(FLEET)
    history, remotes = History(dict(roles)), [Remote("https://git.invalid/fleet")]
    broker = SimulatedBroker(fleet, chance.random)
    operators = Operators(history, remotes, story)
    rollouts = Rollouts(
        fleet=fleet, broker=broker, head=lambda: operators.newest, story=story, named=history.name, go_on_after_s=0.0
    )
    operators.rollouts = rollouts
    stops = Stops(fleet, broker, story, loop.time)
    around = Around(
        commands=Commands(fleet, broker, story, loop.time, lambda: not hub_is_dead),
        stops=stops,
        fleet=fleet,
        history=history,
        remotes=remotes,
        broker=broker,
        story=story,
        root=root,
        pace=pace,
        outbox_bytes=Bounds().outbox_bytes,
        rollouts=rollouts if is_led else None,
    )
    machines = [Machine(DeviceId(name), role, around, Random(name)) for name, role in roles.items()]
    database = Database(chance.random, on_event=rollouts.stored)
    hub = SimulatedHub(fleet, broker, database, chance.random)
    if is_led:
        hub.also = lambda: rollouts.lead(lambda: database.up)
    hub.dead = hub_is_dead
    world = RolloutWorld(machines, hub, rollouts, stops, operators, history, story)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(hub.run()), *(group.create_task(machine.run()) for machine in machines)]
        if is_led:
            running.append(group.create_task(_note_starts(world)))
        yield world
        for task in running:
            task.cancel()


async def _note_starts(world: RolloutWorld) -> None:
    """Write down when each device began each commit, as its ledger has it."""
    while True:
        for machine in world.machines:
            trial = machine.memory().trial
            if trial is not None and trial.kind is TrialKind.FORWARD:
                starts = world.begun.setdefault(world.history.commits[trial.commit], {})
                starts.setdefault(machine.id, world.now_s)
        await asyncio.sleep(2.0)
