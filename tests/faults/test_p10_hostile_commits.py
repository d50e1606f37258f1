"""P10 through the whole agent: commits whose content is hostile come to a device that runs a confirmed release.

Each is refused with its reason within ``BOUND_S`` of its push, writes nothing outside of its release and leaves nothing
of it, and no container is touched. What is hostile is written object by object: git itself would not make it.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, Final

import pytest
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.repo import Repo
from tests.faults.test_p10_repository_content import BLOB, COMMIT, FOLDER, MEBI, PLAIN, TREE, Pack, added, commit_of
from tests.fixtures.agent import until
from tests.fixtures.git_servers import Faults

from metrica_fleet.identity import CommitId

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.git_servers import GitHttpServer
    from tests.integration.end_to_end.device import Device

BOUND_S: Final = 20.0
"""From the push to the event that says why: a poll of 0.5 s, a fetch, an export; at the defaults a minute more."""
LINK: Final = 0o120000
CHANGES: Final = ("agent.sqlite", "mirror.git", "stuck", "reserve", "spare")
"""What of the state directory changes with time, or with any commit."""
CANARY: Final = "canary"
PATHS: Final = ((), (b"roles",), (b"roles", b"camera"))


@pytest.mark.parametrize(
    ("reason", "name", "mode", "text"),
    [
        ("symlink-escapes", b"leak", LINK, b"../../../../../../../../etc/shadow"),
        ("path-unsafe", b"../../../canary", PLAIN, b"overwritten"),
        pytest.param("path-unsafe", b"..", FOLDER, b"overwritten", marks=pytest.mark.long),
    ],
    ids=["a link that leads out", "a name that leads out", "a folder that leads out"],
)
def test_a_commit_that_leads_out_of_its_release_is_refused_and_touches_nothing(
    device: Device, reason: str, name: bytes, mode: int, text: bytes
) -> None:
    device.deploy()
    canary = device.agent.state / CANARY
    canary.write_text("untouched")
    before, mark, began_s = Untouched(device), device.agent.mark(), time.monotonic()
    with Repo(str(device.fleet.bare)) as repo:
        entry = added(repo, Blob.from_string(text))
        if mode == FOLDER:
            inner = Tree()
            inner.add(CANARY.encode(), PLAIN, entry)
            entry = added(repo, inner)
        commit = follow(repo, role=(name, mode, entry))
    refused = device.refused(commit, after=mark, within_s=BOUND_S)
    assert refused.reason == reason
    assert refused.message.isprintable()
    assert time.monotonic() - began_s < BOUND_S
    before.holds()
    assert canary.read_text() == "untouched"
    goes_on(device)


def test_a_commit_whose_pack_swells_is_not_taken_and_touches_nothing(
    device: Device, served: tuple[Path, GitHttpServer]
) -> None:
    """It is no verdict on the commit, but on what came: another remote may have it whole, so it is tried again."""
    _, server = served
    device.deploy()
    before, mark, began_s = Untouched(device), device.agent.mark(), time.monotonic()
    with Repo(str(device.fleet.bare)) as repo:
        tip = tip_of(repo)
        bomb = Blob.from_string(b"stand-in")
        root = Tree()
        root.add(b"bomb", PLAIN, bomb.id)
        made = commit_of(root.id)
        made.parents = [tip]
        pack = Pack()
        pack.add(COMMIT, made.as_raw_string())
        pack.add(TREE, root.as_raw_string())
        pack.add(BLOB, bytes(MEBI), claims=1024 * MEBI)
        server.fault = Faults(where=device.fleet.bare.name, asking=b"command=fetch", body=pack.body())
        try:
            repo.object_store.add_object(bomb)
            repo.object_store.add_object(root)
            publish(repo, made)
            told = device.agent.wait_for("git.unreachable", after=mark, within_s=BOUND_S)
        finally:
            server.fault = Faults()
    assert told.reason == "fetch-too-large"
    assert "1073741824 bytes" in told.message
    assert time.monotonic() - began_s < BOUND_S
    before.holds()
    assert len(zlib.compress(bytes(MEBI))) < MEBI // 100  # it was a small pack


class Untouched:
    """What a hostile commit must not change: the containers, the process, and the names on disk."""

    def __init__(self, device: Device) -> None:
        self._device = device
        device.serves("one")
        until(lambda: list(device.agent.state.glob("spare/*")), what=device.agent.story)
        self._containers = device.containers()
        self._process = device.agent.process.pid
        self._names = self._listed()

    def holds(self) -> None:
        """Fail unless all is as it was."""
        device = self._device
        assert device.containers() == self._containers
        assert device.agent.process.pid == self._process
        device.serves("one")
        # What is being refused is removed a moment after it is told, or before.
        until(lambda: self._listed() == self._names, within_s=5, what=lambda: str(self._listed() ^ self._names))
        mirror = device.agent.state / "mirror.git"
        assert [one.name for one in mirror.rglob("*") if one.name.startswith(("tmp_", "incoming-"))] == []

    def _listed(self) -> frozenset[str]:
        """Return every name around the device's state, and in it."""
        folder = self._device.folder
        paths = (str(path.relative_to(folder)) for path in folder.rglob("*"))
        return frozenset(path for path in paths if not path.startswith(tuple(f"state/{one}" for one in CHANGES)))


def follow(repo: Repo, *, role: tuple[bytes, int, ObjectID]) -> CommitId:
    """Publish a commit that is the newest one with one more entry in its role's folder."""
    tip = repo[tip_of(repo)]
    assert isinstance(tip, Commit)
    root, roles, camera = (Tree.from_string(as_tree(repo, tip.tree, *path).as_raw_string()) for path in PATHS)
    name, mode, target = role
    raw = camera.as_raw_string() + f"{mode:o} ".encode() + name + b"\0" + bytes.fromhex(target.decode())
    roles[b"camera"] = (FOLDER, added(repo, Tree.from_string(raw)))
    root[b"roles"] = (FOLDER, added(repo, roles))
    made = commit_of(added(repo, root))
    made.parents = [tip.id]
    return publish(repo, made)


def as_tree(repo: Repo, tree: ObjectID, *path: bytes) -> Tree:
    """Return a folder of a commit."""
    found = repo[tree]
    assert isinstance(found, Tree)
    return found if not path else as_tree(repo, ObjectID(found[path[0]][1]), *path[1:])


def tip_of(repo: Repo) -> ObjectID:
    """Return the newest commit."""
    return ObjectID(repo.refs[b"refs/heads/main"])  # pyright: ignore[reportArgumentType]


def publish(repo: Repo, commit: Commit) -> CommitId:
    """Make ``commit`` the newest one."""
    repo.object_store.add_object(commit)
    repo.refs[b"refs/heads/main"] = commit.id  # pyright: ignore[reportArgumentType]
    return CommitId(commit.id.decode())


def goes_on(device: Device) -> None:
    """Make sure that the next good commit, which follows the hostile one, is deployed."""
    mark = device.agent.mark()
    with Repo(str(device.fleet.bare)) as repo:
        hostile = repo[tip_of(repo)]
        assert isinstance(hostile, Commit)
        before = repo[hostile.parents[0]]
        assert isinstance(before, Commit)
        root, roles, camera, site = (as_tree(repo, before.tree, *path) for path in (*PATHS, (*PATHS[-1], b"site")))
        site[b"index.html"] = (PLAIN, added(repo, Blob.from_string(b"two")))
        camera[b"site"] = (FOLDER, added(repo, site))
        roles[b"camera"] = (FOLDER, added(repo, camera))
        root[b"roles"] = (FOLDER, added(repo, roles))
        good = commit_of(added(repo, root))
        good.parents = [hostile.id]
        commit = publish(repo, good)
    device.confirmed(commit, after=mark)
    device.serves("two")
