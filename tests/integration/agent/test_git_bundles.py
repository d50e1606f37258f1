"""A file of ``git bundle`` as a remote: the same questions, the same bounds, the same answers as a server's."""

from __future__ import annotations

import shutil
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.git_servers import Repository, git, repository
from tests.fixtures.signing import Person, allowed, signed

from metrica_agent.adapters.git import GitMirror
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import NotNow, Unusable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from metrica_fleet.identity import CommitId


@pytest.fixture
def fleet(tmp_path: Path) -> Repository:
    made = repository(tmp_path)
    made.commit({"fleet.toml": 'name = "f"\n'})
    return made


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncGenerator[GitMirror]:
    async with aclosing(GitMirror(tmp_path / "mirror.git", isolation="thread")) as made:
        yield made


def bundled(fleet: Repository, *since: CommitId) -> Path:
    """Return a bundle of the branch, as a metrica makes it."""
    file = fleet.work.parent / f"{fleet.head()[:8]}-{len(since)}.bundle"
    git("bundle", "create", "--quiet", str(file), "main", *(f"^{one}" for one in since), folder=fleet.bare)
    return file


async def test_a_device_is_filled_from_a_bundle_and_goes_on_by_the_next(fleet: Repository, mirror: GitMirror) -> None:
    first, whole = fleet.head(), bundled(fleet)
    assert await mirror.head(str(whole)) == first
    assert await mirror.fetch(str(whole), first, None) is Relation.FIRST
    fleet.commit({"a": "1" * 5000})
    second = fleet.commit({"a": "1" * 5001})
    thin = bundled(fleet, first)
    assert await mirror.head(str(thin)) == second
    assert await mirror.fetch(str(thin), second, first) is Relation.FORWARD
    assert await mirror.fetch(str(whole), first, second) is Relation.BEHIND
    assert await mirror.fetch(str(thin), second, second) is Relation.SAME
    assert await mirror.read(second, ["a"]) == {"a": b"1" * 5001}


async def test_a_shallow_mirror_that_servers_filled_goes_on_by_a_bundle(fleet: Repository, mirror: GitMirror) -> None:
    fleet.commit({"a": "one"})
    have = fleet.commit({"a": "two"})
    assert await mirror.fetch(str(fleet.bare), have, None) is Relation.FIRST
    new = fleet.commit({"a": "three"})
    assert await mirror.fetch(str(bundled(fleet, have)), new, have) is Relation.FORWARD
    newer = fleet.commit({"a": "four"})
    assert await mirror.fetch(str(bundled(fleet)), newer, new) is Relation.FORWARD


async def test_a_lost_mirror_is_made_again_from_a_whole_bundle_only(
    fleet: Repository, mirror: GitMirror, tmp_path: Path
) -> None:
    have = fleet.head()
    await mirror.fetch(str(fleet.bare), have, None)
    new = fleet.commit({"a": "three"})
    shutil.rmtree(tmp_path / "mirror.git")
    with pytest.raises(NotNow, match=f"builds on commit {have[:8]}") as caught:
        await mirror.fetch(str(bundled(fleet, have)), new, have)
    assert caught.value.reason == "commit-missing"
    assert await mirror.fetch(str(bundled(fleet)), new, have) is Relation.FORWARD


async def test_another_history_leaves_nothing_behind(fleet: Repository, mirror: GitMirror) -> None:
    have = fleet.commit({"a": "ours"})
    await mirror.fetch(str(bundled(fleet)), have, None)
    fleet.go_back(1)
    fork = fleet.commit({"a": "theirs"})
    assert await mirror.fetch(str(bundled(fleet)), fork, have) is Relation.DIVERGED
    other = fleet.start_over({"a": "others"})
    assert await mirror.fetch(str(bundled(fleet)), other, have) is Relation.DIVERGED
    for one in (fork, other):
        with pytest.raises(NotNow):
            await mirror.read(one, ["a"])


async def test_commits_in_a_bundle_must_be_signed_where_any_must(
    fleet: Repository, mirror: GitMirror, tmp_path: Path
) -> None:
    alice, mallory = Person.made(tmp_path, "alice"), Person.made(tmp_path, "mallory")
    good = signed(fleet, {"a": "one"}, by=alice)
    assert await mirror.fetch(str(bundled(fleet)), good, None, signers=allowed(alice)) is Relation.FIRST
    bad = signed(fleet, {"a": "two"}, by=mallory)
    with pytest.raises(Unusable) as caught:
        await mirror.fetch(str(bundled(fleet)), bad, good, signers=allowed(alice))
    assert caught.value.reason == "signer-unknown"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "git-corrupt"),
        (b"# v2 git bundle\n", "git-corrupt"),
        (b"# v9 git bundle\n\n", "git-corrupt"),
        (b"# v3 git bundle\n@filter=blob:none\n\n", "git-corrupt"),
        (b"# v2 git bundle\n" + b"-" + b"0" * 40 + b" " * 5000 + b"\n", "git-corrupt"),
        (b"# v2 git bundle\n" + (b"-" + b"0" * 40 + b"\n") * 10_001, "git-corrupt"),
        (b"# v2 git bundle\n\n", "branch-missing"),
    ],
)
async def test_what_is_no_bundle_is_said(content: bytes, reason: str, mirror: GitMirror, tmp_path: Path) -> None:
    (tmp_path / "x.bundle").write_bytes(content)
    with pytest.raises(NotNow) as caught:
        await mirror.head(str(tmp_path / "x.bundle"))
    assert caught.value.reason == reason


@pytest.mark.parametrize("cut", [-1, -25, 200])
async def test_a_bundle_that_is_cut_off_or_garbled_leaves_the_mirror_as_it_was(
    cut: int, fleet: Repository, mirror: GitMirror
) -> None:
    have = fleet.head()
    await mirror.fetch(str(bundled(fleet)), have, None)
    new = fleet.commit({"a": "x" * 10_000})
    file = bundled(fleet)
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    with pytest.raises(NotNow):
        await mirror.fetch(str(file), new, have)
    file.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    with pytest.raises(NotNow):
        await mirror.fetch(str(file), new, have)
    file.write_bytes(whole)
    assert await mirror.fetch(str(file), new, have) is Relation.FORWARD
