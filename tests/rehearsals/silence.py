"""A hub that is never there, by both policies: real agents, in processes of their own, real Git, brokers and time.

``./scripts/rehearse silence``. Two fleets of twenty devices get a commit that breaks one of them, in stages; no hub
ever runs. The fleet that is to hold waits and says why; the one that is to go on opens its stages by the devices' own
clocks, and whom the commit breaks goes back. It takes as long as the shortest ``hub_silent_s`` that there is: a quarter
of an hour, and the soaks.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import aiomqtt
from tests.fixtures.broker import HOST, Broker
from tests.fixtures.git_servers import Repository, http_server, repository
from tests.fixtures.hub import FLEET
from tests.fixtures.machines import Machines

from metrica_fleet.codec import decode
from metrica_fleet.errors import NotNow
from metrica_fleet.gate import EVERYBODY, bucket
from metrica_fleet.identity import CommitId, DeviceId, FleetId
from metrica_fleet.messages import Status
from metrica_fleet.topics import STATUS, every_device

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from metrica_agent.decisions.world import Memory

DEVICES: Final = 20
SILENT_S: Final = 900.0
CANARY, SICK = DeviceId("pi-01"), DeviceId("pi-13")
SOAK_S: Final = 20.0
LATE_S: Final = 60.0
"""By so much later than the policy has it a device may look again on a busy machine."""
NAMES: Final = tuple(DeviceId(f"pi-{number:02d}") for number in range(1, DEVICES + 1))
FLEET_FILE: Final = f"""
name = "{FLEET}"
[health]
soak_s = 2
start_deadline_s = 10
"""
POLICY: Final = """
[rollout]
prefetch_s = 10
hub_silent = "{silent}"
hub_silent_s = {silent_s}
[[rollout.stages]]
name = "canary"
devices = ["{canary}"]
soak_s = {soak_s}
[[rollout.stages]]
name = "half"
share = 0.5
soak_s = {soak_s}
[[rollout.stages]]
name = "all"
share = 1.0
soak_s = 0
"""
Silent = Literal["hold", "go-on"]


@dataclass
class Field:
    """A fleet without a hub, and what was seen of it."""

    silent: Silent
    repository: Repository
    machines: Machines
    broker: Broker
    began_s: dict[DeviceId, float] = field(default_factory=dict[DeviceId, float])
    """When each device began the commit, from when it was pushed."""

    def memories(self) -> Mapping[DeviceId, Memory]:
        """Return what each device remembers."""
        return {name: self.machines.memory(name) for name in NAMES}


@contextmanager
def without_a_hub(silent: Silent, folder: Path) -> Generator[Field]:
    """Run a fleet's Git server, broker and agents for the block, and nothing else."""
    folder.mkdir()
    fleet = repository(folder)
    with (
        Broker(folder) as broker,
        http_server(fleet.root) as server,
        Machines.running(server.url(fleet), broker.port, folder, devices=DEVICES) as machines,
    ):
        yield Field(silent, fleet, machines, broker)


def files(version: int, policy: str = "") -> dict[str, str | bytes | None]:
    """Return a fleet of cameras and one sensor; from the second version on the sensor's service ends at once."""
    service = f"    image: example.org/web:{version}\n    restart: unless-stopped\n"
    ill = '    labels: {fleet.metrica.sim: "exits"}\n' if version > 1 else ""
    return {
        "fleet.toml": FLEET_FILE + policy,
        "roles/camera/compose.yaml": f"services:\n  web:\n{service}",
        "roles/sensor/compose.yaml": f"services:\n  web:\n{service}{ill}",
        **{f"devices/{name}.toml": f'role = "{"sensor" if name == SICK else "camera"}"\n' for name in NAMES},
    }


def opens_s(commit: CommitId, device: DeviceId) -> float:
    """Return after how long a silence the policy lets a device begin."""
    if device == CANARY:
        return SILENT_S
    return SILENT_S + SOAK_S * (1 if bucket(commit, device) < EVERYBODY / 2 else 2)


async def until(fact: Callable[[], bool], within_s: float, what: str) -> None:
    """Return when it is so; a ledger that is just being made can't be read yet."""
    ends_s = time.monotonic() + within_s
    while True:
        try:
            if fact():
                return
        except NotNow as error:
            what_not = f" ({error.message})"
        else:
            what_not = ""
        if time.monotonic() > ends_s:
            sys.exit(f"✘ not within {within_s:g} s: {what}{what_not}")
        await asyncio.sleep(0.5)


def run_it(found: Field, commit: str, besides: frozenset[DeviceId] = frozenset()) -> bool:
    """Whether every device has confirmed ``commit``, ``besides`` some, and nothing is on trial."""
    memories = found.memories()
    confirmed = {name for name, one in memories.items() if one.confirmed is not None and one.confirmed.commit == commit}
    return confirmed == set(NAMES) - besides and not any(one.trial for one in memories.values())


def note(found: Field, commit: str, pushed_s: float) -> None:
    """Write down who has begun."""
    for name, memory in found.memories().items():
        begun = memory.trial is not None and memory.trial.commit == commit
        if (begun or memory.refusal_of(CommitId(commit)) is not None) and name not in found.began_s:
            found.began_s[name] = time.monotonic() - pushed_s


async def reasons(broker: Broker) -> dict[str, str | None]:
    """Return why each device stands where it stands, as its retained status says."""
    found: dict[str, str | None] = {}
    async with asyncio.timeout(30), aiomqtt.Client(HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(every_device(FleetId(FLEET), STATUS))
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            status = decode(STATUS, message.payload)
            assert isinstance(status, Status)
            found[status.device] = status.reason
            if len(found) == DEVICES:
                return found
    return found


def check(it_is: object, what: str) -> None:
    """Say so, or end."""
    if not it_is:
        sys.exit(f"✘ {what}")
    say(f"✔ {what}")


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def rehearsed(fields: Mapping[Silent, Field]) -> None:
    """Push twice, and look at what becomes of it."""
    firsts = {silent: one.repository.commit(files(1)) for silent, one in fields.items()}
    for silent, one in fields.items():
        await until(lambda one=one, silent=silent: run_it(one, firsts[silent]), 120, "the first commit")
    check(True, f"two fleets of {DEVICES} devices run a first commit; there is no hub")  # noqa: FBT003
    commits: dict[Silent, str] = {}
    for silent, one in fields.items():
        policy = POLICY.format(silent=silent, silent_s=SILENT_S, canary=CANARY, soak_s=SOAK_S)
        commits[silent] = one.repository.commit(files(2, policy))
    pushed_s = time.monotonic()

    def looked() -> bool:
        for silent, one in fields.items():
            note(one, commits[silent], pushed_s)
        return run_it(fields["go-on"], commits["go-on"], frozenset({SICK}))

    await until(looked, SILENT_S + 2 * SOAK_S + 2 * LATE_S, "the fleet that is to go on has gone on")
    took_s = time.monotonic() - pushed_s
    goes_on, holds = fields["go-on"], fields["hold"]
    began = goes_on.began_s
    opened = {name: opens_s(CommitId(commits["go-on"]), name) for name in NAMES}
    check(set(began) == set(NAMES), "to go on: every device has begun the commit by itself")
    early = [name for name in NAMES if began[name] < opened[name]]
    check(not early, f"none before its stage: the canary after {began[CANARY]:.0f} s")
    check(
        all(began[name] < opened[name] + LATE_S for name in NAMES),
        f"each within {max(began[name] - opened[name] for name in NAMES):.0f} s of when the policy has it",
    )
    sick = goes_on.machines.memory(SICK)
    is_back = sick.confirmed is not None and sick.confirmed.commit == firsts["go-on"]
    check(
        is_back and sick.refusal_of(CommitId(commits["go-on"])),
        f"{DEVICES - 1} run it after {took_s:.0f} s; {SICK}, which it breaks, is back on what it ran before",
    )
    check(holds.began_s == {}, "to hold: none has begun")
    check(run_it(holds, firsts["hold"]), "each runs what it ran")
    said = await reasons(holds.broker)
    check(set(said.values()) == {"hub-silent"}, "and says that the hub is silent")


async def main() -> None:
    """Rehearse it."""
    silents: tuple[Silent, ...] = ("hold", "go-on")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        await rehearsed({one: stack.enter_context(without_a_hub(one, Path(folder) / one)) for one in silents})
    say("✔ silence: a fleet without a hub does as its policy says")


if __name__ == "__main__":
    asyncio.run(main())
