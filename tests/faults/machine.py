"""A whole device in virtual time on one folder: the agent's real tasks, ledger, releases and Git on a simulated engine.

    machine/state/    the state directory of the agent
    machine/world/    what others have seen of it: records at the hub, releases that Compose was run for

As a program it lives until it rests, under the shim if somebody preloaded it: that is how journals are recorded.

    python -m tests.faults.machine MACHINE REMOTE BOOT_ID [safe]
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import structlog
from msgspec import structs
from msgspec.json import decode as decode_json

from metrica_agent.adapters.clock import Clock
from metrica_agent.adapters.git import leftovers, orders
from metrica_agent.adapters.git.child import carried_out
from metrica_agent.adapters.git.remote import Remote
from metrica_agent.adapters.git.store import branch_of_folder
from metrica_agent.adapters.ledger import Ledger
from metrica_agent.adapters.leftovers import Leftovers
from metrica_agent.adapters.releases import Releases
from metrica_agent.adapters.releases.scan import differences
from metrica_agent.adapters.spool import Spool
from metrica_agent.console_orders import SPOOL
from metrica_agent.decisions.preflight import ImageNeed
from metrica_agent.decisions.world import Memory, Release
from metrica_agent.durable import Disk
from metrica_agent.tasks.device import run_device
from metrica_agent.tasks.notary import Notary
from metrica_agent.tasks.orders import Orders
from metrica_agent.tasks.parts import Identity, Pace, Parts
from metrica_agent.tasks.staging import SHIPPED_SAFE_MODE, Staging
from metrica_agent.wake import Wake
from metrica_agent.wiring import verified
from metrica_fleet.codec import decode, encode
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import BootId, CommitId, DeviceId, FleetId, StreamId, short
from metrica_fleet.messages import Message, Presence, Stored
from metrica_fleet.records import Event, Record, advanced
from metrica_fleet.topics import RECORDS, STORED, Channel
from metrica_sim.engine import SimulatedEngine
from metrica_sim.probes import SimulatedProbe
from metrica_sim.virtual.loop import VirtualLoop
from metrica_sim.vitals import SimulatedVitals

if TYPE_CHECKING:
    from metrica_agent.decisions.lineage import Relation
    from metrica_agent.tasks.guard import Watchman

FLEET: Final = FleetId("cut")
DEVICE: Final = DeviceId("pi-01")
PROJECT: Final = "metrica"
LONGEST_S: Final = 7200.0
"""Of virtual time, within which a device must have come to rest: longer than any of its deadlines."""
LOOK_S: Final = 0.5
FOREIGN: Final = 30
"""Watermark of a stream that is not the device's."""
COMPOSE_S: Final = 2.0
"""A run of Compose takes so long at least: there is time to die in it."""
LOST_ONE_IN: Final = 7
"""Records that the broker loses the first time."""
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
PACE: Final = Pace(poll_s=20.0, heartbeat_s=15.0, sample_s=1.0)


class InlineGit:
    """The mirror, without child and thread."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    async def head(self, url: str) -> CommitId:
        """Return the branch's commit."""
        found = branch_of_folder(Remote(url), "main")
        if found is None:
            raise NotNow("there is no such branch", reason="branch-missing")
        return found

    async def fetch(
        self,
        url: str,
        commit: CommitId,
        have: CommitId | None,
        *,
        signers: str | None = None,
        within_s: float | None = None,
    ) -> Relation:
        """Bring a commit into the mirror; it is here at once."""
        del within_s
        order = orders.Fetch(
            mirror=self._path,
            branch="main",
            url=url,
            commit=commit,
            have=have,
            signers=signers,
            ssh=orders.SshOptions(),
            ca_file=None,
            bounds=orders.Bounds(),
        )
        answer = _answered(carried_out(order))
        assert isinstance(answer, orders.Related)
        return answer.relation

    async def read(self, commit: CommitId, paths: Sequence[str]) -> dict[str, bytes]:
        """Return files of a commit."""
        order = orders.Read(mirror=self._path, commit=commit, paths=tuple(paths), bounds=orders.Bounds())
        answer = _answered(carried_out(order))
        assert isinstance(answer, orders.Files)
        return dict(answer.contents)

    async def export(self, commit: CommitId, folder: str, into: Path) -> orders.Exported:
        """Write a folder of a commit."""
        order = orders.Export(mirror=self._path, commit=commit, folder=folder, into=str(into), bounds=orders.Bounds())
        answer = _answered(carried_out(order))
        assert isinstance(answer, orders.Exported)
        return answer


def _answered(answer: orders.Answer) -> orders.Answer:
    if isinstance(answer, orders.NotNowAnswer):
        raise NotNow(answer.message, reason=answer.reason, retry_after_s=answer.retry_after_s)
    if isinstance(answer, orders.UnusableAnswer):
        raise Unusable(answer.message, reason=answer.reason)
    return answer


# --- the hub ----------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """A message of the bus."""

    channel: Channel
    message: Message
    retained: bool


@dataclass
class Hub:
    """Takes every record and says so; all it has ever seen is in a file that no power cut touches."""

    path: Path
    away: bool = False
    records: dict[tuple[str, int], Record] = field(default_factory=dict[tuple[str, int], Record])
    contradictions: list[str] = field(default_factory=list[str])
    watermarks: dict[StreamId, int] = field(default_factory=dict[StreamId, int])
    _lost: set[int] = field(default_factory=set[int])
    _before: set[str] = field(default_factory=set[str])
    """Streams of a ledger that was lost since."""
    _coming: asyncio.Queue[Said] = field(default_factory=asyncio.Queue[Said])

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for line in lines:
            self._take(cast("Record", decode(RECORDS, line)))
        if self._anew.exists():
            self._before = set(self._anew.read_text(encoding="ascii").split())

    @property
    def _anew(self) -> Path:
        return self.path.with_name("anew")

    @property
    def has(self) -> int:
        """Up to which number it has all that the device said: its streams follow each other, and the numbers go on."""
        has = 0
        for stream, first in sorted(self._firsts().items(), key=lambda item: item[1]):
            if first <= has + 1:
                has = max(has, self.watermarks.get(stream, 0))
        return has

    def _firsts(self) -> dict[StreamId, int]:
        """Return the first number of each stream that this ledger has said."""
        ours = ((stream, record) for (stream, _), record in self.records.items() if stream not in self._before)
        return {StreamId(stream): record.seq for stream, record in ours if record.prev == 0}

    def begin_anew(self) -> None:
        """Note that the ledger knows nothing of what was said before: it was lost, and numbers begin again."""
        self._before = {stream for stream, _ in self.records}
        self._anew.write_text("\n".join(sorted(self._before)), encoding="ascii")

    def lost(self, last_seq: int, stored: int) -> list[str]:
        """Say what a device that stands there has forgotten of what it said, or struck out before it was stored."""
        seen = max((seq for stream, seq in self.records if stream not in self._before), default=0)
        found = [] if seen <= last_seq else [f"record {seen} was said, and the ledger's last is {last_seq}"]
        if stored > self.has:
            found.append(f"{stored} records are held for stored, the hub has {self.has}")
        return found

    def events(self) -> list[Event]:
        """Return all events, in the order in which the device wrote them."""
        return in_order(self.records)

    @asynccontextmanager
    async def session(self, will: Presence) -> AsyncGenerator[Hub]:
        """Connect; nobody asks for the last ``will``."""
        del will
        if self.away:
            raise NotNow("there is no broker", reason="bus-unreachable")
        self._coming = asyncio.Queue()
        yield self

    async def subscribe(self, *channels: Channel) -> None:
        """Say what is retained."""
        assert STORED in channels
        self._say(retained=True)

    async def publish(self, channel: Channel, message: Message) -> None:
        """Store a record, then say so."""
        await asyncio.sleep(0.01)
        if channel is RECORDS and not self._loses(cast("Record", message)):
            with self.path.open("ab", buffering=0) as file:
                file.write(encode(message) + b"\n")
            self._take(cast("Record", message))
            self._say(retained=False)

    def received(self) -> Sequence[Said]:
        """Return what has come."""
        found: list[Said] = []
        while not self._coming.empty():
            found.append(self._coming.get_nowait())
        return found

    async def messages(self) -> AsyncIterator[Said]:
        """Yield what comes."""
        while True:
            yield await self._coming.get()

    async def leave(self, last_word: Presence) -> None:
        """End the connection."""

    def _loses(self, record: Record) -> bool:
        """Whether the broker loses it, as one does that crashed: some, once. They must be sent again."""
        lost = record.seq % LOST_ONE_IN == 0 and record.seq not in self._lost
        self._lost.add(record.seq)
        return lost

    def _say(self, *, retained: bool) -> None:
        # Also of a stream that is not the device's: its watermark must mean nothing to it.
        streams = {StreamId("f" * 32): FOREIGN, **self.watermarks}
        self._coming.put_nowait(Said(STORED, Stored(streams=streams), retained))

    def _take(self, record: Record) -> None:
        known = self.records.setdefault((record.stream, record.seq), record)
        if structs.replace(known, prev=0) != structs.replace(record, prev=0):
            self.contradictions.append(f"number {record.seq} means two things: {_brief(known)} and {_brief(record)}")
        self.watermarks[record.stream] = up_to(self.watermarks.get(record.stream, 0), record, self.records)


def in_order(records: Mapping[tuple[str, int], Record]) -> list[Event]:
    """Return the events, by number in each stream, and the streams as they came."""
    streams = {stream: number for number, stream in enumerate(dict.fromkeys(stream for stream, _ in records))}
    keys = sorted(records, key=lambda key: (streams[key[0]], key[1]))
    return [record for key in keys if isinstance(record := records[key], Event)]


def up_to(watermark: int, record: Record, records: Mapping[tuple[str, int], Record]) -> int:
    """Return the watermark after ``record``, and after those that came before their turn."""
    following: Record | None = record
    while following is not None:
        before, watermark = watermark, advanced(watermark, following)
        if watermark == before:
            break
        later = (one for (stream, seq), one in records.items() if stream == record.stream and seq > watermark)
        following = min(later, key=lambda one: one.seq, default=None)
    return watermark


def _brief(record: Record) -> str:
    return f"{record.kind} {short(record.commit)}" if isinstance(record, Event) else "a heartbeat"


# --- the engine -------------------------------------------------------------------------------------------------


class Engine(SimulatedEngine):
    """Remembers over a power cut what it was last made to run, as a container engine does."""

    def __init__(self, path: Path, now_s: Callable[[], float]) -> None:
        super().__init__(PROJECT, now_s)
        self._applied, self._pulled = path, path.with_name("pulled")
        path.parent.mkdir(parents=True, exist_ok=True)

    async def remember(self, releases: Path) -> None:
        """Run what was last applied, as far as it is still there."""
        if self._pulled.exists():
            for name in self._pulled.read_text().splitlines():
                await super().pull(ImageNeed(name), 1.0)
        applied = self._applied.read_text().splitlines() if self._applied.exists() else []
        if applied and (releases / applied[-1] / "compose.json").is_file():
            with suppress(NotNow):  # its containers do not come up: the agent has to see to it
                await super().up(releases / applied[-1], 10.0)

    async def pull(self, image: ImageNeed, deadline_s: float) -> None:
        """Fetch ``image``."""
        await super().pull(image, deadline_s)
        with self._pulled.open("ab", buffering=0) as file:
            file.write(f"{image.name}\n".encode())

    async def up(self, release: Path, deadline_s: float, *, resting: Collection[str] = ()) -> None:
        """Make what runs equal to ``release``; that takes a while."""
        await asyncio.sleep(COMPOSE_S)
        await super().up(release, deadline_s, resting=resting)
        with self._applied.open("ab", buffering=0) as file:
            file.write(f"{release.name}\n".encode())


# --- one life ---------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """What is left of one life of the agent, for the judge."""

    machine: Path
    hub: Hub
    engine: Engine
    set_aside: bool = False
    rested: bool = False
    lost: list[str] = field(default_factory=list[str])
    story: list[str] = field(default_factory=list[str])
    inputs: dict[str, str] = field(default_factory=dict[str, str])
    """Service -> inputs of what runs at the end."""

    @property
    def state(self) -> Path:
        """The agent's state directory."""
        return self.machine / "state"


@dataclass(frozen=True)
class Look:
    """What is seen of a life, twice a second."""

    memory: Memory
    last_seq: int
    rule: str
    """Of the last decision of this life."""


Cut = Callable[[Look], bool]
"""Whether the life ends now."""


def live(
    machine: Path,
    remote: Path,
    boot_id: str,
    *,
    until: Cut | None = None,
    away: bool = False,
    safe: bool = False,
    watchman: Watchman | None = None,
) -> Life:
    """Live one life on ``machine`` until the device rests, in safe mode if ``safe``, or ``until`` says so.

    ``away``: there is no broker. ``watchman``: who is told by when the loops are back.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        lived = _lived(machine, remote, BootId(boot_id), until, away=away, safe=safe, watchman=watchman)
        return runner.run(lived)


async def _lived(
    machine: Path,
    remote: Path,
    boot_id: BootId,
    until: Cut | None,
    *,
    away: bool,
    safe: bool,
    watchman: Watchman | None,
) -> Life:
    state = machine / "state"
    Disk().directory(state, 0o700)
    loop = asyncio.get_running_loop()
    hub = Hub(machine / "world" / "sent", away=away)
    engine = Engine(machine / "world" / "applied", loop.time)
    await engine.remember(state / "releases")
    life = Life(machine, hub, engine)
    releases = Releases(state)
    await releases.clear_leftovers()
    ledger = await Ledger.open(state / "agent.sqlite")
    life.set_aside = ledger.opened.set_aside is not None
    if ledger.last_seq() == 0:
        hub.begin_anew()
    life.lost = hub.lost(ledger.last_seq(), ledger.stored())
    try:
        parts = structs.replace(
            _parts(state, remote, boot_id, ledger=ledger, engine=engine, hub=hub, releases=releases), watchman=watchman
        )
        async with asyncio.TaskGroup() as group:
            device = group.create_task(run_device(parts))
            rests = _rests_in_safe_mode(state) if safe else _has_decided(remote)
            life.rested = await _came_to(until or _rests(state, rests, hub, ledger, engine), ledger, boot_id)
            device.cancel()
        life.lost += hub.lost(ledger.last_seq(), ledger.stored())
        life.story = [f"{event.kind} {event.message}" for event in reversed(await ledger.recent_events(12))]
        life.story += [f"{one.rule}: {one.why}" for _, one in reversed(await ledger.decisions(3))]
    finally:
        await ledger.close()
    life.inputs = {one.service: one.inputs for one in await engine.containers() if one.state == "running"}
    return life


async def _came_to(end: Cut, ledger: Ledger, boot_id: BootId) -> bool:
    latest_s = asyncio.get_running_loop().time() + LONGEST_S
    while asyncio.get_running_loop().time() < latest_s:
        decided = [one.rule for stamp, one in await ledger.decisions(1) if stamp.boot_id == boot_id]
        if end(Look(ledger.memory(), ledger.last_seq(), decided[0] if decided else "")):
            return True
        await asyncio.sleep(LOOK_S)
    return False


def _rests(state: Path, decided: Cut, hub: Hub, ledger: Ledger, engine: Engine) -> Cut:
    """What runs is whole, too: that somebody edited it is found beside all else, and a moment later."""

    def rests(look: Look) -> bool:
        all_there = hub.away or ledger.stored() >= look.last_seq
        if not all_there or look.memory.mending is not None or not decided(look):
            return False
        release = state / "releases" / (look.memory.standing or "none")
        if differences(release, state / "content"):
            return False
        plans = decode_json((release / "release.json").read_bytes(), type=Release).services
        return {one.service: one.inputs for one in engine.running()} == {one.name: one.inputs for one in plans}

    return rests


def _has_decided(remote: Path) -> Cut:
    wanted = branch_of_folder(Remote(str(remote)), "main")
    return lambda look: look.rule == "rest" and settled(look.memory, wanted)


def _rests_in_safe_mode(state: Path) -> Cut:
    """It has come there, and nobody has ordered anything else."""
    spool = state / SPOOL

    def rests(look: Look) -> bool:
        return look.rule == "rest.safe" and is_safe(look) and not any(spool.glob("*.json"))

    return rests


def is_safe(look: Look) -> bool:
    """Whether the safe-mode stack is what runs."""
    return look.memory.safe is not None and look.memory.safe.applied


def settled(memory: Memory, wanted: CommitId | None) -> bool:
    """Whether the device has made up its mind about ``wanted``."""
    if memory.trial is not None or memory.confirmed is None or wanted is None:
        return False
    return memory.confirmed.commit == wanted or memory.refusal_of(wanted) is not None


def _parts(
    state: Path, remote: Path, boot_id: BootId, *, ledger: Ledger, engine: Engine, hub: Hub, releases: Releases
) -> Parts:
    now_s = asyncio.get_running_loop().time
    clock = Clock(
        boot_id=boot_id,
        boot_s=now_s,
        utc=lambda: EPOCH + timedelta(seconds=now_s()),
        synchronised=lambda: True,
    )
    git = InlineGit(state / "mirror.git")
    with leftovers.locked(state / "mirror.git"):
        leftovers.sweep(state / "mirror.git")
    return Parts(
        identity=Identity(fleet=FLEET, device=DEVICE, agent_version="0"),
        pace=PACE,
        remotes=(str(remote),),
        git=git,
        releases=releases,
        runtime=Staging(
            git=git,
            store=releases,
            engine=engine,
            project=PROJECT,
            safe_mode=SHIPPED_SAFE_MODE,
            leftovers=Leftovers(),
        ),
        engine=engine,
        probe=SimulatedProbe(engine, now_s),
        ledger=ledger,
        bus=hub,
        clock=clock,
        vitals=SimulatedVitals(str(DEVICE), now_s),
        orders=Orders(
            spool=Spool(state / SPOOL), wake=Wake(clock.now_s), now_s=clock.now_s, chance=random.Random(2).random
        ),
        notary=Notary(verify=verified),
        chance=random.Random(1).random,
    )


def main() -> None:
    """Live until at rest; 1 when it does not come to rest."""
    machine, remote, boot_id, *how = sys.argv[1:]
    life = live(Path(machine), Path(remote), boot_id, safe="safe" in how)
    if not life.rested:
        print("\n".join(life.story), f"hub: {life.hub.watermarks}", sep="\n", file=sys.stderr)
    sys.exit(0 if life.rested else 1)


if __name__ == "__main__":
    main()


__all__ = ["DEVICE", "FLEET", "Cut", "Life", "Look", "is_safe", "live", "settled"]
