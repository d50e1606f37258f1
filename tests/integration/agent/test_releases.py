"""Releases on a real disk: whole or not there, whatever interrupts."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from metrica_agent.adapters.releases import Releases
from metrica_agent.decisions.render import release_digest, render
from metrica_agent.decisions.world import Release
from metrica_fleet.definition import HealthPolicy, Limits
from metrica_fleet.errors import NotNow, Ours, Unusable
from metrica_fleet.identity import ReleaseDigest, RoleId

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = RoleId("camera")
FILES = {"compose.yaml": "{}", "conf/x": "x", "conf/deep/y": "y", "run": "#!/bin/sh"}


class PowerCutError(Exception):
    """Everything stops here."""


class Fuse:
    """Counts named operations, and breaks at the n-th."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.breaks_at: int | None = None
        self.error: Exception = PowerCutError()

    def __call__(self, operation: str) -> None:
        self.names.append(operation)
        if len(self.names) == self.breaks_at:
            raise self.error


def model(folder: Path, data: str) -> dict[str, Any]:
    def bind(source: str, target: str, *, read_only: bool = True) -> dict[str, Any]:
        return {"type": "bind", "source": source, "target": target, "read_only": read_only}

    volumes = [
        bind(f"{folder}/conf", "/conf"),
        bind(f"{folder}/run", "/run"),
        bind(f"{data}/db", "/db", read_only=False),
    ]
    service = {"image": "i:1", "volumes": volumes, "secrets": [{"source": "s"}]}
    return {"services": {"a": service}, "secrets": {"s": {"environment": "TOKEN"}}}


async def publish(releases: Releases, files: dict[str, str], *, token: str = "") -> Release:
    async with releases.incoming() as work:
        folder = work / "files"
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / "run").chmod(0o755)
        (folder / "conf" / "link").symlink_to("deep/y")
        entries = await releases.manifest(folder)
        variables = {"TOKEN": token}
        health, limits = HealthPolicy(), Limits()
        digest = release_digest(
            role=ROLE, entries=entries, variables=variables, checks=(), health=health, limits=limits
        )
        places = releases.places(folder, ROLE)
        rendered = render(model(folder, places.data), project="p", places=places, entries=entries, variables=variables)
        release = Release(digest=digest, role=ROLE, services=rendered.services, checks=(), health=health, limits=limits)
        await releases.publish(folder, release=release, rendered=rendered, entries=entries)
    return release


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_published_release_is_whole_read_only_and_leaves_nothing_behind(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    release = await publish(releases, FILES)
    assert await releases.complete() == {release.digest}
    assert await releases.load(release.digest) == release
    assert await releases.verify(release.digest) == ()
    assert names_in(tmp_path / "incoming") == set()
    folder = releases.folder(release.digest)
    for path in (folder, *folder.rglob("*"), *(tmp_path / "content").rglob("*")):
        assert path.is_symlink() or stat.S_IMODE(path.stat().st_mode) & 0o222 == 0
    assert stat.S_IMODE((folder / "files/run").stat().st_mode) == 0o555
    lines = (folder / "MANIFEST").read_text().splitlines()
    assert {line.split(" ")[0] for line in lines} == {"100644", "100755", "120000", "content"}


async def test_what_services_mount_is_there_by_its_content(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    release = await publish(releases, FILES, token="to$ken")
    needed = await releases.needs(release)
    assert names_in(tmp_path / "content") == set(needed.contents)
    contents = set((tmp_path / "content").iterdir())
    (folder,) = [path for path in contents if path.is_dir()]
    assert (folder / "x").read_text() == "x"
    assert (folder / "link").read_text() == "y"
    assert sorted(path.read_text() for path in contents if path.is_file()) == ["#!/bin/sh", "to$ken"]
    original = releases.folder(release.digest) / "files" / "conf" / "x"
    assert (folder / "x").stat().st_ino == original.stat().st_ino


async def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    first = await publish(releases, FILES)
    manifest = releases.folder(first.digest) / "MANIFEST"

    def state() -> tuple[int, ...]:
        found = manifest.stat()  # not its atime: the second publication reads it
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_size

    before = state()
    assert await publish(releases, FILES) == first
    assert state() == before


def change(path: Path) -> None:
    path.chmod(0o600)
    path.write_text("changed")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda one: change(one / "files/compose.yaml"), "files/compose.yaml was changed"),
    (lambda one: (one / "files/compose.yaml").unlink(), "files/compose.yaml is missing"),
    (lambda one: (one / "files/new").write_text(""), "files/new was added"),
    (lambda one: change(one / "compose.json"), "compose.json was changed"),
    (lambda one: (one / "files/run").chmod(0o444), "files/run was changed"),
    (lambda one: (one / "MANIFEST").unlink(), "MANIFEST is missing"),
    (lambda one: change(one / "MANIFEST"), "MANIFEST is missing or can't be read"),
    (lambda one: change(one / "release.json"), "release.json was changed"),
    (lambda one: os.mkfifo(one / "files/pipe"), "files/pipe is neither"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
async def test_damage_is_found_and_publishing_again_repairs_it(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    releases = Releases(tmp_path)
    release = await publish(releases, FILES)
    folder = releases.folder(release.digest)
    folder.chmod(0o755)
    (folder / "files").chmod(0o755)
    damage(folder)
    assert [one for one in await releases.verify(release.digest) if one.startswith(told)]
    await publish(releases, FILES)
    assert await releases.verify(release.digest) == ()
    assert await releases.load(release.digest) == release
    assert names_in(tmp_path / "incoming") == set()


async def test_damage_of_what_is_mounted_is_found_and_repaired(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    release = await publish(releases, FILES)
    change(releases.folder(release.digest) / "files/conf/x")
    found = await releases.verify(release.digest)
    assert len(found) == 2
    assert any(one.startswith("content/") for one in found)
    await publish(releases, FILES)
    assert await releases.verify(release.digest) == ()


async def test_a_power_cut_at_any_operation_leaves_the_release_whole_or_not_there(tmp_path: Path) -> None:
    everything = Fuse()
    await publish(Releases(tmp_path / "all", at=everything), FILES)
    assert {"stage:write", "stage:fsync", "content:rename", "stage:rename"} < set(everything.names)
    for number in range(1, len(everything.names) + 1):
        fuse = Fuse()
        fuse.breaks_at = number
        root = tmp_path / f"{number}"
        with pytest.raises(PowerCutError):
            await publish(Releases(root, at=fuse), FILES)
        again = Releases(root)
        await again.clear_leftovers()
        for digest in await again.complete():
            assert await again.verify(digest) == ()
        release = await publish(again, FILES)
        assert await again.verify(release.digest) == ()
        assert await again.clear_leftovers() == ()


async def test_no_room_at_any_operation_leaves_nothing_behind_and_the_next_try_succeeds(tmp_path: Path) -> None:
    async def made(releases: Releases) -> Release:
        release = await publish(releases, FILES)
        await releases.keep_spare(release.digest)
        return release

    everything = Fuse()
    await made(Releases(tmp_path / "all", at=everything))
    removing = [number for number, name in enumerate(everything.names, start=1) if name.endswith(":remove")]
    for number in range(1, len(everything.names) + 1):
        if number in removing:
            continue  # a full disk is no reason for it to fail
        fuse = Fuse()
        fuse.breaks_at, fuse.error = number, OSError(errno.ENOSPC, "No space left on device")
        releases = Releases(tmp_path / f"{number}", at=fuse)
        with pytest.raises(NotNow) as trouble:
            await made(releases)
        assert trouble.value.reason == "disk-full"
        assert list((tmp_path / f"{number}").glob("incoming/*")) == [], everything.names[number - 1]
        release = await made(releases)
        assert await releases.verify(release.digest) == ()


async def test_a_power_cut_while_switching_leaves_the_old_or_the_new_one_current(tmp_path: Path) -> None:
    fuse = Fuse()
    releases = Releases(tmp_path, at=fuse)
    old, new = await publish(releases, FILES), await publish(releases, {**FILES, "more": ""})
    await releases.switch(old.digest)
    for number in range(1, 4):
        fuse.breaks_at = len(fuse.names) + number
        with pytest.raises(PowerCutError):
            await releases.switch(new.digest)
        fuse.breaks_at = None
        assert await Releases(tmp_path).current() in {old.digest, new.digest}
        await releases.clear_leftovers()
        await releases.switch(old.digest)
    await releases.switch(new.digest)
    assert await releases.current() == new.digest
    assert (tmp_path / "current").readlink() == Path(f"releases/{new.digest}")


async def test_a_power_cut_while_sweeping_harms_nothing_that_is_kept(tmp_path: Path) -> None:
    fuse = Fuse()
    releases = Releases(tmp_path, at=fuse)
    keep = await publish(releases, FILES)
    for number in range(1, 30):
        await publish(releases, {**FILES, "conf/x": "other"}, token="other")
        fuse.breaks_at = len(fuse.names) + number
        try:
            await releases.sweep({keep.digest}, set())
        except PowerCutError:
            fuse.breaks_at = None
        else:
            break
        again = Releases(tmp_path)
        await again.clear_leftovers()
        for digest in await again.complete():
            assert await again.verify(digest) == ()
    else:
        pytest.fail("the sweep never came to its end")
    assert await releases.complete() == {keep.digest}
    assert names_in(tmp_path / "content") == set((await releases.needs(keep)).contents)


async def test_current_is_never_swept(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    one, other = await publish(releases, FILES), await publish(releases, {**FILES, "conf/x": "other"})
    await releases.switch(one.digest)
    assert await releases.sweep(set(), set()) == {other.digest}
    assert await releases.verify(one.digest) == ()


async def test_a_full_disk_is_waited_for_and_leaves_nothing(tmp_path: Path) -> None:
    fuse = Fuse()
    releases = Releases(tmp_path, at=fuse)
    old = await publish(releases, FILES)
    fuse.breaks_at, fuse.error = len(fuse.names) + 4, OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(NotNow) as trouble:
        await publish(releases, {**FILES, "more": ""})
    assert trouble.value.reason == "disk-full"
    assert await releases.complete() == {old.digest}
    assert names_in(tmp_path / "incoming") == set()


async def test_a_cancelled_publication_is_over_before_anybody_clears_up(tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(operation: str) -> None:
        if operation == "content:rename":
            reached.set()
            go_on.wait(10.0)

    releases = Releases(tmp_path, at=hold)
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publish(releases, FILES))
        await asyncio.to_thread(reached.wait, 10.0)
        publishing.cancel()
        await asyncio.to_thread(go_on.set)
    (digest,) = await releases.complete()
    assert await releases.verify(digest) == ()
    assert names_in(tmp_path / "incoming") == set()


async def test_data_directories_are_made_and_what_is_in_them_stays(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    release = await publish(releases, FILES)
    await releases.prepare(release)
    (tmp_path / "data" / ROLE / "db" / "rows").write_text("precious")
    await releases.prepare(release)
    assert (tmp_path / "data" / ROLE / "db" / "rows").read_text() == "precious"
    assert await releases.data_directory(ROLE) == tmp_path / "data" / ROLE


async def test_a_release_that_is_not_whole_is_neither_prepared_nor_switched_to(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    release = await publish(releases, FILES)
    nowhere = ReleaseDigest("0" * 64)
    assert await releases.load(nowhere) is None
    with pytest.raises(Ours):
        await releases.switch(nowhere)
    text = next(path for path in (tmp_path / "content").iterdir() if path.is_file())
    text.unlink()
    with pytest.raises(Ours) as lost:
        await releases.prepare(release)
    assert lost.value.reason == "release-lost"


@pytest.mark.parametrize("name", [b"line\nbreak", b"latin-\xe9", b"bell\x07"])
async def test_a_file_name_that_no_manifest_can_hold_is_refused(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(name)).touch()
    with pytest.raises(Unusable) as refusal:
        await Releases(tmp_path).manifest(tmp_path / "in")
    assert refusal.value.reason == "bad-file-name"


async def test_what_is_absent_and_what_is_free_are_told(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    assert await releases.absent((str(tmp_path), "/nowhere/at/all")) == ("/nowhere/at/all",)
    space = await releases.space()
    assert space.free_bytes > 0
    assert space.free_files > 0
