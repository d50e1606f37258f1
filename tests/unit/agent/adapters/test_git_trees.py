"""Hostile trees, written object by object: nothing is written outside the target, every refusal has its reason."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from dulwich.repo import Repo

from metrica_agent.adapters.git import Bounds, Exported, GitMirror
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId

PLAIN, RUNS, LINK, FOLDER, MODULE = 0o100644, 0o100755, 0o120000, 0o040000, 0o160000
Entries = list[tuple[bytes, int, "ObjectID | bytes | Entries"]]


class Hostile:
    """A mirror whose objects are whatever a test writes into it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mirror.git"
        self.repo = Repo.init_bare(str(self.path), mkdir=True)
        self.into = folder / "releases" / "new"
        self.into.parent.mkdir()

    def add(self, made: ShaFile) -> ObjectID:
        self.repo.object_store.add_object(made)
        return made.id

    def tree(self, entries: Entries) -> ObjectID:
        """Write a tree byte by byte, so that no library sorts, checks or repairs it."""
        raw = b""
        for name, mode, content in entries:
            raw += f"{mode:o}".encode() + b" " + name + b"\0" + bytes.fromhex(self.named(content).decode())
        return self.add(Tree.from_string(raw))

    def named(self, content: ObjectID | bytes | Entries) -> ObjectID:
        if isinstance(content, list):
            return self.tree(content)
        return ObjectID(content) if len(content) == 40 else self.add(Blob.from_string(content))

    def commit(self, role: Entries) -> CommitId:
        made = Commit()
        made.tree = self.tree([(b"roles", FOLDER, [(b"camera", FOLDER, role)])])
        made.author = made.committer = b"a <a@b>"
        made.author_time = made.commit_time = 0
        made.author_timezone = made.commit_timezone = 0
        made.message = b""
        return CommitId(self.add(made).decode())

    async def export(self, role: Entries, bounds: Bounds | None = None) -> Exported:
        mirror = GitMirror(self.path, bounds=bounds, isolation="thread")
        return await mirror.export(self.commit(role), "roles/camera", self.into)


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


@pytest.fixture
def around(tmp_path: Path) -> Callable[[], set[str]]:
    """Everything below the test's folder that is not Git's."""

    def look() -> set[str]:
        found = (path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
        return {str(path) for path in found if not path.parts[0].startswith("mirror.git")}

    return look


async def test_files_folders_and_tame_links_are_written(hostile: Hostile) -> None:
    told = await hostile.export(
        [
            (b"compose.yaml", PLAIN, b"services: {}"),
            (b"conf", FOLDER, [(b"here", LINK, b"../compose.yaml"), (b"empty", FOLDER, [])]),
            (b"dangling", LINK, b"conf/not-yet"),
            (b"run.sh", RUNS, b"#!/bin/sh"),
        ]
    )
    into = hostile.into
    assert told == Exported(files=4, total_bytes=21)
    assert (into / "compose.yaml").read_bytes() == b"services: {}"
    assert (into / "conf" / "here").readlink() == Path("../compose.yaml")
    assert (into / "conf" / "empty").is_dir()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in into.iterdir() if not path.is_symlink()}
    assert modes == {"compose.yaml": 0o644, "run.sh": 0o755, "conf": 0o755}


async def test_modes_do_not_depend_on_the_umask(hostile: Hostile) -> None:
    before = os.umask(0o077)
    try:
        await hostile.export([(b"a", FOLDER, [(b"b", PLAIN, b"")])])
    finally:
        os.umask(before)
    assert stat.S_IMODE((hostile.into / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((hostile.into / "a" / "b").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "name",
    [
        *(b".", b"..", b"a/b", b"/etc", b"../escape", b"", b".git", b".GIT", b".Git", b"git~1", b".git ", b".git."),
        *(
            b".git::$INDEX_ALLOCATION",
            ".g\u200cit".encode(),
            b"a\nb",
            b"\x1b[2J",
            b"\x7f",
            "\u2028".encode(),
            b"x" * 256,
        ),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("mode", [PLAIN, FOLDER, LINK], ids=["file", "folder", "link"])
async def test_an_unsafe_name_is_refused(
    hostile: Hostile, around: Callable[[], set[str]], name: bytes, mode: int
) -> None:
    content: bytes | Entries = [(b"x", PLAIN, b"x")] if mode == FOLDER else b"x"
    await refused(hostile, around, [(b"good", PLAIN, b""), (name, mode, content)], "path-unsafe")


async def test_a_name_that_is_not_utf8_is_refused(hostile: Hostile, around: Callable[[], set[str]]) -> None:
    await refused(hostile, around, [(b"caf\xe9", PLAIN, b"")], "name-not-utf8", "path-unsafe")


@pytest.mark.parametrize(
    "names",
    [
        (b"Makefile", b"makefile"),
        ("stra\u00dfe".encode(), b"STRASSE"),
        ("\u00e9".encode(), "e\u0301".encode()),
        (b"a", b"a"),
    ],
)
async def test_names_that_are_one_on_another_disk_are_refused(
    hostile: Hostile, around: Callable[[], set[str]], names: tuple[bytes, bytes]
) -> None:
    await refused(hostile, around, [(name, PLAIN, b"") for name in names], "case-collision")


async def test_a_link_and_a_folder_of_the_same_name_are_refused(
    hostile: Hostile, around: Callable[[], set[str]], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    role: Entries = [(b"a", LINK, str(outside).encode()), (b"a", FOLDER, [(b"b", PLAIN, b"written")])]
    await refused(hostile, around, role, "case-collision")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "target",
    [
        *(b"/etc/passwd", b"..", b"../..", b"../other/file", b"in/../../out", b"sub/../../..", b"", b"a\nb", b"loop"),
        *(b"up/x", b"deep/up2/../..", b"x" * 2000, b"./../camera-2"),
    ],
    ids=ascii,
)
async def test_a_link_that_leaves_its_folder_is_refused(
    hostile: Hostile, around: Callable[[], set[str]], target: bytes
) -> None:
    role: Entries = [
        (b"deep", FOLDER, [(b"up2", LINK, b"..")]),
        (b"loop", LINK, b"loop"),
        (b"up", LINK, b".."),
        (b"link", LINK, target),
    ]
    await refused(hostile, around, role, "symlink-escapes")


async def test_a_link_through_a_link_is_followed_as_the_kernel_does(
    hostile: Hostile, around: Callable[[], set[str]]
) -> None:
    role: Entries = [
        (b"a", FOLDER, [(b"b", FOLDER, [(b"c", FOLDER, [(b"f", PLAIN, b"")])])]),
        (b"near", LINK, b"a/b/c"),
        (b"far", LINK, b"near/../../.."),
    ]
    await hostile.export(role)
    assert (hostile.into / "far").resolve() == hostile.into.resolve()
    hostile.into = hostile.into.with_name("other")
    role[-1] = (b"far", LINK, b"near/../../../..")
    await refused(hostile, around, role, "symlink-escapes")


@pytest.mark.parametrize("mode", [0o100600, 0o100664, 0o106755, 0o010644, 0o020644, 0o060644, 0o140644])
async def test_only_plain_modes_are_written(hostile: Hostile, around: Callable[[], set[str]], mode: int) -> None:
    await refused(hostile, around, [(b"x", mode, b"x")], "mode-unsupported", "submodule")


async def test_a_submodule_is_refused(hostile: Hostile, around: Callable[[], set[str]]) -> None:
    await refused(hostile, around, [(b"lib", MODULE, ObjectID(b"1" * 40))], "submodule")


async def test_too_many_files_are_refused(hostile: Hostile, around: Callable[[], set[str]]) -> None:
    many: Entries = [(b"%05d" % number, PLAIN, b"") for number in range(101)]
    await refused(hostile, around, many, "too-many-files", bounds=Bounds(export_files=100))


async def test_a_small_tree_that_names_itself_a_million_times_is_refused(
    hostile: Hostile, around: Callable[[], set[str]]
) -> None:
    level: Entries = [(b"f", PLAIN, b"")]
    tree = hostile.tree(level)
    for _ in range(10):
        tree = hostile.tree([(b"%d" % number, FOLDER, tree) for number in range(10)])
    await refused(hostile, around, [(b"bomb", FOLDER, tree)], "too-many-files")


async def test_too_many_bytes_are_refused_and_what_was_written_is_gone(
    hostile: Hostile, around: Callable[[], set[str]]
) -> None:
    role: Entries = [(b"%d" % number, PLAIN, bytes([number]) * 1000) for number in range(5)]
    await refused(hostile, around, role, "too-large", bounds=Bounds(export_bytes=4000))


async def test_too_deep_folders_are_refused(hostile: Hostile, around: Callable[[], set[str]]) -> None:
    tree = hostile.tree([(b"f", PLAIN, b"")])
    for _ in range(40):
        tree = hostile.tree([(b"d", FOLDER, tree)])
    await refused(hostile, around, [(b"d", FOLDER, tree)], "too-deep")


async def test_a_folder_that_is_no_tree_is_refused_or_fetched_again(hostile: Hostile) -> None:
    blob = hostile.add(Blob.from_string(b"not a tree"))
    with pytest.raises((NotNow, Unusable)):
        await hostile.export([(b"d", FOLDER, blob)])
    assert not hostile.into.exists()


async def test_a_malformed_folder_is_refused(hostile: Hostile, around: Callable[[], set[str]]) -> None:
    for raw in (b"100644", b"100644 x", b"100644 x\0abc", b"xyz x\0" + bytes(20), b" x\0" + bytes(20)):
        name = _raw_object(hostile, raw)
        await refused(hostile, around, [(b"d", FOLDER, name)], "tree-broken")


def _raw_object(hostile: Hostile, raw: bytes) -> ObjectID:
    """Write a loose tree object that no library would write."""
    stored = b"tree %d\0" % len(raw) + raw
    name = hashlib.sha1(stored, usedforsecurity=False).hexdigest()
    path = hostile.path / "objects" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(stored))
    return ObjectID(name.encode())


async def test_asking_for_an_unknown_commit_harms_nothing(hostile: Hostile) -> None:
    commit = hostile.commit([(b"x", PLAIN, b"1")])
    mirror = GitMirror(hostile.path, isolation="thread")
    with pytest.raises(NotNow):
        await mirror.read(CommitId("1" * 40), ["x"])
    assert await mirror.read(commit, ["roles/camera/x"]) == {"roles/camera/x": b"1"}


async def test_a_missing_folder_is_named(hostile: Hostile) -> None:
    commit = hostile.commit([(b"x", PLAIN, b"")])
    mirror = GitMirror(hostile.path, isolation="thread")
    for folder in ("roles/none", "roles/camera/x", "none", "roles/camera/../camera", ""):
        with pytest.raises(Unusable) as caught:
            await mirror.export(commit, folder, hostile.into)
        assert caught.value.reason == "folder-missing"


async def test_a_target_that_exists_is_left_alone(hostile: Hostile) -> None:
    hostile.into.mkdir()
    (hostile.into / "mine").touch()
    with pytest.raises(NotNow) as caught:
        await hostile.export([(b"x", PLAIN, b"")])
    assert caught.value.reason == "target-unusable"
    assert [path.name for path in hostile.into.iterdir()] == ["mine"]


async def test_reading_takes_plain_files_of_a_bounded_size_alone(hostile: Hostile) -> None:
    commit = hostile.commit(
        [(b"big", PLAIN, b"x" * 11), (b"link", LINK, b"small"), (b"small", PLAIN, b"x" * 10), (b"d", FOLDER, [])]
    )
    mirror = GitMirror(hostile.path, bounds=Bounds(blob_bytes=10), isolation="thread")
    read = "roles/camera/"
    found = await mirror.read(commit, [f"{read}small", f"{read}none", f"{read}small/x", "/roles", "../x", f"{read}d/x"])
    assert found == {f"{read}small": b"x" * 10}
    for path, reason in ((f"{read}big", "too-large"), (f"{read}link", "not-a-file"), (f"{read}d", "not-a-file")):
        with pytest.raises(Unusable) as caught:
            await mirror.read(commit, [path])
        assert caught.value.reason == reason


async def test_a_commit_that_is_not_there_is_to_be_fetched(hostile: Hostile) -> None:
    with pytest.raises(NotNow) as caught:
        await GitMirror(hostile.path, isolation="thread").read(CommitId("1" * 40), ["x"])
    assert caught.value.reason == "commit-missing"


async def refused(
    hostile: Hostile,
    around: Callable[[], set[str]],
    role: Entries,
    *reasons: str,
    bounds: Bounds | None = None,
) -> None:
    before = around()
    with pytest.raises(Unusable) as caught:
        await hostile.export(role, bounds)
    assert caught.value.reason in reasons, caught.value.message
    assert caught.value.message.isprintable()
    assert around() == before
