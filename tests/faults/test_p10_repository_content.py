"""P10: whatever is in the repository, nothing is written outside the release, and memory and time stay bounded.

The names, links and modes of hostile trees are in tests/unit/agent/adapters/test_git_trees.py; here are the things that
hurt by their size, sent by a real server to a real Git child, whose memory is measured.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from dulwich.repo import Repo
from tests.fixtures.git_children import git_children
from tests.fixtures.git_servers import Faults, GitHttpServer, Repository, http_server, repository

from metrica_agent.adapters.compose import Engine
from metrica_agent.adapters.git import GitMirror
from metrica_agent.decisions.lineage import Relation
from metrica_agent.decisions.references import require_inside
from metrica_fleet.errors import FleetError, Unusable
from metrica_fleet.identity import CommitId

PLAIN, FOLDER = 0o100644, 0o040000
MEBI = 1024 * 1024
SMALL_MIB = 96
"""What a child that refuses may have taken at most; an idle one takes 33."""
COMMIT, TREE, BLOB, OFFSET_DELTA = 1, 2, 3, 6


class Came(NamedTuple):
    """What came of a call that a child carried out."""

    reason: str
    message: str
    peak_mib: int
    took_s: float


class Hostile:
    """A repository whose objects are whatever a test writes into it, served by git, and a device that follows it."""

    def __init__(self, folder: Path, fleet: Repository, server: GitHttpServer, mirror: GitMirror) -> None:
        self.fleet, self.server, self.mirror, self.into = fleet, server, mirror, folder / "out"
        self.folder = folder

    def written(self, role: ObjectID, *, repo: Repo) -> CommitId:
        """Write a commit whose role folder is ``role``, and make it the branch's head."""
        roles = tree(repo, [(b"camera", FOLDER, role)])
        commit = commit_of(tree(repo, [(b"roles", FOLDER, roles)]))
        repo.object_store.add_object(commit)
        repo.refs[b"refs/heads/main"] = commit.id  # pyright: ignore[reportArgumentType]
        return CommitId(commit.id.decode())

    async def fetch(self, commit: CommitId) -> Came:
        return await measured(self.mirror.fetch(self.server.url(self.fleet), commit, None))

    async def export(self, commit: CommitId) -> Came:
        return await measured(self.mirror.export(commit, "roles/camera", self.into))

    def assert_nothing_is_left(self) -> None:
        """Neither a release nor a pack, and the device goes on with the next good commit."""
        assert not self.into.exists()
        left = [path for path in self.folder.rglob("*") if path.name.startswith(("tmp_", "incoming-"))]
        assert left == []

    async def assert_goes_on(self) -> None:
        self.server.fault = Faults()
        good = self.fleet.commit({"fleet.toml": "good", "roles/camera/compose.yaml": "services: {}"})
        assert await self.mirror.fetch(self.server.url(self.fleet), good, None) is Relation.FIRST
        await self.mirror.export(good, "roles/camera", self.into)
        assert [path.name for path in self.into.iterdir()] == ["compose.yaml"]


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncGenerator[Hostile]:
    fleet = repository(tmp_path / "operator")
    device = tmp_path / "device"
    device.mkdir()
    with http_server(fleet.root) as server:
        async with aclosing(GitMirror(device / "mirror.git")) as mirror:
            yield Hostile(device, fleet, server, mirror)


async def measured(call: Awaitable[object]) -> Came:
    """Await ``call``; return how it ended, and the most memory that a Git child held meanwhile."""
    peak_kib, began = 0, time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(_reason_of(call))
        while not running.done():
            peak_kib = max(peak_kib, _held_kib())
            await asyncio.wait([running], timeout=0.01)
    reason, message = running.result()
    return Came(reason, message, peak_kib // 1024, time.monotonic() - began)


async def _reason_of(call: Awaitable[object]) -> tuple[str, str]:
    try:
        await call
    except FleetError as error:
        return error.reason, error.message
    return "", ""


def _held_kib() -> int:
    """Return the high-water mark of the Git child that lives."""
    for child in git_children():
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    return 0


# --- objects, byte by byte -----------------------------------------------------------------------------------------


def tree(repo: Repo, entries: list[tuple[bytes, int, ObjectID]]) -> ObjectID:
    return added(repo, Tree.from_string(_tree_bytes(entries)))


def _tree_bytes(entries: list[tuple[bytes, int, ObjectID]]) -> bytes:
    return b"".join(
        f"{mode:o}".encode() + b" " + name + b"\0" + bytes.fromhex(target.decode()) for name, mode, target in entries
    )


def added(repo: Repo, made: ShaFile) -> ObjectID:
    repo.object_store.add_object(made)
    return made.id


def commit_of(root: ObjectID) -> Commit:
    made = Commit()
    made.tree = root
    made.author = made.committer = b"a <a@b>"
    made.author_time = made.commit_time = made.author_timezone = made.commit_timezone = 0
    made.message = b""
    return made


class Pack:
    """A pack that is written by hand, so that it can claim what it likes."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.sizes: list[int] = []

    def add(self, kind: int, raw: bytes, *, claims: int | None = None, behind: bytes = b"") -> int:
        """Append an object; return its place."""
        place = 12 + sum(map(len, self.objects))
        size = len(raw) if claims is None else claims
        first, rest = size & 0x0F, size >> 4
        head = bytes([(kind << 4) | first | (0x80 if rest else 0)])
        self.objects.append(head + (_number(rest) if rest else b"") + behind + zlib.compress(raw))
        return place

    def body(self, *, count: int | None = None) -> bytes:
        """Return a server's answer that carries it."""
        number = len(self.objects) if count is None else count
        data = b"PACK" + (2).to_bytes(4, "big") + number.to_bytes(4, "big") + b"".join(self.objects)
        data += hashlib.sha1(data, usedforsecurity=False).digest()
        lines = [b"000dpackfile\n"]
        for start in range(0, len(data), 60_000):
            part = b"\x01" + data[start : start + 60_000]
            lines.append(f"{len(part) + 4:04x}".encode() + part)
        return b"".join(lines) + b"0000"


def _number(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = value >> 7, value & 0x7F
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _offset(distance: int) -> bytes:
    out = bytearray([distance & 0x7F])
    while distance := distance >> 7:
        distance -= 1
        out.insert(0, 0x80 | (distance & 0x7F))
    return bytes(out)


def _copies(source: int, becomes: int) -> bytes:
    """Return a delta that copies the first 64 KiB of a base over and over."""
    whole, rest = divmod(becomes, 0x10000)
    copy_all = b"\x80"  # no offset, no size: 64 KiB from the beginning
    some = b"\xb0" + (rest).to_bytes(2, "little") if rest else b""
    return _number(source) + _number(becomes) + copy_all * whole + some


def pack_with(blobs: list[Blob]) -> tuple[Pack, CommitId]:
    """Return a pack of a commit whose tree names ``blobs``, which are not in it yet."""
    pack = Pack()
    root = Tree.from_string(_tree_bytes([(b"b%d" % number, PLAIN, blob.id) for number, blob in enumerate(blobs)]))
    commit = commit_of(root.id)
    pack.add(COMMIT, commit.as_raw_string())
    pack.add(TREE, root.as_raw_string())
    return pack, CommitId(commit.id.decode())


# --- packs that swell ----------------------------------------------------------------------------------------------


async def refused_pack(hostile: Hostile, body: bytes, commit: CommitId, *reasons: str) -> Came:
    hostile.server.fault = Faults(asking=b"command=fetch", body=body)
    hostile.fleet.commit({"fleet.toml": "1"})
    came = await hostile.fetch(commit)
    assert came.reason in reasons, came.message
    assert came.peak_mib < SMALL_MIB, came
    hostile.assert_nothing_is_left()
    await hostile.assert_goes_on()
    return came


async def test_a_gibibyte_of_zeros_in_a_mebibyte_is_refused_before_it_is_unpacked(hostile: Hostile) -> None:
    deflating = zlib.compressobj()
    zeros = b"".join(deflating.compress(bytes(MEBI)) for _ in range(64)) + deflating.flush()
    pack, commit = pack_with([Blob.from_string(b"stand-in")])
    place = len(pack.objects)
    pack.add(BLOB, b"", claims=1024 * MEBI)
    pack.objects[place] = pack.objects[place][: -len(zlib.compress(b""))] + zeros
    came = await refused_pack(hostile, pack.body(), commit, "fetch-too-large")
    assert "1073741824 bytes" in came.message


async def test_a_delta_that_copies_itself_a_thousand_times_is_refused_before_it_is_applied(hostile: Hostile) -> None:
    base = bytes(MEBI)
    pack, commit = pack_with([Blob.from_string(base)])
    place = pack.add(BLOB, base)
    here = 12 + sum(map(len, pack.objects))
    pack.add(OFFSET_DELTA, _copies(len(base), 1024 * MEBI), behind=_offset(here - place))
    await refused_pack(hostile, pack.body(), commit, "fetch-too-large")


async def test_a_hundred_deltas_of_a_bearable_size_are_refused_for_what_they_become_together(hostile: Hostile) -> None:
    base = bytes(MEBI)
    pack, commit = pack_with([Blob.from_string(base)])
    place = pack.add(BLOB, base)
    for _ in range(100):
        here = 12 + sum(map(len, pack.objects))
        pack.add(OFFSET_DELTA, _copies(len(base), 32 * MEBI), behind=_offset(here - place))
    came = await refused_pack(hostile, pack.body(), commit, "fetch-too-large")
    assert "unpacked" in came.message


async def test_an_object_that_is_larger_than_it_says_is_found_out(hostile: Hostile) -> None:
    pack, commit = pack_with([Blob.from_string(b"x")])
    pack.add(BLOB, bytes(32 * MEBI), claims=1)
    await refused_pack(hostile, pack.body(), commit, "git-corrupt")


@pytest.mark.parametrize("count", [0, 1, 4, 2**32 - 1])
async def test_a_pack_that_miscounts_is_found_out(hostile: Hostile, count: int) -> None:
    pack, commit = pack_with([Blob.from_string(b"x")])
    pack.add(BLOB, b"x")
    await refused_pack(hostile, pack.body(count=count), commit, "git-corrupt", "fetch-too-large", "commit-missing")


@pytest.mark.long
async def test_a_folder_of_a_million_names_is_refused(hostile: Hostile) -> None:
    blob = Blob.from_string(b"x")
    entries = [(b"%06d" % number, PLAIN, blob.id) for number in range(1_000_000)]
    huge = Tree.from_string(_tree_bytes(entries))
    commit = commit_of(huge.id)
    pack = Pack()
    pack.add(COMMIT, commit.as_raw_string())
    pack.add(TREE, huge.as_raw_string())
    pack.add(BLOB, b"x")
    hostile.server.fault = Faults(asking=b"command=fetch", body=pack.body())
    hostile.fleet.commit({"fleet.toml": "1"})
    came = await hostile.fetch(CommitId(commit.id.decode()))
    assert came.reason in {"git-corrupt", "fetch-too-large"}, came.message
    assert came.peak_mib < 512, came
    hostile.assert_nothing_is_left()
    await hostile.assert_goes_on()


# --- trees that are many, deep or turn in circles ------------------------------------------------------------------


async def test_a_hundred_thousand_files_are_fetched_and_refused_at_the_export(hostile: Hostile) -> None:
    with Repo(str(hostile.fleet.bare)) as repo:
        blob = added(repo, Blob.from_string(b"x"))
        inner = tree(repo, [(b"%03d" % number, PLAIN, blob) for number in range(1000)])
        role = tree(repo, [(b"%03d" % number, FOLDER, inner) for number in range(100)])
        commit = hostile.written(role, repo=repo)
    fetched = await hostile.fetch(commit)
    assert fetched.reason == ""
    exported = await hostile.export(commit)
    assert exported.reason == "too-many-files"
    assert max(fetched.peak_mib, exported.peak_mib) < SMALL_MIB
    hostile.assert_nothing_is_left()


async def test_folders_five_thousand_deep_are_fetched_and_refused_at_the_export(hostile: Hostile) -> None:
    with Repo(str(hostile.fleet.bare)) as repo:
        role = tree(repo, [(b"f", PLAIN, added(repo, Blob.from_string(b"x")))])
        for _ in range(5000):
            role = tree(repo, [(b"d", FOLDER, role)])
        commit = hostile.written(role, repo=repo)
    # git itself may refuse to serve it; then nothing came at all
    fetched = await hostile.fetch(commit)
    if not fetched.reason:
        assert (await hostile.export(commit)).reason == "too-deep"
    assert fetched.reason in {"", "git-refused", "git-unreachable", "git-corrupt"}, fetched
    assert fetched.peak_mib < SMALL_MIB
    hostile.assert_nothing_is_left()


async def test_a_tree_that_doubles_forty_times_is_cheap_to_fetch_and_refused_at_the_export(hostile: Hostile) -> None:
    """Forty objects that mean a trillion files."""
    with Repo(str(hostile.fleet.bare)) as repo:
        role = tree(repo, [(b"f", PLAIN, added(repo, Blob.from_string(b"x")))])
        for _ in range(30):
            role = tree(repo, [(b"a", FOLDER, role), (b"b", FOLDER, role)])
        commit = hostile.written(role, repo=repo)
    fetched = await hostile.fetch(commit)
    assert fetched.reason == ""
    exported = await hostile.export(commit)
    assert exported.reason in {"too-many-files", "too-deep"}
    assert max(fetched.peak_mib, exported.peak_mib) < SMALL_MIB
    hostile.assert_nothing_is_left()


async def test_a_release_of_many_large_files_is_refused_and_what_was_written_is_gone(hostile: Hostile) -> None:
    with Repo(str(hostile.fleet.bare)) as repo:
        blob = added(repo, Blob.from_string(bytes(60 * MEBI)))
        role = tree(repo, [(b"%d" % number, PLAIN, blob) for number in range(6)])
        commit = hostile.written(role, repo=repo)
    assert (await hostile.fetch(commit)).reason == ""
    exported = await hostile.export(commit)
    assert exported.reason == "too-large"
    assert exported.peak_mib < 320, exported
    hostile.assert_nothing_is_left()


async def test_a_file_of_a_device_that_is_a_bomb_is_not_read(hostile: Hostile) -> None:
    with Repo(str(hostile.fleet.bare)) as repo:
        blob = added(repo, Blob.from_string(bytes(60 * MEBI)))
        commit = hostile.written(tree(repo, [(b"compose.yaml", PLAIN, blob)]), repo=repo)
    assert (await hostile.fetch(commit)).reason == ""
    came = await measured(hostile.mirror.read(commit, ["roles/camera/compose.yaml"]))
    assert came.reason == "too-large"


# --- Compose files ---------------------------------------------------------------------------------------------


BOMB = "\n".join(
    [
        "x-bomb:",
        "  a0: &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"  a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 9)}]" for one in range(1, 9)),
        "services: {a: {image: x}}",
    ]
)


@pytest.mark.parametrize(
    ("compose", "reason"),
    [
        ("services: {a: {image: x, env_file: /dev/zero}}", "reads-outside"),
        ("services: {a: {image: x, env_file: ../../../../etc/metrica/bus_password}}", "reads-outside"),
        ("services: {a: {extends: {file: /etc/fleet.yaml, service: a}}}", "reads-outside"),
        ("include: ['https://git.invalid/fleet.git']", "reads-outside"),
        (BOMB, "compose-too-large"),
        ("x: " + "[" * 100_000, "compose-too-large"),
        ("x: " + "y" * 2_000_000, "compose-too-large"),
    ],
)
async def test_a_compose_file_that_reads_what_is_not_in_the_commit_or_explodes_is_refused(
    hostile: Hostile, compose: str, reason: str
) -> None:
    commit = hostile.fleet.commit({"fleet.toml": "bad", "roles/camera/compose.yaml": compose})
    await hostile.fetch(commit)
    began = time.monotonic()
    exported = await staged(hostile, commit)
    assert exported.reason == reason, exported
    assert exported.message.isprintable()
    assert exported.peak_mib < 100
    assert time.monotonic() - began < 30
    hostile.assert_nothing_is_left()
    await hostile.assert_goes_on()


async def staged(hostile: Hostile, commit: CommitId) -> Came:
    """Export, and look at what the files name: what staging does before it asks Compose."""

    async def export() -> None:
        exported = await hostile.mirror.export(commit, "roles/camera", hostile.into)
        try:
            require_inside(exported.references, {})
        except FleetError:
            shutil.rmtree(hostile.into)
            raise

    return await measured(export())


async def test_what_compose_may_print_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services:\n  a: {image: x, env_file: /dev/zero}\n")
    engine = Engine("p10", environment=dict(os.environ))
    with pytest.raises(Unusable) as caught:
        await engine.resolve(tmp_path, {})
    assert caught.value.reason == "compose-too-large"
    assert caught.value.message.isprintable()
