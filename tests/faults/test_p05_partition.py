"""A device that is cut off: its workloads run, what it says is kept inside a bound, and all of it arrives, once."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import pytest
from tests.fixtures.agent import FLEET, until
from tests.fixtures.namespace import Namespace
from tests.integration.end_to_end.device import Device, HubView
from tests.unit.agent.adapters.ledgers import status

from metrica_agent.adapters.ledger.book import Book, Bounds
from metrica_agent.decisions.contact import LOST_S
from metrica_agent.decisions.pace import Pace
from metrica_agent.decisions.world import Saying, Stamp
from metrica_agent.tasks.report import Timing
from metrica_fleet.identity import BootId
from metrica_fleet.records import Event, Vitals
from metrica_fleet.retry import full_jitter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.failures import FailureTable
    from tests.fixtures.broker import Broker
    from tests.fixtures.git_servers import GitHttpServer

pytestmark = pytest.mark.timeout(400)
DAYS: Final = 30
BEAT_S: Final = 60.0
FILES_BYTES: Final = 60 * 2**20
"""What docs/reference/faults.md promises of agent.sqlite with its WAL, however long the device is cut off."""
HUB_STORES_A_SECOND: Final = 20_000
"""docs/reference/performance.md."""
FULL: Final = Vitals(
    load_1m=0.25,
    memory_total_bytes=3_981_234_176,
    memory_available_bytes=3_123_456_789,
    disk_total_bytes=31_012_345_678,
    disk_free_bytes=21_123_456_789,
    temperature_celsius=51.234,
    throttled=False,
    clock_synchronised=False,
)


class CutOff:
    """The real ledger of a device that nobody hears, in fast motion."""

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self._folder = folder
        self.book = Book(folder / "agent.sqlite", bounds)
        self.now_s = 0.0
        self.peak_bytes = 0

    def live(self, days: float, *, event_s: float) -> None:
        """Beat, and tell an event that is always the same but for its message, so many seconds apart."""
        end_s, next_s, minute = self.now_s + days * 86_400, self.now_s, 0
        while self.now_s < end_s:
            self.now_s += BEAT_S
            self.book.heartbeat(self.stamp, status(vitals=FULL))
            while next_s < self.now_s:
                next_s += event_s
                self.tell(f"git.{'un' if minute % 2 else ''}reachable", f"at {self.now_s:.0f}")
                minute += 1
            self.peak_bytes = max(self.peak_bytes, sum(one.stat().st_size for one in self._folder.iterdir()))

    def tell(self, kind: str, message: str) -> None:
        self.book.record(self.stamp, None, [Saying(kind=kind, reason="x", message=message)], None)

    @property
    def stamp(self) -> Stamp:
        return Stamp(boot_id=BootId("0b1e5f6c-0000-4000-8000-000000000000"), uptime_s=self.now_s, at=None)

    def events(self) -> Iterator[Event]:
        after = 0
        while records := self.book.unsent(after, 1000):
            yield from (record for record in records if isinstance(record, Event))
            after = records[-1].seq


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: of these files the size is asked, not whether they last."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
    if not memory.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(prefix="metrica-", dir=memory) as folder:
        yield Path(folder)


def test_thirty_days_cut_off_at_the_default_intervals_stay_within_the_bound(quick_folder: Path) -> None:
    cut_off = CutOff(quick_folder, Bounds())
    cut_off.live(DAYS, event_s=3600.0)
    assert cut_off.peak_bytes <= FILES_BYTES
    events = [event.kind for event in cut_off.events() if event.kind != "outbox.thinned"]
    assert len(events) == DAYS * 24
    cut_off.book.close()


def smaller(share: int) -> Bounds:
    return Bounds(outbox_bytes=Bounds().outbox_bytes // share, events_bytes=Bounds().events_bytes // share)


def test_a_year_cut_off_is_thinned_and_no_event_is_lost(quick_folder: Path) -> None:
    """A 24th of the bound, so a 24th of the time: 360 hours are as 360 days."""
    cut_off = CutOff(quick_folder, smaller(24))
    cut_off.live(360 / 24, event_s=3600.0)
    assert cut_off.peak_bytes <= FILES_BYTES / 24 + 4 * 2**20  # a WAL is 4 MiB before it is begun anew
    events = Counter(event.kind for event in cut_off.events())
    assert events["outbox.thinned"] >= 1
    assert events["git.reachable"] + events["git.unreachable"] == 360
    cut_off.book.close()


def test_a_cause_that_flaps_every_second_does_not_fill_the_disk(quick_folder: Path) -> None:
    cut_off = CutOff(quick_folder, smaller(48))
    cut_off.live(0.2, event_s=1.0)
    times = 0
    kept = 0
    for event in cut_off.events():
        counted = event.detail.get("times", 1)
        times += counted if isinstance(counted, int) else 1
        kept += 1
    assert times == 0.2 * 86_400
    assert kept < times / 10
    before = cut_off.peak_bytes
    cut_off.live(0.1, event_s=1.0)
    assert cut_off.peak_bytes - before < 2**20
    cut_off.book.close()


def test_a_fleet_that_returns_at_once_sends_no_more_than_a_hub_can_store() -> None:
    assert 500 * Pace().per_s <= HUB_STORES_A_SECOND / 2
    cap_s = Timing().reconnect_cap_s
    arrivals = Counter(int(full_jitter(20, number / 500, Timing().reconnect_base_s, cap_s)) for number in range(500))
    assert max(arrivals.values()) <= 500 / cap_s + 1
    assert len(arrivals) == cap_s


# --- the real agent on a network that fails -----------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


LOST_AFTER_S: Final = 3.0


def behind(network: Namespace, device: Device, served: tuple[Path, GitHttpServer], broker: Broker) -> None:
    """Put the agent behind a cable of its own; the container engine's socket is on its own machine."""
    _, server = served
    (url,) = device.agent.wiring.remotes
    remote = url.replace(f"127.0.0.1:{server.port}", f"{network.host}:{network.reach(server.port)}")
    bus = {"host": network.host, "port": network.reach(broker.port)}
    settings = {"bus": bus, "guard": {"network_lost_s": LOST_AFTER_S}}
    device.rewire(device.wiring(remotes=(remote,), settings=settings))
    device.agent.prefix = network.prefix


def arrived(device: Device, hub: HubView) -> bool:
    """Whether the hub has every event of the device, each once and in order."""
    wanted = [(event.seq, event.kind) for event in device.agent.events()]
    return [(one["seq"], one["kind"]) for one in hub.events(device.name)] == wanted


@pytest.mark.long
@pytest.mark.table
def test_a_device_that_is_cut_off_works_on_and_tells_all_of_it_afterwards(
    device: Device,
    hub: HubView,
    network: Namespace,
    served: tuple[Path, GitHttpServer],
    broker: Broker,
    failure_table: FailureTable,
    tmp_path: Path,
) -> None:
    behind(network, device, served, broker)
    agent = device.agent
    device.deploy(within_s=60)
    hub.wait_for_device(device.name, mode="steady", connection="online")
    mark, began_s = agent.mark(), time.monotonic()
    network.cut()

    # What happens meanwhile: somebody tampers, somebody is at the console, somebody pushes.
    device.engine.docker("rm", "--force", device.engine.id("web"))
    agent.wait_for("drift.repaired", after=mark, within_s=60)
    device.serves("one")
    agent.command("hold", "on", "--reason", "a visit while cut off")
    agent.command("hold", "off", "--reason", "the visit is over")
    pushed = device.push(device.files(page="two"))
    lost = agent.wait_for("network.lost", after=mark, within_s=120)
    detected_s = time.monotonic() - began_s
    until(lambda: hub.device(device.name)["connection"] == "offline", within_s=90)
    offline_s = time.monotonic() - began_s
    device.serves("one")

    with (tmp_path / "heard").open("wb") as heard:
        topic = f"metrica/v1/{FLEET}/devices/{device.name}/#"
        command = ["mosquitto_sub", "-R", "-p", str(broker.port), "-t", topic, "-F", "%t"]
        listener = subprocess.Popen(command, stdout=heard)
        try:
            network.mend()
            back = agent.wait_for("network.back", after=lost.seq, within_s=180)
            device.confirmed(pushed, within_s=90)
            until(lambda: arrived(device, hub), within_s=60, what=lambda: f"{hub.events(device.name)}\n{agent.story()}")
        finally:
            listener.terminate()
            listener.wait()
    device.serves("two")
    assert isinstance(back.detail["away_s"], int)
    assert back.detail["away_s"] >= LOST_AFTER_S
    topics = [line.rpartition("/")[2] for line in (tmp_path / "heard").read_text().splitlines()]
    said = [one for one in topics if one not in {"stored", "services"}]
    assert said[:3] == ["presence", "status", "records"]  # what is, what runs perhaps among it, before what was
    failure_table.row(
        "Network partition",
        "every packet of the device vanishes; told by the device itself",
        detected_s=detected_s,
        recovered_s=time.monotonic() - began_s,
        shortened_s=LOST_S - LOST_AFTER_S,
    )
    failure_table.row(
        "Network partition",
        "the same; seen by the hub (last will, or silence)",
        detected_s=offline_s,
        recovered_s=offline_s,
    )


@pytest.mark.long
def test_hub_and_git_that_go_in_the_middle_of_a_trial_roll_nothing_back(
    device: Device, hub: HubView, network: Namespace, served: tuple[Path, GitHttpServer], broker: Broker
) -> None:
    """The soak is longer than a bus that just hangs goes unnoticed: the trial ends knowing that it is alone."""
    behind(network, device, served, broker)
    agent = device.agent
    device.deploy(within_s=60)
    hub.wait_for_device(device.name, mode="steady", connection="online")
    mark = agent.mark()
    commit = device.push(device.files(page="two", health="soak_s = 60\nstart_deadline_s = 6"))
    device.soaking()
    network.cut()
    lost = agent.wait_for("network.lost", after=mark, within_s=60)
    confirmed = device.confirmed(commit, after=mark, within_s=90)
    assert confirmed.seq > lost.seq, agent.story()  # it was known before the verdict
    device.serves("two")
    assert all(one["commit"] != commit for one in hub.events(device.name) if one["kind"] == "release.confirmed")
    network.mend()
    agent.wait_for("network.back", after=lost.seq, within_s=180)
    until(lambda: arrived(device, hub), within_s=60, what=lambda: f"{hub.events(device.name)}\n{agent.story()}")
    kinds = Counter(event.kind for event in agent.events() if event.seq > mark)
    assert kinds["release.trial_started"] == kinds["release.confirmed"] == 1, agent.story()
    assert not [kind for kind in kinds if kind.startswith("rollback") or kind.endswith("refused")], agent.story()
    device.serves("two")


def test_a_slow_and_lossy_network_is_a_network(
    device: Device, hub: HubView, network: Namespace, served: tuple[Path, GitHttpServer], broker: Broker
) -> None:
    behind(network, device, served, broker)
    device.deploy(within_s=60)
    network.slow(64)
    network.lose(0.1)
    commit = device.push(device.files(page="two"))
    device.confirmed(commit, within_s=200)
    device.serves("two")
    network.mend()
    until(lambda: arrived(device, hub), within_s=120, what=device.agent.story)
    hub.wait_for_device(device.name, commit=commit)
