"""The simulated mirror answers as the real one does, on the same histories."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from tests.fixtures.signing import Person, allowed

from metrica_agent.adapters.git import GitMirror
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import FleetError
from metrica_fleet.identity import CommitId
from metrica_sim.network import Network
from metrica_sim.virtual.git import Remote, SimulatedMirror
from metrica_sim.virtual.history import Commit, Content, History
from metrica_sim.virtual.loop import virtually

SCENES = 2 if os.environ.get("METRICA_QUICK") else 6
STEPS = 7


class Twins:
    """One history twice: in simulated remotes and in real repositories."""

    def __init__(self, folder: Path) -> None:
        self.history = History({})
        self.remotes = [Remote(f"file://{folder}/{name}.git") for name in ("one", "two")]
        self.folder = folder
        self.real: dict[CommitId, CommitId] = {}
        self.work = folder / "work"
        self._git("init", "--quiet", "--initial-branch=main", str(self.work), at=folder)
        for remote in self.remotes:
            self._git(
                "init", "--quiet", "--bare", "--initial-branch=main", remote.url.removeprefix("file://"), at=folder
            )

    def _git(self, *words: str, at: Path) -> str:
        people = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {**os.environ, **people, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        done = subprocess.run(["git", *words], cwd=at, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, *parents: Commit, by: Person | None = None, signers: str | None = None) -> Commit:
        made = self.history.commit(Content(signers=signers), *parents, by=f"{by.name}@example.org" if by else None)
        (self.work / "file").write_text(made.id)
        (self.work / "allowed_signers").unlink(missing_ok=True)
        if signers is not None:
            (self.work / "allowed_signers").write_text(signers)
        self._git("add", "--all", at=self.work)
        tree = self._git("write-tree", at=self.work)
        above = [word for parent in parents for word in ("-p", self.real[parent.id])]
        key = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={by.key}") if by else ()
        flag = ("-S",) if by else ()
        self.real[made.id] = CommitId(self._git(*key, "commit-tree", tree, *above, *flag, "-m", made.id, at=self.work))
        return made

    def push(self, remote: Remote, commit: Commit) -> None:
        remote.take(commit)
        where = remote.url.removeprefix("file://")
        self._git("push", "--quiet", "--force", where, f"{self.real[commit.id]}:refs/heads/main", at=self.work)

    async def simulated(self, asks: list[Asked]) -> list[str]:
        mirror = SimulatedMirror(self.history, self.remotes, Network(), lambda: 0.5)
        return [await _answer(mirror, asked, asked.commit, asked.have) for asked in asks]

    async def really(self, asks: list[Asked]) -> list[str]:
        mirror = GitMirror(self.folder / "mirror.git", isolation="thread")
        return [
            await _answer(mirror, asked, self.real[asked.commit], self.real[asked.have] if asked.have else None)
            for asked in asks
        ]


class Asked(NamedTuple):
    """What a mirror is asked for."""

    url: str
    commit: CommitId
    have: CommitId | None
    signers: str | None = None


async def _answer(mirror: GitMirror | SimulatedMirror, asked: Asked, commit: CommitId, have: CommitId | None) -> str:
    try:
        return str(await mirror.fetch(asked.url, commit, have, signers=asked.signers))
    except FleetError as error:
        return error.reason


@pytest.mark.parametrize("seed", range(SCENES))
def test_relations_are_found_out_as_by_the_real_mirror(seed: int, tmp_path: Path) -> None:
    chance, twins = Random(seed), Twins(tmp_path)
    commits = [twins.commit()]
    for _ in range(6):
        parents = chance.sample(commits, k=min(len(commits), chance.choice((1, 1, 1, 2))))
        commits.append(twins.commit(*(parents if chance.random() < 0.85 else ())))
    asks: list[Asked] = []
    have: CommitId | None = None
    for _ in range(STEPS):
        remote = chance.choice(twins.remotes)
        twins.push(remote, chance.choice(commits))
        assert remote.head is not None
        asks.append(Asked(remote.url, remote.head.id, have))
        if have is None:
            have = remote.head.id
    # Pushes only add objects, so every commit that was asked for is still given by its remote.
    found = virtually(twins.simulated(asks))
    assert found == asyncio.run(twins.really(asks))
    assert found[0] == Relation.FIRST


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    folder = tmp_path_factory.mktemp("people")
    return [Person.made(folder, name) for name in ("alice", "bob", "carol")]


@pytest.mark.parametrize("seed", range(SCENES))
def test_signatures_are_judged_as_by_the_real_mirror(seed: int, tmp_path: Path, people: list[Person]) -> None:
    """Over random histories: who signs, who is handed the right to, what is merged, and what was accepted before."""
    chance, twins = Random(seed), Twins(tmp_path)
    files = [None, *(allowed(*some) for some in (people[:1], people[1:2], people[:2], people[1:], people))]
    commits = [twins.commit(by=people[0], signers=files[1])]
    for _ in range(7):
        parents = chance.sample(commits[-3:], k=min(len(commits), chance.choice((1, 1, 2))))
        brought = parents[0].content.signers if chance.random() < 0.5 else chance.choice(files)
        commits.append(twins.commit(*parents, by=chance.choice((None, *people)), signers=brought))
    remote = twins.remotes[0]
    twins.push(remote, commits[0])
    asks = [Asked(remote.url, commits[0].id, None, allowed(people[0]))]
    for commit in commits[1:]:
        twins.push(remote, commit)
        have = chance.choice([one for one in commits if one.id in commit.ancestors and one is not commit])
        asks += [Asked(remote.url, commit.id, have.id, signers) for signers in chance.sample(files[1:], k=2)]
        asks.append(Asked(remote.url, commit.id, have.id))  # and so it is in the mirror
    found = virtually(twins.simulated(asks))
    assert found == asyncio.run(twins.really(asks))
    assert found[0] == Relation.FIRST


async def test_a_commit_that_is_not_in_the_mirror_can_not_be_read() -> None:
    history = History({})
    commit = history.commit(Content())
    mirror = SimulatedMirror(history, [Remote("r")], Network(), lambda: 0.5)
    with pytest.raises(FleetError) as missing:
        await mirror.read(commit.id, ("fleet.toml",))
    assert missing.value.reason == "commit-missing"
