"""A release that somebody altered on disk is restored, whatever was done to it, without Git and without a network."""

from __future__ import annotations

import shutil
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.engine import compose_yaml

from metrica_agent.adapters.releases import spare
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fixtures.engine import Deployer

    from metrica_agent.decisions.world import Release

FILES = {
    "compose.yaml": compose_yaml(
        {"web": {"volumes": ["./site:/www:ro", "./one.txt:/one:ro"], "configs": ["greeting"]}},
        configs={"greeting": {"environment": "GREETING"}},
    ),
    "site/index.html": "hello",
    "site/deep/er.txt": "deeper",
    "one.txt": "one",
    "unmounted.txt": "two",
}


async def published(deployer: Deployer) -> Release:
    return await deployer.stage(FILES, {"GREETING": "good day"})


def contents(deployer: Deployer) -> list[Path]:
    return sorted((deployer.state / "content").iterdir())


def file_content(deployer: Deployer) -> Path:
    return next(path for path in contents(deployer) if path.is_file() and path.read_text() == "one")


def folder_content(deployer: Deployer) -> Path:
    return next(path for path in contents(deployer) if path.is_dir())


def edit(path: Path, text: str = "edited") -> None:
    """Edit in place, under all hard links of the file."""
    inode = path.stat().st_ino
    path.chmod(0o644)
    path.write_text(text)
    assert path.stat().st_ino == inode


def replace(path: Path) -> None:
    """Replace by rename, as editors do."""
    new = path.with_name("new")
    path.parent.chmod(0o755)
    new.write_text("replaced")
    new.rename(path)


def add(path: Path) -> None:
    path.parent.chmod(0o755)
    path.write_text("added")


def remove(path: Path) -> None:
    path.parent.chmod(0o755)
    if path.is_dir():
        for folder in (path, *path.rglob("*")):
            if folder.is_dir():
                folder.chmod(0o755)
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_all(*paths: Path) -> None:
    for path in paths:
        remove(path)


def become_a_folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def link_out(path: Path) -> None:
    remove(path)
    path.symlink_to("/etc/passwd")


def altered_consistently(release: Path) -> None:
    """A file and MANIFEST, so that the two agree."""
    edit(release / "files" / "unmounted.txt", "other")
    text = (release / "MANIFEST").read_text()
    old, new = sha256(b"two").hexdigest(), sha256(b"other").hexdigest()
    assert old in text
    edit(release / "MANIFEST", text.replace(old, new))


WAYS: dict[str, Callable[[Deployer, Path], None]] = {
    "a file edited in place": lambda _, folder: edit(folder / "files/one.txt"),
    "a content edited in place": lambda deployer, _: edit(file_content(deployer)),
    "a file in a content edited in place": lambda deployer, _: edit(folder_content(deployer) / "deep/er.txt"),
    "a file replaced": lambda _, folder: replace(folder / "files/site/index.html"),
    "a content replaced": lambda deployer, _: replace(file_content(deployer)),
    "a file added": lambda _, folder: add(folder / "files/site/more.txt"),
    "a file added to a content": lambda deployer, _: add(folder_content(deployer) / "more.txt"),
    "a file removed": lambda _, folder: remove(folder / "files/unmounted.txt"),
    "a content removed": lambda deployer, _: remove(folder_content(deployer)),
    "all contents removed": lambda deployer, _: remove_all(*contents(deployer)),
    "a file that became a folder": lambda _, folder: become_a_folder(folder / "files/one.txt"),
    "a file that became a link": lambda _, folder: link_out(folder / "files/one.txt"),
    "compose.json edited": lambda _, folder: edit(folder / "compose.json", "{}"),
    "release.json removed": lambda _, folder: remove(folder / "release.json"),
    "MANIFEST edited": lambda _, folder: edit(folder / "MANIFEST", "nonsense"),
    "MANIFEST removed": lambda _, folder: remove(folder / "MANIFEST"),
    "a file and MANIFEST edited to agree": lambda _, folder: altered_consistently(folder),
    "the whole release removed": lambda _, folder: remove(folder),
    "everything removed": lambda deployer, folder: remove_all(folder, *contents(deployer)),
}


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_is_altered_is_found_and_restored(deployer: Deployer, way: str) -> None:
    release = await published(deployer)
    releases, folder = deployer.releases, deployer.releases.folder(release.digest)
    before = await releases.glance(release.digest)
    await releases.keep_spare(release.digest)
    assert await releases.glance(release.digest) == before
    snapshot = tree(deployer.state)

    WAYS[way](deployer, folder)
    assert await releases.glance(release.digest) != before
    assert await releases.verify(release.digest) != ()
    await releases.restore(release.digest)
    assert await releases.verify(release.digest) == ()
    assert await releases.load(release.digest) == release
    assert tree(deployer.state) == snapshot
    assert list((deployer.state / "incoming").iterdir()) == []


def tree(state: Path) -> dict[str, tuple[int, str]]:
    """Return every file of releases and contents with its mode and text."""
    roots = (state / "releases", state / "content")
    files = (path for root in roots for path in root.rglob("*") if not path.is_dir())
    return {str(path): (path.lstat().st_mode, path.read_text()) for path in files}


async def test_restoring_twice_changes_nothing_the_second_time(deployer: Deployer) -> None:
    release = await published(deployer)
    await deployer.releases.keep_spare(release.digest)
    before = await deployer.releases.glance(release.digest)
    await deployer.releases.restore(release.digest)
    assert await deployer.releases.glance(release.digest) == before


async def test_a_release_without_a_copy_is_restored_only_when_it_is_whole(deployer: Deployer) -> None:
    release = await published(deployer)
    await deployer.releases.restore(release.digest)
    edit(file_content(deployer))
    with pytest.raises(NotNow) as failure:
        await deployer.releases.restore(release.digest)
    assert failure.value.reason == "release-lost"


async def test_a_damaged_copy_is_no_copy_and_is_made_anew(deployer: Deployer) -> None:
    release = await published(deployer)
    await deployer.releases.keep_spare(release.digest)
    copy = deployer.state / "spare" / release.digest
    good = copy.read_bytes()
    copy.chmod(0o644)
    copy.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert spare.unpacked(copy.read_bytes()) is None
    copy.unlink()
    await deployer.releases.keep_spare(release.digest)
    assert copy.read_bytes() == good


async def test_large_files_are_not_copied_and_come_from_where_they_are_whole(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "SPARE_BYTES", 6_000)
    large = "large" * 2_000
    compose = compose_yaml({"web": {"volumes": ["./large.bin:/large:ro"]}})
    release = await deployer.stage({"compose.yaml": compose, "large.bin": large})
    await deployer.releases.keep_spare(release.digest)
    assert (deployer.state / "spare" / release.digest).stat().st_size < 6_000
    (content,) = contents(deployer)
    replace(content)
    await deployer.releases.restore(release.digest)
    assert content.read_text() == large
    assert await deployer.releases.verify(release.digest) == ()
    edit(content)  # under both its names
    with pytest.raises(NotNow, match=r"large\.bin|whole nowhere"):
        await deployer.releases.restore(release.digest)


async def test_copies_of_releases_that_went_are_removed(deployer: Deployer) -> None:
    old = await published(deployer)
    await deployer.releases.keep_spare(old.digest)
    new = await deployer.stage({**FILES, "more.txt": "x"}, {"GREETING": "good day"})
    await deployer.releases.sweep({new.digest}, set())
    await deployer.releases.keep_spare(new.digest)
    assert [path.name for path in (deployer.state / "spare").iterdir()] == [new.digest]
