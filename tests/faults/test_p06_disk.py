"""P6: the disk is full. A real small filesystem, filled by another process: at rest, in updates, cut off, at a start.

Nothing of the agent ends, nothing half-written is used, cleaning begins whoever filled the disk, and when there is
room again the device converges without a restart. Limits are the defaults; the time between looks is shorter here.
"""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.faults.containers import UnixConnection
from tests.faults.full_disk import Way, swept
from tests.fixtures.agent import Agent, until
from tests.fixtures.broker import Broker
from tests.fixtures.small_disk import MIB, SmallDisk
from tests.integration.end_to_end.device import WEB, Device
from tests.integration.end_to_end.private_engine import PrivateEngine
from tests.rota import WHOLE_RUN, share

from metrica_agent.adapters.releases import Releases
from metrica_agent.decisions.strain import StrainLimits
from metrica_agent.settings import HostSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.faults.failures import FailureTable
    from tests.fixtures.git_servers import GitHttpServer

pytestmark = pytest.mark.timeout(300)
LOOK_S, DWELL_S = 0.3, 1.0
SIZE_MIB: Final = 256
PATIENT_S: Final = 90
STRIDES: Final = {
    Way.FIRST: 120,
    Way.UPDATE: 35,
    Way.ROLLBACK: 60,
    Way.INTO_SAFE_MODE: 20,
    Way.OUT_OF_SAFE_MODE: 40,
    Way.START: 20,
    Way.STOP: 8,
}
"""Every so many-th operation that needs room is visited, twice: some four of each way."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that no hub reads: not one record may go, so every hole shows."""
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


class Cramped:
    """A device whose state directory, and whose logs, are on a small disk."""

    def __init__(self, device: Device, disk: SmallDisk, **settings: dict[str, object]) -> None:
        self.device = device
        self.disk = disk
        self.logs = disk.path / "log"
        self.logs.mkdir()
        wiring = device.wiring(
            settings={
                "": {"state_dir": str(disk.path / "state"), "heartbeat_s": 1},
                "host": {"look_s": LOOK_S},
                "strain": {"dwell_s": DWELL_S},
                "cleaning": {"log_folders": [str(self.logs)], "journal_folder": str(self.logs / "journal")},
                **settings,
            }
        )
        device.rewire(wiring)
        device.agent.state = disk.path / "state"

    @property
    def agent(self) -> Agent:
        """The agent."""
        return self.device.agent

    def rotated(self, *sizes_mib: int) -> list[Path]:
        """Let there be rotated logs of such sizes, the first the oldest, and one that is still written."""
        made: list[Path] = []
        for number, size_mib in enumerate(sizes_mib):
            path = self.logs / f"syslog.{len(sizes_mib) - number}.gz"
            path.write_bytes(os.urandom(size_mib * MIB))
            os.utime(path, (number, number))
            made.append(path)
        (self.logs / "syslog").write_text("goes on\n")
        return made

    def waits(self) -> None:
        """Wait until the agent says that updates wait for the disk."""
        until(lambda: "updates wait: the disk" in self.agent.why(), within_s=PATIENT_S, what=self.agent.story)

    def is_sound(self) -> None:
        """Make sure that the ledger is whole, its records are without a hole, and what is confirmed is as published."""
        with closing(sqlite3.connect(f"file:{self.agent.state / 'agent.sqlite'}?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            seqs = [seq for (seq,) in db.execute("SELECT seq FROM outbox ORDER BY seq")]
            (stored,) = db.execute("SELECT stored FROM life").fetchone()
        assert stored == 0
        assert seqs == list(range(1, len(seqs) + 1))
        memory = self.agent.memory()
        assert memory.confirmed is not None
        assert self.device.current() in {memory.confirmed.release, memory.trial.release if memory.trial else None}


@pytest.fixture
def cramped(device: Device) -> Iterator[Cramped]:
    """A device on a small disk."""
    with SmallDisk(SIZE_MIB) as disk:
        try:
            yield Cramped(device, disk)
        finally:
            device.agent.end()
            device.engine.clean()


async def verified(cramped: Cramped) -> None:
    """Make sure that the release that is current is on disk as it was published."""
    releases = Releases(cramped.agent.state)
    current = await releases.current()
    assert current is not None
    assert await releases.verify(current) == ()


@pytest.mark.table
async def test_a_disk_filled_by_somebody_else_is_cleaned_while_updates_wait(
    cramped: Cramped, failure_table: FailureTable
) -> None:
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    device.deploy(within_s=PATIENT_S)
    process = agent.process.pid
    logs = cramped.rotated(10, 10, 10, 10)
    mark, fault = agent.mark(), time.monotonic()
    disk.fill(leave_bytes=18 * MIB)  # 25 are low, 38 enough
    low = agent.wait_for("strain.entered", after=mark, within_s=PATIENT_S)
    assert low.reason == "disk-low"
    assert str(agent.state) in low.message
    cleaned = agent.wait_for("disk.cleaned", after=mark, within_s=PATIENT_S)
    detected_s = time.monotonic() - fault
    assert cleaned.reason == "rotated-logs"
    # As much as is needed, the oldest first, and never what is still written.
    assert cleaned.detail["removed"] == [path.exists() for path in logs].count(False)
    assert [path.exists() for path in logs] == sorted(path.exists() for path in logs)
    assert not logs[0].exists()
    assert (cramped.logs / "syslog").exists()
    agent.wait_for("strain.left", after=mark, within_s=PATIENT_S)
    disk.fill(leave_bytes=18 * MIB)  # again: now the logs were cleaned just now, and nothing more is to be had
    commit = device.push(device.files(page="two"))
    cramped.waits()
    disk.empty()
    device.confirmed(commit, after=mark, within_s=PATIENT_S)
    device.serves("two")
    recovered_s = time.monotonic() - fault
    assert agent.process.pid == process
    cramped.is_sound()
    await verified(cramped)
    shortened_s = HostSettings().look_s - LOOK_S + StrainLimits().dwell_s - DWELL_S
    failure_table.row(
        "Disk full",
        "256 MiB ext4 filled by another process",
        detected_s=detected_s,
        recovered_s=recovered_s,
        shortened_s=shortened_s,
    )


async def test_full_to_the_last_byte_the_agent_lives_and_converges_when_there_is_room(cramped: Cramped) -> None:
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    device.deploy(within_s=PATIENT_S)
    until((agent.state / "reserve").is_dir, what=agent.story)
    process, running = agent.process.pid, device.containers()
    mark = agent.mark()
    disk.keep_full()
    until(lambda: not (agent.state / "reserve").exists(), within_s=PATIENT_S, what=agent.story)
    commit = device.push(device.files(page="two"))
    until(lambda: "ledger_unwritten" in agent.log or "heartbeat_unwritten" in agent.log, within_s=PATIENT_S)
    assert device.containers() == running
    assert agent.process.pid == process
    disk.empty()
    device.confirmed(commit, after=mark, within_s=PATIENT_S)
    assert agent.process.pid == process
    agent.wait_for("reserve.used", after=mark, within_s=PATIENT_S)
    agent.wait_for("reserve.restored", after=mark, within_s=PATIENT_S)
    cramped.is_sound()
    await verified(cramped)


@contextmanager
def naming(seed: int) -> Generator[None]:
    """Begin what a failure says with the seed: of a run that is made again only that first line is told."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 it is told as what it is
        message = f"METRICA_SEED={seed}: {type(error).__name__}: {error}"
        raise AssertionError(message).with_traceback(error.__traceback__) from None


def test_a_failure_of_what_is_drawn_from_a_seed_names_it_first() -> None:
    def is_wrong() -> None:
        assert "one".upper() == "two"

    def never_is() -> None:
        until(lambda: False, within_s=0, what="a fact")

    def breaks() -> None:
        raise OSError("broken")

    for fails in (is_wrong, never_is, breaks):
        with pytest.raises(AssertionError) as found, naming(7):
            fails()
        lines = [line for line in str(found.getrepr()).splitlines() if line.startswith("E ")]
        assert lines[0].removeprefix("E").lstrip().startswith("AssertionError: METRICA_SEED=7: "), lines


@pytest.mark.long
async def test_filled_up_at_random_moments_of_updates_nothing_half_written_is_used(cramped: Cramped) -> None:
    seed = int(os.environ.get("METRICA_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    with naming(seed):
        await filled_up_at_moments(cramped, random.Random(seed))


async def filled_up_at_moments(cramped: Cramped, chance: random.Random) -> None:
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    device.deploy(device.files(page="0"), within_s=PATIENT_S)
    process = agent.process.pid
    for turn in range(1, 6):
        page, mark = str(turn), agent.mark()
        commit = device.push(device.files(page=page))
        moment = time.monotonic() + chance.uniform(0, 4)
        until(lambda moment=moment: time.monotonic() > moment)
        disk.begin_filling()
        until(lambda: disk.free_bytes < MIB, within_s=PATIENT_S)
        moment = time.monotonic() + chance.uniform(0, 2)
        until(lambda moment=moment: time.monotonic() > moment)
        serves = device.engine.read("web", "/www/index.html")
        assert serves in {str(turn - 1), page}, turn
        await verified(cramped)
        disk.empty()
        device.confirmed(commit, after=mark, within_s=PATIENT_S)
        device.serves(page)
        assert agent.process.pid == process
        cramped.is_sound()
        await verified(cramped)


async def test_a_disk_without_inodes_is_low_and_the_agent_goes_on_when_there_are_some(
    device: Device,
) -> None:
    with SmallDisk(SIZE_MIB, inodes=4000) as disk:
        cramped = Cramped(device, disk)
        agent = cramped.agent
        try:
            device.deploy(within_s=PATIENT_S)
            until((agent.state / "reserve").is_dir, what=agent.story)
            process, mark = agent.process.pid, agent.mark()
            disk.fill_inodes()
            low = agent.wait_for("strain.entered", after=mark, within_s=PATIENT_S)
            assert low.reason in {"disk-low", "disk-critical"}
            assert "inodes" in low.message
            commit = device.push(device.files(page="two"))
            assert agent.wait_for("git.unreachable", after=mark, within_s=PATIENT_S).reason == "disk-full"
            # The agent started anew must make its WAL: two inodes, which the reserve has.
            agent.terminate()
            disk.fill_inodes()
            again = agent.mark()
            agent.start()
            agent.wait_for("agent.started", after=again, within_s=PATIENT_S)
            agent.wait_for("reserve.used", after=again, within_s=PATIENT_S)
            disk.empty()
            device.confirmed(commit, after=mark, within_s=PATIENT_S)
            assert process != agent.process.pid
            cramped.is_sound()
            await verified(cramped)
        finally:
            agent.end()
            device.engine.clean()


async def test_started_on_a_full_disk_without_a_reserve_the_agent_cleans_before_it_can_write(cramped: Cramped) -> None:
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    device.deploy(within_s=PATIENT_S)
    mark = agent.mark()
    agent.terminate()
    for part in sorted((agent.state / "reserve").iterdir()):
        part.unlink()
    (agent.state / "reserve").rmdir()
    cramped.rotated(30, 30)
    disk.fill()
    assert disk.free_bytes == 0
    agent.start()
    commit = device.push(device.files(page="two"))
    agent.wait_for("agent.started", after=mark, within_s=PATIENT_S)
    disk.empty()
    device.confirmed(commit, after=mark, within_s=PATIENT_S)
    cramped.is_sound()
    await verified(cramped)


@pytest.mark.long
async def test_while_cut_off_a_full_disk_loses_no_event(cramped: Cramped) -> None:
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    device.rewire(device.wiring(broker_port=9))  # nobody answers there
    device.agent.state = disk.path / "state"
    agent = device.agent
    device.deploy(within_s=PATIENT_S)
    for _ in range(3):
        mark = agent.mark()
        unwritten = agent.log.count("heartbeat_unwritten")
        disk.keep_full()
        until(
            lambda unwritten=unwritten: agent.log.count("heartbeat_unwritten") > unwritten,
            within_s=PATIENT_S,
            what=agent.story,
        )
        disk.empty()
        # What was done. A strain is a state: one that nobody could write down before it was over is none.
        for kind in ("reserve.used", "reserve.restored"):
            agent.wait_for(kind, after=mark, within_s=PATIENT_S)
        until(lambda: not any(agent.memory().strain.levels), within_s=PATIENT_S, what=agent.story)
        cramped.is_sound()
    kinds = [event.kind for event in agent.told("strain.entered", "strain.left")]
    assert kinds[-1:] in ([], ["strain.left"])


# --- no room at one operation after the other ------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_room_at_any_operation_leaves_ledger_outbox_and_what_runs_intact(
    busybox: str, say: Callable[[str], None]
) -> None:
    """A share of what ``./scripts/soak full`` visits: some operations, of one way for each commit in a whole run."""
    assert busybox
    number, ways = share(len(Way) * max(STRIDES.values())), list(Way)
    for way in [ways[number % len(ways)]] if WHOLE_RUN in os.environ else ways:
        stride = STRIDES[way]
        tally = swept(ways=(way,), first=number // len(ways) % stride + 1, stride=stride, parallel=2)
        say(f"full disk, {way}: {tally.line()}")
        assert tally.violations == [], "\n".join(tally.violations)
        assert tally.reached.total() > 0, tally.line()


# --- images ----------------------------------------------------------------------------------------------------


def image(engine: PrivateEngine, name: str, size_mib: int) -> str:
    """Make an image of that size that no other shares a byte with; return its id."""
    busybox = Path("/bin/busybox")
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(busybox, "bin/busybox")
            for applet in ("sh", "sleep", "httpd", "wget", "cat"):
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
            ballast = tarfile.TarInfo("ballast")
            ballast.size = size_mib * MIB
            with tempfile.TemporaryFile() as random_bytes:
                random_bytes.write(os.urandom(ballast.size))
                random_bytes.seek(0)
                archive.addfile(ballast, random_bytes)
        file.seek(0)
        command = ["docker", "--host", engine.address, "import", "-", name]
        return subprocess.run(command, stdin=file, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def small_engine(
    tmp_path: Path, busybox: str, served: tuple[Path, GitHttpServer], broker: Broker
) -> Iterator[tuple[Cramped, PrivateEngine]]:
    """A device all of whose state, and all of whose engine's, is on one small disk."""
    from tests.fixtures.git_servers import repository  # noqa: PLC0415

    assert busybox
    with SmallDisk(512) as disk, PrivateEngine(data=disk.path / "docker") as engine:
        root, server = served
        name = f"pi-{engine.project.rpartition('-')[2]}"
        fleet = repository(root, name)
        device = Device(name, tmp_path, fleet, engine, url=server.url(fleet), broker_port=broker.port)
        cramped = Cramped(device, disk, compose={"docker_host": engine.address})
        try:
            yield cramped, engine
        finally:
            device.agent.end()


def wearing(device: Device, name: str, **changes: Any) -> dict[str, str]:
    """Return a fleet repository whose web server runs from the image ``name``."""
    return device.files({"web": {**WEB, "image": name, **changes}}, page=name)


def here(engine: PrivateEngine, *names: str) -> set[str]:
    """Return those of the images that the engine has."""
    listed = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    return {name for name in names if f"{name}:latest" in listed}


@pytest.mark.long
def test_images_that_nothing_kept_needs_go_and_the_way_back_works_at_once_and_offline(
    small_engine: tuple[Cramped, PrivateEngine],
) -> None:
    cramped, engine = small_engine
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    names = ("one", "two", "three", "four")
    for name in names:
        image(engine, name, 20)
    dangling = image(engine, "forgotten", 20)
    image(engine, "forgotten", 1)  # the name moves on
    foreign = image(engine, "of-somebody", 1)
    for name in names:
        device.deploy(wearing(device, name), within_s=PATIENT_S)
    mark = agent.mark()
    running = device.containers()
    disk.fill(leave_bytes=12 * MIB)  # 72 are enough: it takes the nameless one and both that are spare
    cramped.agent.wait_for("strain.entered", after=mark, within_s=PATIENT_S)
    until(lambda: agent.told("disk.cleaned", after=mark), within_s=PATIENT_S, what=agent.story)
    until(lambda: here(engine, *names) == {"three", "four"}, within_s=PATIENT_S, what=agent.story)
    until(
        lambda: {event.reason for event in agent.told("disk.cleaned", after=mark)} >= {"releases", "spare-images"},
        within_s=PATIENT_S,
        what=agent.story,
    )
    ids = engine.docker("image", "ls", "--quiet", "--no-trunc").split()
    assert dangling not in ids
    assert foreign in ids
    assert device.containers() == running
    disk.empty()
    agent.wait_for("strain.left", after=mark, within_s=PATIENT_S)

    mark = agent.mark()
    bad = device.push(wearing(device, "four", command=["sh", "-c", "exit 3"], restart="no"))
    device.refused(bad, after=mark, within_s=PATIENT_S)
    agent.wait_for("rollback.finished", after=mark, within_s=PATIENT_S)
    device.serves("four")
    mark = agent.mark()
    back = device.push(wearing(device, "three"))
    device.confirmed(back, after=mark, within_s=PATIENT_S)
    device.serves("three")


def builds(engine: PrivateEngine, size_mib: int) -> None:
    """Have the engine's BuildKit build an image of that size, and remove the image: what is left of it is build cache.

    By its API: a command line builds with BuildKit only where it has its plugin for it, and the engine can everywhere.
    """
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            files = {"Dockerfile": b"FROM scratch\nCOPY ballast /\n", "ballast": os.urandom(size_mib * MIB)}
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        file.seek(0)
        asked = UnixConnection(engine.address.removeprefix("unix://"))
        with closing(asked):
            asked.request("POST", "/build?version=2&t=built", file.read(), {"Content-Type": "application/x-tar"})
            answer = asked.getresponse()
            said = answer.read().decode(errors="replace")
    assert answer.status == 200, said
    assert "error" not in said, said
    engine.docker("image", "rm", "built")


def cached_bytes(engine: PrivateEngine) -> int:
    """Return how much build cache the engine says that it has."""
    with closing(UnixConnection(engine.address.removeprefix("unix://"))) as asked:
        asked.request("GET", "/system/df?type=build-cache")
        return sum(one["Size"] for one in json.loads(asked.getresponse().read())["BuildCache"] or ())


@pytest.mark.long
def test_what_builds_left_on_the_engine_is_pruned_and_nothing_that_runs_is_touched(
    small_engine: tuple[Cramped, PrivateEngine],
) -> None:
    cramped, engine = small_engine
    device, agent, disk = cramped.device, cramped.agent, cramped.disk
    image(engine, "one", 10)
    device.deploy(wearing(device, "one"), within_s=PATIENT_S)
    builds(engine, 60)
    assert cached_bytes(engine) >= 60 * MIB
    logs = cramped.rotated(1)
    mark, running = agent.mark(), device.containers()
    disk.fill(leave_bytes=30 * MIB)  # 51 are low, 77 enough
    agent.wait_for("strain.entered", after=mark, within_s=PATIENT_S)
    agent.wait_for("strain.left", after=mark, within_s=PATIENT_S)
    cleaned = {event.reason: event for event in agent.told("disk.cleaned", after=mark)}
    assert cached_bytes(engine) == 0
    assert int(cleaned["build-cache"].detail["freed_bytes"] or 0) >= 50 * MIB
    assert logs[0].exists()  # their turn comes after it, and it was enough
    assert device.containers() == running
    assert here(engine, "one") == {"one"}
    device.serves("one")
