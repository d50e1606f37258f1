"""The people who push: good commits, bad ones of every kind, back to what was, and by force."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from metrica_sim.virtual import signers
from metrica_sim.virtual.history import FLEET_ILLS, ILLS, POISON, ROLES, Content, RoleContent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metrica_fleet.identity import CommitId
    from metrica_sim.virtual.git import Remote
    from metrica_sim.virtual.history import Commit, History
    from metrica_sim.virtual.rollouts import Rollouts
    from metrica_sim.virtual.story import Story

FORGERIES: Final = ("unsigned", "by-a-stranger", "by-a-removed-key", "by-who-made-himself-a-signer")


class Operators:
    """All who may push."""

    def __init__(self, history: History, remotes: Sequence[Remote], story: Story) -> None:
        self.history = history
        self.rollouts: Rollouts | None = None
        """What they may speak about, where commits go through the fleet stage by stage."""
        self._remotes = remotes
        self._story = story
        self._version = 0
        self._generation = 0
        self._head: Commit | None = None
        self._bad: dict[str, RoleContent] = {}

    @property
    def head(self) -> Commit:
        """What the branch is at where nobody lags or lies."""
        if self._head is None:
            raise AssertionError("nothing was pushed yet")
        return self._head

    @property
    def newest(self) -> Commit | None:
        """The same; ``None`` before the first push."""
        return self._head

    def push_good(self, *also: CommitId) -> Commit:
        """Push what is good and new for every role, on top of the head and of ``also``."""
        content = Content(tuple(RoleContent(self._next_version()) for _ in ROLES))
        return self._push(content, *also)

    def push_slow(self, role: str) -> Commit:
        """Push something that takes its time to come up, and is good."""
        return self._push(self.head.content.with_role(role, RoleContent(self._next_version(), slow=True)))

    def push_role(self, role: str) -> Commit:
        """Push what is good and new for ``role``, and changes nothing for the others."""
        return self._push(self.head.content.with_role(role, RoleContent(self._next_version())))

    def push_bad(self, role: str, which: int) -> Commit:
        """Push something bad."""
        ills = (*ILLS, *FLEET_ILLS)
        ill = ills[which % len(ills)]
        if ill in FLEET_ILLS:
            return self._push(replace(self.head.content, ill=ill))
        bad = self._bad[role] = RoleContent(self._next_version(), ill)
        return self._push(self.head.content.with_role(role, bad))

    def push_bad_again(self, role: str) -> Commit:
        """Push once more what was bad before, as another commit."""
        return self._push(self.head.content.with_role(role, self._bad.get(role, RoleContent(1))))

    def push_poison(self, role: str) -> Commit:
        """Push what crashes the agent."""
        return self._push(self.head.content.with_role(role, RoleContent(self._next_version(), POISON)))

    def push_back(self) -> Commit:
        """Push what an earlier commit asked for, as ``git revert`` does."""
        before = self.head.parents[0] if self.head.parents else self.head
        return self._push(before.content)

    def push_stop(self, stop: str | None, *, usable: bool = True) -> Commit:
        """Push what the head has, with this ``STOP`` or without one; one that is not ``usable`` is bad otherwise."""
        ill = self.head.content.ill if usable or stop is None else FLEET_ILLS[0]
        return self._push(replace(self.head.content, stop=stop, ill=ill))

    def push_force(self) -> Commit:
        """Throw the last commit away and push another in its place."""
        parents = self.head.parents or (self.head,)
        content = Content(tuple(RoleContent(self._next_version()) for _ in ROLES))
        self._head = self._signed(content, *parents)
        self._told("by force ")
        return self.head

    def mend(self, remote: Remote) -> None:
        """Let ``remote`` have what the others have."""
        remote.take(self.head)

    def stray(self) -> Commit:
        """Return a commit of a history that nobody here has made."""
        return self.history.commit(Content(tuple(RoleContent(self._next_version()) for _ in ROLES)), forged=True)

    def push_signers(self) -> Commit:
        """Push other signers, one of them new, in the place of one whose key is removed."""
        self._generation += 1
        return self._push(self.head.content)

    def forged(self, how: int) -> Commit:
        """Return what somebody has made on top of the head who may not.

        Signed is it by nobody, a stranger, with a key that was removed, or by a stranger who made himself a signer.
        """
        head, content = self.head, Content(tuple(RoleContent(self._next_version()) for _ in ROLES))
        content = replace(content, signers=head.content.signers)
        if how == len(FORGERIES) - 1:
            content = replace(content, signers=signers.file_of_a_stranger())
            head = self.history.commit(content, head, forged=True)
        by = (None, signers.STRANGER, signers.removed_by(self._generation), signers.STRANGER)[how]
        return self.history.commit(content, head, by=by, forged=True)

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _push(self, content: Content, *also: CommitId) -> Commit:
        parents = [self._head] if self._head is not None else []
        for name in also:
            if all(name not in parent.ancestors for parent in parents):
                parents.append(self._caught_up(self.history.commits[name]))
        self._head = self._signed(content, *parents)
        self._told("")
        return self.head

    def _caught_up(self, commit: Commit) -> Commit:
        """Return what hands the signers of ``commit`` on to today's: else no merge is trusted by who is there."""
        if not self.history.signed:
            return commit
        files = [signers.file_of(generation) for generation in range(self._generation + 1)]
        known = files.index(commit.content.signers) if commit.content.signers in files else 0
        for generation in range(known + 1, self._generation + 1):
            content = replace(commit.content, signers=files[generation])
            commit = self.history.commit(content, commit, by=signers.who_signs(generation))
        return commit

    def _signed(self, content: Content, *parents: Commit) -> Commit:
        if not self.history.signed:
            return self.history.commit(content, *parents)
        content = replace(content, signers=signers.file_of(self._generation))
        return self.history.commit(content, *parents, by=signers.who_signs(self._generation))

    def _told(self, how: str) -> None:
        self._story.tell("operator", f"pushes {how}{self.head}")
        for remote in self._remotes:
            if not remote.lags:
                remote.take(self.head)
