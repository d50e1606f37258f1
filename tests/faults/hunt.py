"""The hunt for lost records: ``./scripts/soak bus``.

A crowd (``metrica_sim.crowd``) tells events over a real broker to a real hub on a real Postgres, while each of them,
and the network between them, is killed, frozen, cut and restored at random; devices are rebooted and cut off as well,
and somebody publishes garbage. In the end each device's diary is compared with the table: every event once, in order.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import msgspec
from tests.fixtures.broker import Broker
from tests.fixtures.database import Cluster, Database
from tests.fixtures.hub import FLEET, Hub
from tests.fixtures.wire import Wire

from metrica_sim.crowd.diary import read_diaries
from metrica_sim.crowd.member import KIND
from metrica_sim.crowd.plan import Plan
from metrica_sim.crowd.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from metrica_sim.crowd.tally import Tally

LIMITS: Final = ("max_queued_bytes 268435456", "message_size_limit 65536", "max_inflight_messages 20")
"""As mosquitto/mosquitto.conf has them."""
ARRIVED: Final = (
    "SELECT device, stream, seq, detail->>'number' FROM events"  # noqa: S608 - a constant of ours
    f" WHERE kind = '{KIND}' ORDER BY device, stream, seq"
)


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it was stored."""

    device: str
    stream: str
    seq: int
    number: int


def misses(told: Mapping[str, Sequence[int]], stored: Sequence[Row]) -> list[str]:
    """Return what is wrong with ``stored`` (by device, stream and seq), given what each device told."""
    wrong: list[str] = []
    by_device: dict[str, list[Row]] = {}
    for row in stored:
        by_device.setdefault(row.device, []).append(row)
    for device in sorted(told.keys() | by_device.keys()):
        rows = by_device.get(device, [])
        counts = Counter(row.number for row in rows)
        lost = sorted(set(told.get(device, ())) - counts.keys())
        twice = sorted(number for number, count in counts.items() if count > 1)
        never_told = sorted(counts.keys() - set(told.get(device, ())))
        for what, numbers in (("lost", lost), ("stored twice", twice), ("never told", never_told)):
            if numbers:
                wrong.append(f"{device}: {what}: {numbers}")
        for before, after in pairwise(rows):
            if before.stream == after.stream and before.number >= after.number:
                wrong.append(f"{device}: out of order: {before} before {after}")
    return wrong


@dataclass(slots=True)
class Stage:
    """The real parts, and what may be done to them."""

    broker: Broker
    cluster: Cluster
    hub: Hub
    to_broker: Wire
    to_database: Wire

    @property
    def troubles(self) -> dict[str, Callable[[Callable[[], None]], None]]:
        """What can go wrong; each takes how to wait before it is over."""
        return {
            "hub killed": self._hub_killed,
            "hub restarted": self._hub_restarted,
            "broker restarted": self._broker_restarted,
            "broker killed": self._broker_killed,
            "broker's disk lost": self._broker_lost,
            "Postgres restarted at once": self._postgres_restarted,
            "Postgres frozen": self._postgres_frozen,
            "hub cut from the broker": lambda wait: self._cut(self.to_broker, wait),
            "hub cut from Postgres": lambda wait: self._cut(self.to_database, wait),
            "network to the broker hangs": lambda wait: self._hung(self.to_broker, wait),
            "network to Postgres hangs": lambda wait: self._hung(self.to_database, wait),
        }

    def _hub_killed(self, wait: Callable[[], None]) -> None:
        self.hub.kill()
        wait()
        self._hub_starts()

    def _hub_restarted(self, wait: Callable[[], None]) -> None:
        self.hub.stop()
        wait()
        self._hub_starts()

    def _hub_starts(self) -> None:
        self.hub.start()
        self.hub.wait_until_ready()

    def _broker_restarted(self, wait: Callable[[], None]) -> None:
        self.broker.stop()
        wait()
        self.broker.start()

    def _broker_killed(self, wait: Callable[[], None]) -> None:
        self.broker.kill()
        wait()
        self.broker.start()

    def _broker_lost(self, wait: Callable[[], None]) -> None:
        self.broker.kill()
        self.broker.forget()
        wait()
        self.broker.start()

    def _postgres_restarted(self, wait: Callable[[], None]) -> None:
        self.cluster.stop(immediate=True)
        wait()
        self.cluster.start()

    def _postgres_frozen(self, wait: Callable[[], None]) -> None:
        self.cluster.freeze()
        wait()
        self.cluster.thaw()

    @staticmethod
    def _cut(wire: Wire, wait: Callable[[], None]) -> None:
        wire.cut()
        wait()
        wire.mend()

    @staticmethod
    def _hung(wire: Wire, wait: Callable[[], None]) -> None:
        wire.hang()
        wait()
        wire.mend()


@dataclass(slots=True)
class Found:
    """What came of a hunt."""

    tally: Tally
    stored: int
    dead_letters: int
    troubles: Counter[str]
    wrong: list[str]

    def line(self) -> str:
        """Return it for people."""
        troubles = ", ".join(f"{name} {count}" for name, count in sorted(self.troubles.items()))
        return (
            f"{self.tally.devices} devices told {self.tally.events} events, {self.stored} are stored,"
            f" {len(self.wrong)} violations; {self.tally.reboots} reboots, {self.tally.cuts} cuts,"
            f" {self.dead_letters} dead letters; {sum(self.troubles.values())} troubles: {troubles}"
        )


@dataclass(slots=True)
class Mischief:
    """One trouble after another, in a thread of its own, until told to end."""

    stage: Stage
    chance: random.Random
    every_s: float
    """Between the end of one and the next, in the mean; each lasts as long, in the mean."""
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter[str])
    failure: BaseException | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def under_way(self, for_s: float) -> Generator[None]:
        """Make trouble from now on, and for ``for_s`` at most; all is well again at the end of the block."""
        timer = threading.Timer(for_s, self._over.set)
        thread = threading.Thread(target=self._run, daemon=True)
        timer.start()
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            timer.cancel()
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        troubles = self.stage.troubles
        deck: list[str] = []
        try:
            while not self._over.wait(self.chance.expovariate(1 / self.every_s)):
                if not deck:
                    deck = sorted(troubles)
                    self.chance.shuffle(deck)
                name = deck.pop()
                lasts_s = self.chance.expovariate(1 / self.every_s)
                self.say(f"{name} for {lasts_s:.1f} s")
                troubles[name](lambda lasts_s=lasts_s: self._wait(lasts_s))
                self.done[name] += 1
        except BaseException as error:  # noqa: BLE001 - told by whoever waits
            self.failure = error

    def _wait(self, seconds: float) -> None:
        self._over.wait(seconds)


def hunt(plan: Plan, *, every_s: float, folder: Path, cluster: Cluster, progress: TextIO) -> Found:
    """Run one hunt with the crowd of ``plan`` (whose broker's port is set here)."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(folder, settings=LIMITS))
        database = stack.enter_context(cluster.database())
        to_broker = stack.enter_context(Wire(broker.port))
        to_database = stack.enter_context(Wire(cluster.port))
        url = database.url.replace(f":{cluster.port}/", f":{to_database.port}/")
        hub = stack.enter_context(Hub(url, to_broker.port))
        hub.wait_until_ready()
        stage = Stage(broker, cluster, hub, to_broker, to_database)

        def say(text: str) -> None:
            progress.write(f"  {text}\n")
            progress.flush()

        mischief = Mischief(stage, random.Random(plan.seed), every_s, say)
        state = folder / "crowd"
        plan = msgspec.structs.replace(plan, fleet=FLEET, host="127.0.0.1", port=broker.port, state=str(state))
        with mischief.under_way(plan.ramp_s + plan.duration_s):
            tally = simulate(plan, progress=progress)
        stored = arrived(cluster, database)
        (letters,) = cluster.execute("SELECT count(*) FROM dead_letters", database.name).splitlines()
        return Found(tally, len(stored), int(letters), mischief.done, misses(read_diaries(state), stored))


def arrived(cluster: Cluster, database: Database) -> list[Row]:
    """Return every event of the crowd that is stored, by device, stream and seq."""
    rows: list[Row] = []
    for line in cluster.execute(ARRIVED, database.name).splitlines():
        device, stream, seq, number = line.split("|")
        rows.append(Row(device, stream, int(seq), int(number)))
    return rows


def main() -> None:
    """Run the hunt that the command line asks for; exit code 1 on any violation."""
    parser = argparse.ArgumentParser(prog="./scripts/soak bus", description="Hunts for lost records.")
    parser.add_argument("--devices", type=int, default=500, metavar="N")
    parser.add_argument("--minutes", type=float, default=20.0, metavar="M")
    parser.add_argument("--every", type=float, default=12.0, metavar="S", help="between troubles, in the mean")
    parser.add_argument("--seed", type=int, metavar="N")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else secrets.randbelow(2**31)
    print(f"seed {seed}", flush=True)
    plan = a_crowd(asked.devices, duration_s=60 * asked.minutes, seed=seed)
    directory = Path("/var/tmp")  # noqa: S108 - Postgres' user must be able to enter it
    with tempfile.TemporaryDirectory(prefix="hunt-") as folder, Cluster(directory, durable=True) as cluster:
        found = hunt(plan, every_s=asked.every, folder=Path(folder), cluster=cluster, progress=sys.stdout)
    for one in found.wrong:
        print(f"VIOLATION {one}")
    print(found.line())
    sys.exit(1 if found.wrong or found.tally.unheard else 0)


def a_crowd(devices: int, *, duration_s: float, seed: int, haste: float = 1.0) -> Plan:
    """Return a crowd in trouble: each device rebooted and cut off about six times an hour."""
    return Plan(
        fleet=FLEET,
        host="127.0.0.1",
        port=1,
        state="",
        devices=devices,
        duration_s=duration_s,
        patience_s=1800.0 / haste,
        heartbeat_s=10.0,
        event_every_s=10.0,
        reboots_an_hour=6.0 * haste,
        cuts_an_hour=6.0 * haste,
        cut_s=30.0 / haste,
        poison_per_s=5.0,
        haste=haste,
        seed=seed,
    )


if __name__ == "__main__":
    main()
