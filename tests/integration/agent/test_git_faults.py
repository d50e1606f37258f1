"""GitMirror against servers that are slow, lie, refuse or die, and against its own sudden death."""

from __future__ import annotations

import asyncio
import fcntl
import random
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fixtures.broker import free_port
from tests.fixtures.git_children import git_children
from tests.fixtures.git_servers import (
    LOOPBACK,
    Faults,
    GitHttpServer,
    Repository,
    git,
    http_server,
    mute_server,
    repository,
    ssh_server,
    tls_context,
)

from metrica_agent.adapters.git import Bounds, GitMirror, SshOptions
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import FleetError, NotNow
from metrica_fleet.identity import CommitId

Make = Callable[..., GitMirror]
COMMIT = CommitId("1" * 40)
QUICK = Bounds(poll_s=1, fetch_s=3)


@pytest.fixture
async def make() -> AsyncGenerator[Make]:
    async with AsyncExitStack() as open_mirrors:

        def made(path: Path, **options: Any) -> GitMirror:
            mirror = GitMirror(path, **options)
            open_mirrors.push_async_callback(mirror.aclose)
            return mirror

        yield made


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit({"fleet.toml": "1", "ballast": noise(1, 300_000)})
    return made


@pytest.fixture
def server(fleet: Repository) -> Generator[GitHttpServer]:
    with http_server(fleet.root) as running:
        yield running


@asynccontextmanager
async def raises(reason: str, *, within: float | None = None) -> AsyncGenerator[pytest.ExceptionInfo[NotNow]]:
    began = time.monotonic()
    with pytest.raises(NotNow) as caught:
        yield caught
    assert caught.value.reason == reason, caught.value.message
    assert within is None or time.monotonic() - began < within


def noise(seed: int, size: int) -> bytes:
    """Return bytes that do not compress, the same every time."""
    return random.Random(seed).randbytes(size)


# --- servers that do not answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Faults(stall=True), Faults(trickle_s=0.3)], ids=["stall", "trickle"])
async def test_over_http_the_deadline_holds(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make, fault: Faults
) -> None:
    server.fault = fault
    mirror = make(tmp_path / "mirror.git", bounds=QUICK)
    async with raises("git-timeout", within=2):
        await mirror.head(server.url(fleet))
    async with raises("git-timeout", within=6):
        await mirror.fetch(server.url(fleet), fleet.head(), None)
    assert git_children() == []
    server.fault = Faults()
    assert await mirror.head(server.url(fleet)) == fleet.head(), "the next poll finds everything free"
    assert await mirror.fetch(server.url(fleet), fleet.head(), None) is Relation.FIRST


@pytest.mark.parametrize("scheme", ["git", "ssh", "https"])
async def test_the_deadline_holds_when_nothing_but_single_bytes_come(tmp_path: Path, make: Make, scheme: str) -> None:
    says = {"git": b"00ff" + b"x" * 251, "ssh": b"S", "https": b"\x16\x03\x03\x40\x00" + bytes(99)}[scheme]
    with mute_server(says=says) as mute:
        mirror = make(tmp_path / "mirror.git", bounds=QUICK)
        url = f"{scheme}://{LOOPBACK}:{mute.port}/fleet.git"
        async with raises("git-timeout", within=2):
            await mirror.head(url)
        async with raises("git-timeout", within=6):
            await mirror.fetch(url, COMMIT, None)
    assert git_children() == []


async def test_a_hanging_ssh_is_dead_after_the_deadline(fleet: Repository, tmp_path: Path, make: Make) -> None:
    with ssh_server(tmp_path / "ssh", forced_command="sleep 600") as sshd:
        options = SshOptions(key_file=str(sshd.key_file), known_hosts_file=str(sshd.known_hosts_file))
        mirror = make(tmp_path / "mirror.git", ssh=options, bounds=QUICK)
        async with raises("git-timeout", within=2):
            await mirror.head(sshd.url(fleet))
        async with raises("git-timeout", within=6):
            await mirror.fetch(sshd.url(fleet), COMMIT, None)
        await _until(lambda: _ssh_with(sshd.key_file) == [])  # it was told to; it need not have gone yet


async def test_cancelling_a_fetch_kills_the_child_and_its_ssh(fleet: Repository, tmp_path: Path, make: Make) -> None:
    with ssh_server(tmp_path / "ssh", forced_command="sleep 600") as sshd:
        options = SshOptions(key_file=str(sshd.key_file), known_hosts_file=str(sshd.known_hosts_file))
        mirror = make(tmp_path / "mirror.git", ssh=options)
        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(mirror.fetch(sshd.url(fleet), COMMIT, None))
            await _until(lambda: bool(_ssh_with(sshd.key_file)))
            fetching.cancel()
        assert fetching.cancelled()
        await _until(lambda: _ssh_with(sshd.key_file) == [])  # it was told to; it need not have gone yet
        assert git_children() == []


async def test_cancelling_a_poll_frees_the_remote_at_once(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    server.fault = Faults(stall=True)
    mirror = make(tmp_path / "mirror.git", bounds=Bounds(poll_s=60))
    async with asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(mirror.head(server.url(fleet)))
        await asyncio.to_thread(server.asked.wait)
        polling.cancel()
    server.fault = Faults()
    began = time.monotonic()
    assert await mirror.head(server.url(fleet)) == fleet.head()
    assert time.monotonic() - began < 30


async def test_polls_of_one_remote_wait_for_each_other(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    mirror = make(tmp_path / "mirror.git")
    found = await asyncio.gather(*(mirror.head(server.url(fleet)) for _ in range(5)))
    assert set(found) == {fleet.head()}
    assert server.connections() == 1


# --- servers that answer something else -----------------------------------------------------------------------------


async def test_nobody_there(fleet: Repository, tmp_path: Path, make: Make) -> None:
    mirror = make(tmp_path / "mirror.git", bounds=QUICK)
    for scheme in ("http", "https", "git", "ssh"):
        url = f"{scheme}://{LOOPBACK}:{free_port()}/fleet.git"
        async with raises("git-unreachable"):
            await mirror.head(url)
        async with raises("git-unreachable"):
            await mirror.fetch(url, fleet.head(), None)


@pytest.mark.parametrize(
    "case",
    [
        (429, {"Retry-After": "30"}, "rate-limited", 30),
        (503, {"Retry-After": "7"}, "rate-limited", 7),
        (429, {}, "rate-limited", 60),
        (429, {"Retry-After": "99999999999"}, "rate-limited", 86_400),
        (403, {"Retry-After": "5"}, "rate-limited", 5),
        (403, {}, "git-auth", None),
        (404, {}, "git-refused", None),
        (301, {"Location": "http://elsewhere/"}, "git-refused", None),
        (500, {}, "git-unreachable", None),
    ],
)
async def test_what_a_status_means(
    server: GitHttpServer,
    fleet: Repository,
    tmp_path: Path,
    make: Make,
    case: tuple[int, dict[str, str], str, float | None],
) -> None:
    status, headers, reason, wait_s = case
    server.fault = Faults(status=status, headers=headers)
    mirror = make(tmp_path / "mirror.git")
    async with raises(reason) as caught:
        await mirror.head(server.url(fleet))
    assert caught.value.retry_after_s == wait_s
    async with raises(reason) as caught:
        await mirror.fetch(server.url(fleet), fleet.head(), None)
    assert caught.value.retry_after_s == wait_s


async def test_a_date_to_wait_for_is_read_against_the_servers_own_clock(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    until = "Wed, 21 Oct 2099 07:28:00 GMT"
    server.fault = Faults(status=429, headers={"Retry-After": until})
    async with raises("rate-limited") as caught:
        await make(tmp_path / "mirror.git").head(server.url(fleet))
    assert caught.value.retry_after_s == 86_400


@pytest.mark.parametrize("body", [b"", b"<html>", b"zzzz", b"0001", b"fff0" + b"x" * 10, b"0008ERR ", b"0000"])
async def test_nonsense_is_no_commit(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make, body: bytes
) -> None:
    mirror = make(tmp_path / "mirror.git")
    server.fault = Faults(body=body)
    with pytest.raises(NotNow):
        await mirror.head(server.url(fleet))
    with pytest.raises(NotNow):
        await mirror.fetch(server.url(fleet), fleet.head(), None)
    server.fault = Faults()
    assert await mirror.head(server.url(fleet)) == fleet.head()


FETCH = b"command=fetch"


@pytest.mark.parametrize(
    "fault",
    [
        Faults(asking=FETCH, truncate=5000),
        Faults(asking=FETCH, garble=-1000),
        Faults(asking=FETCH, garble=-5000),
        Faults(asking=FETCH, body=b"0000"),
        Faults(asking=FETCH, body=b"000dpackfile\n0000"),
        Faults(asking=FETCH, body=b"000dpackfile\n0009\x01PACK0000"),
    ],
    ids=["truncated", "late", "early", "nothing", "no-pack", "stub"],
)
async def test_a_bad_pack_harms_nothing(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make, fault: Faults
) -> None:
    mirror = make(tmp_path / "mirror.git")
    first = fleet.head()
    await mirror.fetch(server.url(fleet), first, None)
    second = fleet.commit({"fleet.toml": "2", "more": noise(2, 20_000)})
    server.fault = fault
    with pytest.raises(NotNow) as caught:
        await mirror.fetch(server.url(fleet), second, first)
    assert caught.value.reason in ("git-unreachable", "git-corrupt", "git-refused", "commit-missing")
    with pytest.raises(NotNow):
        await mirror.try_fetch(server.url(fleet), first, within_s=60)
    assert not (tmp_path / "mirror.git.new").exists()
    assert await mirror.read(first, ["fleet.toml"]) == {"fleet.toml": b"1"}
    server.fault = Faults()
    assert await mirror.fetch(server.url(fleet), second, first) is Relation.FORWARD
    git("fsck", "--strict", folder=tmp_path / "mirror.git")


async def test_a_pack_beyond_the_bound_is_not_taken(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    mirror = make(tmp_path / "mirror.git", bounds=Bounds(fetch_bytes=100_000))
    async with raises("fetch-too-large") as caught:
        await mirror.fetch(server.url(fleet), fleet.head(), None)
    assert caught.value.retry_after_s
    assert not (tmp_path / "mirror.git").exists()
    assert not (tmp_path / "mirror.git.new").exists()


@pytest.mark.long
async def test_a_pack_that_swells_beyond_memory_is_not_taken(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    bomb = fleet.commit({"zeros": bytes(256 * 1024 * 1024)})
    mirror = make(tmp_path / "mirror.git", bounds=Bounds(memory_bytes=200 * 1024 * 1024))
    async with raises("fetch-too-large"):
        await mirror.fetch(server.url(fleet), bomb, None)
    good = fleet.commit({"zeros": None})
    assert await mirror.fetch(server.url(fleet), good, None) is Relation.FIRST


async def test_a_server_that_leaves_files_out_is_found_out_and_does_no_lasting_harm(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    mirror, url = make(tmp_path / "mirror.git"), server.url(fleet)
    first = fleet.head()
    await mirror.fetch(url, first, None)
    second = fleet.commit({"roles/a/compose.yaml": "{}"})
    server.fault = Faults(asking=FETCH, body=_answer_with(_pack(fleet, second, f"{second}^{{tree}}")))
    async with raises("git-corrupt"):
        await mirror.fetch(url, second, first)
    async with raises("commit-missing"):
        await mirror.read(second, ["fleet.toml"])
    server.fault = Faults()
    assert await mirror.fetch(url, second, first) is Relation.FORWARD
    assert await mirror.read(second, ["roles/a/compose.yaml"]) == {"roles/a/compose.yaml": b"{}"}


async def test_a_server_that_sends_the_device_elsewhere_is_not_followed(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    context, trusted = tls_context(tmp_path)
    with http_server(fleet.root, tls=context) as elsewhere:
        lines = ("packfile-uris\n", f"{elsewhere.url(fleet)}/pack sha1 {'0' * 40}\n", "packfile\n")
        body = "".join(f"{len(line) + 4:04x}{line}" for line in lines).encode() + b"0000"
        server.fault = Faults(asking=FETCH, body=body)
        with pytest.raises(NotNow):
            await make(tmp_path / "mirror.git", ca_file=trusted).fetch(server.url(fleet), fleet.head(), None)
        assert elsewhere.seen == []


async def test_a_server_that_sends_another_commit_gives_nothing(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    mirror, url = make(tmp_path / "mirror.git"), server.url(fleet)
    first = fleet.head()
    second = fleet.commit({"fleet.toml": "2"})
    server.fault = Faults(asking=FETCH, body=_answer_with(_pack(fleet, first)))
    async with raises("commit-missing"):
        await mirror.fetch(url, second, None)


# --- sudden death ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("rested", "longest_s"), [(False, 0.5), (True, 0.1)], ids=["newborn", "rested"])
async def test_killed_at_any_moment_the_next_fetch_works(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make, *, rested: bool, longest_s: float
) -> None:
    mirror, url = make(tmp_path / "mirror.git"), server.url(fleet)
    dice = random.Random(4)
    have, newest, killed = None, fleet.head(), 0
    for number in range(24):
        newest = fleet.commit({"fleet.toml": f"{number}", "more": dice.randbytes(200_000)})
        if not rested:
            await mirror.aclose()
            mirror = make(tmp_path / "mirror.git")
        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(_outcome(mirror.fetch(url, newest, have)))
            await _killed_after(dice.uniform(0, longest_s))
        if isinstance(fetching.result(), Exception):
            killed += 1
            relation = await mirror.fetch(url, newest, have)
            assert relation is (Relation.FORWARD if have else Relation.FIRST)
        have = newest
    assert killed >= 6
    assert await mirror.read(newest, ["fleet.toml"]) == {"fleet.toml": b"23"}
    git("fsck", "--strict", folder=tmp_path / "mirror.git")
    leftovers = [*(tmp_path / "mirror.git").rglob("*.lock"), *(tmp_path / "mirror.git").rglob("tmp*")]
    assert leftovers == []


@pytest.mark.parametrize("damage", ["pack", "index", "half", "head", "all"])
async def test_a_damaged_mirror_is_made_anew(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make, damage: str
) -> None:
    path = tmp_path / "mirror.git"
    mirror, url = make(path), server.url(fleet)
    first = fleet.head()
    await mirror.fetch(url, first, None)
    second = fleet.commit({"fleet.toml": "2"})
    _damage(path, damage)
    assert await mirror.fetch(url, second, first) is Relation.FORWARD
    assert await mirror.read(second, ["fleet.toml"]) == {"fleet.toml": b"2"}
    git("fsck", "--strict", folder=path)


async def test_damage_found_on_reading_asks_for_another_fetch(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    path = tmp_path / "mirror.git"
    mirror, url = make(path), server.url(fleet)
    await mirror.fetch(url, fleet.head(), None)
    _damage(path, "pack")
    async with raises("commit-missing"):
        await mirror.export(fleet.head(), "roles", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert await mirror.fetch(url, fleet.head(), fleet.head()) is Relation.SAME
    assert await mirror.read(fleet.head(), ["fleet.toml"]) == {"fleet.toml": b"1"}


async def test_an_object_that_is_damaged_in_a_pack_that_is_well_is_found_and_fetched_again(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    """dulwich can't close a pack to which the error clings that was found in it, and says so in that error's place."""
    path = tmp_path / "mirror.git"
    mirror, url = make(path), server.url(fleet)
    await mirror.fetch(url, fleet.head(), None)
    _damage(path, "object")
    async with raises("commit-missing"):
        await mirror.read(fleet.head(), ["fleet.toml"])
    assert await mirror.fetch(url, fleet.head(), fleet.head()) is Relation.SAME
    assert await mirror.read(fleet.head(), ["fleet.toml"]) == {"fleet.toml": b"1"}


async def test_leftovers_that_can_not_be_looked_for_are_a_trouble_of_the_disk(tmp_path: Path, make: Make) -> None:
    async with raises("disk-failed"):
        await make(tmp_path / "gone" / "mirror.git").clear_leftovers()


async def test_while_another_process_holds_the_mirror_it_is_left_alone(
    server: GitHttpServer, fleet: Repository, tmp_path: Path, make: Make
) -> None:
    mirror = make(tmp_path / "mirror.git")
    with (tmp_path / "mirror.git.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        async with raises("mirror-busy"):
            await mirror.fetch(server.url(fleet), fleet.head(), None)
    assert await mirror.fetch(server.url(fleet), fleet.head(), None) is Relation.FIRST


async def _outcome(call: Awaitable[Relation]) -> Relation | FleetError:
    try:
        return await call
    except FleetError as error:
        return error


async def _killed_after(seconds: float) -> None:
    """Kill the Git child so many seconds into its life, or into its order, where it has been there before."""
    await _until(lambda: bool(git_children()))
    await asyncio.sleep(seconds)  # the moment of death, not a synchronisation
    for child in git_children():
        child.kill()


async def _until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 the process table has no event
            await asyncio.sleep(0.005)


def _ssh_with(key_file: Path) -> list[psutil.Process]:
    """Return the ssh processes that use a key, whoever their parent is by now."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if process.name() == "ssh" and str(key_file) in process.cmdline():
                found.append(process)
    return found


def _pack(fleet: Repository, *objects: str) -> bytes:
    names = [git("rev-parse", name, folder=fleet.work) for name in objects]
    packed = subprocess.run(
        ["git", "pack-objects", "--stdout", "-q"],
        cwd=fleet.work,
        input="\n".join(names).encode(),
        capture_output=True,
        check=True,
    )
    return packed.stdout


def _answer_with(pack: bytes) -> bytes:
    body = b"\x01" + pack
    return b"000dpackfile\n" + f"{len(body) + 4:04x}".encode() + body + b"0000"


def _damage(mirror: Path, what: str) -> None:
    packs = mirror / "objects" / "pack"
    match what:
        case "pack":
            [pack] = packs.glob("*.pack")
            pack.chmod(0o644)
            pack.write_bytes(pack.read_bytes()[:20] + bytes(pack.stat().st_size - 20))
        case "object":  # the end of the last one: the pack opens, and what is in it begins well
            [pack] = packs.glob("*.pack")
            content = pack.read_bytes()
            pack.chmod(0o644)
            pack.write_bytes(content[:-24] + bytes(4) + content[-20:])
        case "index":
            [index] = packs.glob("*.idx")
            index.chmod(0o644)
            index.write_bytes(index.read_bytes()[:100])
        case "half":
            shutil.rmtree(packs)
        case "head":
            (mirror / "HEAD").unlink()
        case _:
            shutil.rmtree(mirror)
