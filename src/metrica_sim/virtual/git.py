"""Remotes that lag, lie and vanish, and a mirror that is filled from them; answers as ``GitMirror`` does.

How two commits stand to each other is found out the way the real mirror does it: from the part of the history that is
here, asking the remote for more where that is not enough (tests/unit/sim/test_virtual_git.py holds the two together).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_agent.adapters.git import Exported
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import CommitId
from metrica_sim.virtual.loop import operation
from metrica_sim.virtual.signers import require_trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metrica_sim.network import Network
    from metrica_sim.virtual.history import Commit, History

POLL_S: Final = 20.0
FETCH_S: Final = 300.0
AGAIN_DEPTH: Final = 50
PACKS: Final = 50
"""A mirror of more is made anew, shallow."""
TROUBLES: Final = ("gone", "stalls", "auth", "tls", "limited", "branch-missing", "fetch-stalls", "corrupt", "too-large")
"""What may be wrong with a remote; the last three are met only by who fetches."""
_REASONS: Final = {
    "gone": "git-unreachable",
    "stalls": "git-timeout",
    "auth": "git-auth",
    "tls": "git-tls",
    "limited": "rate-limited",
    "branch-missing": "branch-missing",
    "fetch-stalls": "git-timeout",
    "corrupt": "git-corrupt",
    "too-large": "fetch-too-large",
}
_OF_FETCHES: Final = frozenset({"fetch-stalls", "corrupt", "too-large"})
_REFUSED: Final = (Relation.DIVERGED, Relation.UNPROVEN)
_TRUSTED: Final = (Relation.FIRST, Relation.FORWARD)
"""What is to be signed."""
_RETRY_AFTER_S: Final = {"limited": 120.0, "too-large": 3600.0}


@dataclass(slots=True)
class Remote:
    """One server's copy of the repository."""

    url: str
    head: Commit | None = None
    objects: set[CommitId] = field(default_factory=set[CommitId])
    trouble: str | None = None
    lags: bool = False
    """It takes no pushes for now."""

    def take(self, commit: Commit) -> None:
        """Let the branch be at ``commit``."""
        self.head = commit
        self.objects |= commit.ancestors

    def forget_unreachable(self) -> None:
        """Clear what no branch leads to, as servers do after a force push."""
        self.objects = set(self.head.ancestors) if self.head else set()


class _Lineage(NamedTuple):
    known: frozenset[CommitId]
    boundary: frozenset[CommitId]


class SimulatedMirror:
    """A device's mirror. It is on the device's disk: it outlives the agent that asks it."""

    def __init__(
        self, history: History, remotes: Sequence[Remote], network: Network, chance: Callable[[], float]
    ) -> None:
        self._history = history
        self._remotes = {remote.url: remote for remote in remotes}
        self._network = network
        self._chance = chance
        self._here: set[CommitId] = set()
        self._packs = 0
        self._within_s = FETCH_S
        self._one_at_a_time = asyncio.Lock()
        self._behind: dict[str, tuple[CommitId, CommitId | None]] = {}

    def lose(self) -> None:
        """Let the mirror be broken, and so be made anew at the next fetch."""
        self._here, self._packs = set(), 0

    # --- as GitMirror -----------------------------------------------------------------------------------------

    async def head(self, url: str) -> CommitId:
        """Return the branch's commit at ``url``."""
        operation("git:head")
        remote = self._remotes[url]
        await self._travel(remote, None)
        if remote.trouble is not None and remote.trouble not in _OF_FETCHES:
            raise _trouble(remote, remote.trouble)
        if remote.head is None:
            raise _trouble(remote, "branch-missing")
        return remote.head.id

    async def fetch(
        self,
        url: str,
        commit: CommitId,
        have: CommitId | None,
        *,
        signers: str | None = None,
        within_s: float | None = None,
    ) -> Relation:
        """Bring ``commit``, signed by one of ``signers``, and say how it relates to ``have``."""
        self._within_s = within_s or FETCH_S
        if self._behind.get(url) == (commit, have):
            return Relation.BEHIND
        async with self._one_at_a_time:
            operation("git:fetch")
            before, packs = set(self._here), self._packs
            if packs > PACKS:
                self.lose()
            try:
                relation = await self._fetched(self._remotes[url], commit, have)
                if signers is not None and relation in _TRUSTED:
                    commits = self._history.commits
                    require_trust(commits[commit], commits[have] if have is not None else None, signers)
            except BaseException:
                self._here, self._packs = before, packs
                raise
        if relation is Relation.BEHIND:
            self._behind[url] = (commit, have)
        return relation

    async def read(self, commit: CommitId, paths: Sequence[str]) -> dict[str, bytes]:
        """Return those of ``paths`` that exist in ``commit``."""
        async with self._one_at_a_time:
            operation("git:read")
            files = self._held(commit).files
            return {path: files[path] for path in paths if path in files}

    async def export(self, commit: CommitId, folder: str, into: Path) -> Exported:
        """Write ``folder`` of ``commit`` below ``into``."""
        async with self._one_at_a_time:
            operation("git:export")
            await asyncio.sleep(0.05)
            files = self._held(commit).files
            inside = {path.removeprefix(f"{folder}/"): data for path, data in files.items() if _is_in(path, folder)}
            if not inside:
                raise Unusable(f'commit {commit[:8]} has no folder "{folder}"', reason="folder-missing")
            for path, data in inside.items():
                operation("git:write")
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            return Exported(files=len(inside), total_bytes=sum(map(len, inside.values())))

    # --- how it is done ---------------------------------------------------------------------------------------

    async def _travel(self, remote: Remote, patience_s: float | None) -> None:
        """Ask, and have the answer; or not. ``patience_s`` of a fetch; ``None``: a poll."""
        self._require_network(remote)
        if remote.trouble == ("stalls" if patience_s is None else "fetch-stalls"):
            await asyncio.sleep(patience_s or POLL_S)
        await asyncio.sleep(0.05 + 0.2 * self._chance())
        self._require_network(remote)
        operation("git:answered")

    def _require_network(self, remote: Remote) -> None:
        if not self._network.is_up:
            raise _trouble(remote, "gone")

    def _held(self, commit: CommitId) -> Commit:
        if commit not in self._here:
            raise NotNow(f"commit {commit[:8]} is not in the mirror", reason="commit-missing")
        return self._history.commits[commit]

    async def _fetched(self, remote: Remote, commit: CommitId, have: CommitId | None) -> Relation:
        if have is None or have == commit:
            if commit not in self._here:
                await self._receive(remote, commit, have=None, depth=1)
            return Relation.FIRST if have is None else Relation.SAME
        if have not in self._here and not await self._restored(remote, have):
            return await self._judged_alone(remote, commit, have)
        relation = self._seen(commit, have)
        if relation is not None:
            return relation
        before = set(self._here)
        await self._receive(remote, commit, have=have, depth=None)
        relation = self._seen(commit, have) or await self._looked_further_back(remote, commit, have)
        if relation in _REFUSED:
            self._here = before
        return relation

    async def _restored(self, remote: Remote, have: CommitId) -> bool:
        try:
            await self._receive(remote, have, have=None, depth=AGAIN_DEPTH)
        except NotNow as error:
            if error.reason != "commit-missing":
                raise
            return False
        return True

    async def _judged_alone(self, remote: Remote, commit: CommitId, have: CommitId) -> Relation:
        before = set(self._here)
        if commit not in self._here:
            await self._receive(remote, commit, have=None, depth=None)
        if have in self._lineage(commit).known:
            return Relation.FORWARD
        self._here = before
        return Relation.UNPROVEN

    def _seen(self, commit: CommitId, have: CommitId) -> Relation | None:
        mine = self._lineage(have)
        if commit in mine.known:
            return Relation.BEHIND
        if commit not in self._here:
            return None
        theirs = self._lineage(commit)
        if have in theirs.known:
            return Relation.FORWARD
        return Relation.DIVERGED if mine.known & theirs.known or not mine.boundary else None

    async def _looked_further_back(self, remote: Remote, commit: CommitId, have: CommitId) -> Relation:
        try:
            await self._receive(remote, have, have=None, depth=None)
        except NotNow as error:
            if error.reason not in {"commit-missing", "fetch-too-large"}:
                raise
            return Relation.UNPROVEN
        return self._seen(commit, have) or Relation.UNPROVEN

    async def _receive(self, remote: Remote, commit: CommitId, *, have: CommitId | None, depth: int | None) -> None:
        await self._travel(remote, self._within_s)
        if remote.trouble is not None:
            raise _trouble(remote, remote.trouble)
        if commit not in remote.objects:
            raise NotNow(f"{remote.url} does not give commit {commit[:8]} (any more)", reason="commit-missing")
        self._packs += 1
        without = self._lineage(have).known & remote.objects if have else frozenset[CommitId]()
        self._here |= self._history_of(commit, without, depth)

    def _history_of(self, commit: CommitId, without: frozenset[CommitId], depth: int | None) -> set[CommitId]:
        found: set[CommitId] = set()
        level = {commit}
        while level and (depth is None or depth > 0):
            found |= level
            level = {parent.id for one in level for parent in self._history.commits[one].parents} - found - without
            depth = None if depth is None else depth - 1
        return found

    def _lineage(self, commit: CommitId) -> _Lineage:
        """Return what of the commit's history is here; the parents of its edge are known by name."""
        known: set[CommitId] = {commit}
        boundary: set[CommitId] = set()
        todo = [commit]
        while todo:
            one = todo.pop()
            for parent in self._history.commits[one].parents:
                if parent.id not in self._here:
                    boundary.add(one)
                elif parent.id not in known:
                    todo.append(parent.id)
                known.add(parent.id)
        return _Lineage(frozenset(known), frozenset(boundary))


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _trouble(remote: Remote, what: str) -> NotNow:
    return NotNow(f"{remote.url}: {what} (simulated)", reason=_REASONS[what], retry_after_s=_RETRY_AFTER_S.get(what))
