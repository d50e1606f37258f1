"""Git children that stay for the next order: real processes, looked at from outside."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from msgspec import structs
from tests.fixtures.agent import Agent, Wiring, fleet_files
from tests.fixtures.broker import free_port
from tests.fixtures.git_children import git_children
from tests.fixtures.git_servers import (
    Faults,
    GitHttpServer,
    Repository,
    git_daemon,
    http_server,
    repository,
    ssh_server,
    tls_context,
)

import metrica_agent
from metrica_agent.adapters.git import Bounds, SshOptions, nursery, orders
from metrica_agent.adapters.git.child import PATIENCE_S
from metrica_agent.adapters.git.nursery import Nursery
from metrica_fleet.errors import NotNow, Ours
from metrica_fleet.identity import CommitId

NOBODYS = CommitId("1" * 40)
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])
"""For what is the child's alone."""
BOUNDS = Bounds(fetch_s=120.0)
AGENT = """
import asyncio, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from metrica_agent.adapters.git import GitMirror


async def live():
    mirror = GitMirror(Path(sys.argv[2]))
    await mirror.read(sys.argv[3], ["fleet.toml"])
    print("read", flush=True)
    await asyncio.sleep(600)


asyncio.run(live())
"""


@pytest.fixture
async def children() -> AsyncGenerator[Nursery]:
    made = Nursery()
    yield made
    await made.aclose()
    assert git_children() == []


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit({"fleet.toml": "1", "roles/camera/compose.yaml": "services: {}\n", "ballast": os.urandom(200_000)})
    return made


@pytest.fixture
def server(fleet: Repository) -> Generator[GitHttpServer]:
    with http_server(fleet.root) as running:
        yield running


class Asked:
    """What a device asks of its children about one commit."""

    def __init__(self, children: Nursery, fleet: Repository, mirror: Path, *, url: str = "") -> None:
        self.children, self.fleet, self.mirror, self.url = children, fleet, mirror, url or str(fleet.bare)
        self.ssh, self.ca_file, self.bounds = SshOptions(), "", BOUNDS

    def fetching(self, commit: CommitId | None = None) -> orders.Fetch:
        return orders.Fetch(
            mirror=str(self.mirror),
            branch="main",
            url=self.url,
            commit=commit or self.fleet.head(),
            have=None,
            signers=None,
            ssh=self.ssh,
            ca_file=self.ca_file or None,
            bounds=self.bounds,
        )

    def reading(self, *paths: str, commit: CommitId | None = None) -> orders.Read:
        named = paths or ("fleet.toml",)
        return orders.Read(mirror=str(self.mirror), commit=commit or self.fleet.head(), paths=named, bounds=self.bounds)

    def exporting(self, into: Path) -> orders.Export:
        commit, bounds = self.fleet.head(), self.bounds
        return orders.Export(mirror=str(self.mirror), commit=commit, folder="roles", into=str(into), bounds=bounds)

    async def rested(self) -> psutil.Process:
        """Have a fetch and a reading; return the child that waits after them."""
        await self.children.answer(self.fetching(), "a fetch")
        return await self.read_well()

    async def read_well(self) -> psutil.Process:
        assert await self.children.answer(self.reading(), "a reading") == orders.Files(contents={"fleet.toml": b"1"})
        [child] = git_children()
        return child


@pytest.fixture
def asked(children: Nursery, fleet: Repository, tmp_path: Path) -> Asked:
    return Asked(children, fleet, tmp_path / "mirror.git")


def dead(process: psutil.Process) -> bool:
    """Whether a process has ended, be it unreaped; psutil's own ways to wait would reap it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def over(*processes: psutil.Process, within_s: float = 60.0) -> None:
    """Wait for the end of all of them."""
    async with asyncio.timeout(within_s):
        while not all(map(dead, processes)):  # noqa: ASYNC110 the process table has no event
            await asyncio.sleep(0.01)


@contextmanager
def served(asked: Asked, scheme: str, folder: Path) -> Generator[None]:
    """Serve the fleet, and let ``asked`` fetch from there."""
    fleet = asked.fleet
    with ExitStack() as stack:
        match scheme:
            case "http":
                asked.url = stack.enter_context(http_server(fleet.root)).url(fleet)
            case "https":
                context, ca_file = tls_context(folder)
                asked.url = stack.enter_context(http_server(fleet.root, tls=context)).url(fleet)
                asked.ca_file = str(ca_file)
            case "git":
                asked.url = f"{stack.enter_context(git_daemon(fleet.root))}{fleet.bare.name}"
            case "ssh":
                sshd = stack.enter_context(ssh_server(folder / "ssh"))
                asked.url = sshd.url(fleet)
                asked.ssh = SshOptions(key_file=str(sshd.key_file), known_hosts_file=str(sshd.known_hosts_file))
            case _:
                pass
        yield


def held_by(child: psutil.Process) -> set[str]:
    """Return the files that ``child`` holds open, but for what whoever started the tests lets every process inherit."""
    inherited = {one.path for one in psutil.Process().open_files() if os.get_inheritable(one.fd)}
    return {one.path for one in child.open_files()} - inherited


# --- at rest --------------------------------------------------------------------------------------------------------


@ONE_LOOP
@pytest.mark.parametrize("scheme", ["http", "https", "git", "ssh", "file"])
async def test_one_child_fetches_reads_and_exports_and_holds_nothing_of_it(
    asked: Asked, fleet: Repository, tmp_path: Path, scheme: str
) -> None:
    with served(asked, scheme, tmp_path):
        assert isinstance(await asked.children.answer(asked.fetching(), "a fetch"), orders.Related)
        [child] = git_children()
        assert child.net_connections() == []
        assert child.children() == []
        assert held_by(child) == set()
        assert await asked.read_well() == child
        exported = await asked.children.answer(asked.exporting(tmp_path / "out"), "an export")
        assert isinstance(exported, orders.Exported)
        assert git_children() == [child]
        fleet.commit({"more": "2"})
        assert isinstance(await asked.children.answer(asked.fetching(), "a fetch"), orders.Related)
        assert git_children() == [child]
        assert child.net_connections() + child.children() == []
        assert held_by(child) == set()


async def test_an_answer_of_megabytes_comes_whole(asked: Asked, fleet: Repository) -> None:
    ballast = {f"{number}": os.urandom(250_000) for number in range(12)}
    fleet.commit(ballast)
    child = await asked.rested()
    answer = await asked.children.answer(asked.reading(*ballast), "a reading")
    assert answer == orders.Files(contents=ballast)
    assert await asked.read_well() == child


async def test_a_child_that_nobody_asks_ends_by_itself(asked: Asked) -> None:
    child = await asked.rested()
    await over(child)
    assert git_children() == []
    assert await asked.read_well() != child


@ONE_LOOP
async def test_a_child_lives_under_the_bounds_of_its_order_and_is_nice(asked: Asked) -> None:
    child = await asked.rested()
    assert child.nice() == psutil.Process().nice() + 5
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(resource.RLIMIT_AS)[0] == BOUNDS.memory_bytes
    assert child.rlimit(resource.RLIMIT_FSIZE)[0] == BOUNDS.export_bytes
    asked.bounds = structs.replace(BOUNDS, memory_bytes=2 * BOUNDS.memory_bytes, export_bytes=2 * BOUNDS.export_bytes)
    assert await asked.read_well() == child
    assert child.rlimit(resource.RLIMIT_AS)[0] == 2 * BOUNDS.memory_bytes
    assert child.rlimit(resource.RLIMIT_FSIZE)[0] == 2 * BOUNDS.export_bytes
    asked.bounds = BOUNDS
    assert await asked.read_well() == child
    assert child.rlimit(resource.RLIMIT_AS)[0] == BOUNDS.memory_bytes
    assert child.nice() == psutil.Process().nice() + 5


async def test_of_two_that_were_asked_at_once_one_stays(children: Nursery, fleet: Repository, tmp_path: Path) -> None:
    one, other = (Asked(children, fleet, tmp_path / name) for name in ("one.git", "other.git"))
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(children.answer(asked.fetching(), "a fetch")) for asked in (one, other)]
    assert all(isinstance(answer.result(), orders.Related) for answer in answers)
    [child] = git_children()
    assert await other.read_well() == child


async def test_while_one_is_busy_another_is_born(
    children: Nursery, fleet: Repository, server: GitHttpServer, tmp_path: Path
) -> None:
    asked, stuck = (Asked(children, fleet, tmp_path / name) for name in ("one.git", "other.git"))
    rested = await asked.rested()
    stuck.url, server.fault = server.url(fleet), Faults(stall=True)
    async with asyncio.TaskGroup() as tasks:
        fetching = tasks.create_task(children.answer(stuck.fetching(), "a fetch"))
        assert await asyncio.to_thread(server.asked.wait, 60)
        assert await children.answer(asked.reading(), "a reading") == orders.Files(contents={"fleet.toml": b"1"})
        [newborn] = [child for child in git_children() if child != rested]
        fetching.cancel()
    assert await asked.read_well() == newborn


# --- its end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["patience", "the kernel"])
async def test_one_that_ends_just_when_an_order_comes_is_followed_by_another(asked: Asked, by: str) -> None:
    child = await asked.rested()
    if by == "the kernel":
        child.kill()
    # In the loop's own thread, so that the loop has not heard of it when the order comes.
    while not dead(child):
        time.sleep(0.01)  # noqa: ASYNC251 on purpose
    assert await asked.read_well() != child


async def test_a_newborn_that_ends_before_it_begins_is_followed_by_none(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    births = tmp_path / "births"
    monkeypatch.setattr(nursery, "BIRTH", f"open({str(births)!r}, 'a').write('x')")
    with pytest.raises(Ours) as caught:
        await asked.children.answer(asked.reading(), "a reading")
    assert caught.value.reason == "git-child-answer"
    assert births.read_text() == "x"
    assert git_children() == []


async def test_a_cancelled_order_ends_a_child_that_had_rested_and_its_ssh(
    asked: Asked, fleet: Repository, tmp_path: Path
) -> None:
    child = await asked.rested()
    with ssh_server(tmp_path / "ssh", forced_command="sleep 600") as sshd:
        asked.url = sshd.url(fleet)
        asked.ssh = SshOptions(key_file=str(sshd.key_file), known_hosts_file=str(sshd.known_hosts_file))
        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(asked.children.answer(asked.fetching(NOBODYS), "a fetch"))
            async with asyncio.timeout(60):
                while not (started := child.children()):  # noqa: ASYNC110 the process table has no event
                    await asyncio.sleep(0.01)
            fetching.cancel()
        assert fetching.cancelled()
        assert not psutil.pid_exists(child.pid)
        await over(*started)
    assert await asked.read_well() != child


async def test_an_order_past_its_deadline_ends_a_child_that_had_rested(asked: Asked, server: GitHttpServer) -> None:
    child = await asked.rested()
    asked.url, server.fault = server.url(asked.fleet), Faults(stall=True)
    order = structs.replace(asked.fetching(NOBODYS), bounds=structs.replace(BOUNDS, fetch_s=1.0))
    with pytest.raises(NotNow) as caught:
        await asked.children.answer(order, "a fetch")
    assert caught.value.reason == "git-timeout"
    assert not psutil.pid_exists(child.pid)
    assert await asked.read_well() != child


async def test_an_order_that_had_begun_is_not_given_to_another(asked: Asked, server: GitHttpServer) -> None:
    child = await asked.rested()
    asked.url, server.fault = server.url(asked.fleet), Faults(stall=True)
    async with asyncio.TaskGroup() as tasks:
        fetching = tasks.create_task(_reason_of(asked, asked.fetching(NOBODYS)))
        assert await asyncio.to_thread(server.asked.wait, 60)
        child.kill()
    assert fetching.result() == "fetch-too-large"
    assert git_children() == []


@ONE_LOOP
async def test_each_order_has_a_processors_seconds_of_its_own(asked: Asked) -> None:
    asked.bounds = structs.replace(BOUNDS, processor_s=1)
    child = await asked.rested()
    some = asked.reading(*["ballast"] * 100)
    while (used := child.cpu_times()).user + used.system < 2.5:
        assert isinstance(await asked.children.answer(some, "a reading"), orders.Files)
        assert git_children() == [child]
    assert await _reason_of(asked, asked.reading(*["ballast"] * 1_000_000)) == "fetch-too-large"
    assert not psutil.pid_exists(child.pid)
    assert await asked.read_well() != child


@ONE_LOOP
async def test_after_a_failure_a_child_is_not_asked_again(asked: Asked) -> None:
    child = await asked.rested()
    assert await _reason_of(asked, asked.reading(commit=NOBODYS)) == "commit-missing"
    assert not psutil.pid_exists(child.pid)
    child = await asked.read_well()
    assert await _reason_of(asked, asked.reading("roles")) == "not-a-file"
    assert not psutil.pid_exists(child.pid)
    assert await asked.read_well() != child


@pytest.mark.parametrize(
    "leaves",
    [
        "left.append(open('/dev/null'))",
        "left.append(__import__('subprocess').Popen(['sleep', '600']))",
        "left.append(bytes(child.MOST_AT_REST_BYTES))",
        "__import__('sys').stderr.write('a complaint\\n')",
    ],
    ids=["file", "process", "memory", "complaint"],
)
async def test_one_whose_order_leaves_something_answers_and_is_not_asked_again(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    """Nothing that is known does: a library's slip, or hostile content, might."""
    slip = "from metrica_agent.adapters.git import child, trees; left, real = [], trees.read"
    slip += f"; trees.read = lambda order: ({leaves}, real(order))[1]"
    await asked.children.answer(asked.fetching(), "a fetch")
    [unharmed] = git_children()
    unharmed.kill()
    await over(unharmed)
    monkeypatch.setattr(nursery, "BIRTH", nursery.BIRTH.replace("; main()", f"; {slip}; main()"))
    others = set(psutil.Process().children(recursive=True))
    first = await asked.children.answer(asked.reading(), "a reading")
    before = set(psutil.Process().children(recursive=True)) - others
    second = await asked.children.answer(asked.reading(), "a reading")
    assert first == second == orders.Files(contents={"fleet.toml": b"1"})
    await over(*before, within_s=PATIENCE_S - 1)


@ONE_LOOP
async def test_what_a_library_prints_is_no_answer(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    slip = "from metrica_agent.adapters.git import trees; real = trees.read; trees.read = lambda order: "
    slip += "(print('!'), real(order))[1]"
    await asked.children.answer(asked.fetching(), "a fetch")
    await asked.children.aclose()
    monkeypatch.setattr(nursery, "BIRTH", nursery.BIRTH.replace("; main()", f"; {slip}; main()"))
    answer = await asked.children.answer(asked.reading(), "a reading")
    assert answer == orders.Files(contents={"fleet.toml": b"1"})


async def test_with_the_nursery_the_child_at_rest_ends_at_once_and_is_reaped(asked: Asked) -> None:
    child = await asked.rested()
    await asked.children.aclose()
    assert not psutil.pid_exists(child.pid)
    assert isinstance(await asked.children.answer(asked.reading(), "a reading"), orders.Files)
    assert git_children() == [], "a nursery that was closed keeps none"


@ONE_LOOP
async def test_with_an_agent_that_is_killed_the_child_at_rest_ends(asked: Asked, fleet: Repository) -> None:
    await asked.rested()
    await asked.children.aclose()
    sources = str(Path(metrica_agent.__file__).parents[1])
    agent = subprocess.Popen(  # noqa: ASYNC220 it starts at once
        [sys.executable, "-c", AGENT, sources, str(asked.mirror), fleet.head()], stdout=subprocess.PIPE, text=True
    )
    with agent:
        assert agent.stdout is not None
        assert await asyncio.to_thread(agent.stdout.readline) == "read\n"
        [child] = psutil.Process(agent.pid).children()
        agent.kill()
    await over(child, within_s=PATIENCE_S - 1)


def test_an_agent_that_is_told_to_stop_ends_the_child_that_rests(tmp_path: Path) -> None:
    fleet = repository(tmp_path)
    fleet.commit(fleet_files("pi-01", {"camera": {"image": "none"}}))
    settings = {"compose": {"docker_host": "unix:///nonexistent"}, "git": {"require_signatures": False}}
    wiring = Wiring(
        device="pi-01", project="none", remotes=(str(fleet.bare),), broker_port=free_port(), settings=settings
    )
    with Agent(tmp_path, wiring) as agent:
        agent.wait_for("release.staged")
        [child] = git_children(agent.process)
        code, _ = agent.terminate()
    assert code == 0
    assert not psutil.pid_exists(child.pid)


async def _reason_of(asked: Asked, order: orders.Order) -> str:
    """Return why ``order`` came to nothing."""
    try:
        answer = await asked.children.answer(order, "an order")
    except NotNow as error:
        return error.reason
    assert isinstance(answer, orders.NotNowAnswer | orders.UnusableAnswer)
    return answer.reason
