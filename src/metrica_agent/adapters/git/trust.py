"""From the signers in force to those of an offered commit, along the history between (docs/decisions/0009).

The head must be signed by a signer in force. What is in force changes on the way: a commit that brings other
``allowed_signers`` and is itself signed by somebody who was allowed before puts them in force. One that is not so
signed, or whose file leaves nobody, changes nothing. Commits on the way need no signature otherwise: the head's
covers them.

Only commits that come after the accepted one count: what was made before it knows nothing of signers who were removed
since, so an old side branch that is merged can bring nobody back.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from dulwich.objects import Commit, ObjectID

from metrica_agent.adapters.git.signatures import require_signer, taken_apart, time_of
from metrica_agent.adapters.git.store import IncompleteError, Store, name_of
from metrica_agent.adapters.git.trees import Reader
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import CommitId, short
from metrica_fleet.signers import FILE, require_somebody

if TYPE_CHECKING:
    from metrica_agent.adapters.git.orders import Bounds

MOST_COMMITS: Final = 50_000
MOST_SIGNATURES: Final = 200
"""That are verified on the way to a head. A change of signers behind them is not followed: those before must sign."""
_MOST_STATES: Final = 8
"""Sets of signers that different ways through the history may lead to."""


class _Brought(NamedTuple):
    """The ``allowed_signers`` of a commit."""

    blob: ObjectID | None
    """``None``: it has none."""
    usable: str | None
    """Its text, where it is one that leaves somebody."""


_UNKNOWN: Final = _Brought(ObjectID(b"?"), None)
_Path = dict[ObjectID, tuple[ObjectID, ...]]


def require_trust(store: Store, commit: CommitId, *, have: CommitId | None, signers: str, bounds: Bounds) -> None:
    """Make sure that ``commit``, which comes after ``have``, is signed by somebody who may.

    Args:
        store: where the commit and all between the two are.
        commit: the offered commit.
        have: the accepted one; ``None``: its history is not asked for.
        signers: the ``allowed_signers`` in force.
        bounds: how large a file may be.

    Raises:
        Unusable: ``signature-missing``, ``signature-bad``, ``signer-unknown`` or ``signers-unusable``.
        NotNow: ``signatures-unverifiable``.
    """
    _Trust(store, bounds).require(commit, have, signers)


class _Trust:
    def __init__(self, store: Store, bounds: Bounds) -> None:
        self._store, self._bounds = store, bounds
        self._verdicts: dict[tuple[CommitId, str], Unusable | None] = {}
        self._verified = 0
        self._broken: CommitId | None = None
        """A merge with other signers than each of its parents, and no signature of theirs."""

    def require(self, commit: CommitId, have: CommitId | None, signers: str) -> None:
        before = frozenset({signers}) if have is None else self._handed_on(commit, have, signers)
        refusals = [self._refusal(commit, one) for one in sorted(before)]
        if all(refusals):
            raise (refusals[0] if refusals else None) or self._nobody(commit)
        reader = Reader(self._store, commit, self._bounds)
        entry = reader.entry_of(FILE)
        if entry is not None:
            require_somebody(self._content(reader), at=time_of(commit, reader.raw), name=f"{FILE} of {short(commit)}")

    def _handed_on(self, commit: CommitId, have: CommitId, signers: str) -> frozenset[str]:
        """Return every set of signers by which ``commit`` may be judged: those in force at its parents."""
        path = _between(self._store, commit, have)
        start, head = name_of(have), name_of(commit)
        brought = {start: self._brought(have) if self._store.holds(have) else _UNKNOWN}
        in_force = {start: frozenset({signers})}
        for name in _in_order(path, start):
            if name == head:
                continue
            here = CommitId(name.decode())
            brought[name] = self._brought(here)
            ways = [self._after(here, brought[name], brought[one], in_force[one]) for one in path[name]]
            states = frozenset[str]().union(*ways)
            if not states and len(path[name]) == 1:
                states = in_force[path[name][0]]
            in_force[name] = frozenset(sorted(states)[:_MOST_STATES])
            self._broken = self._broken or (None if states else here)
        return frozenset[str]().union(*(in_force[parent] for parent in path.get(head, ())))

    def _after(self, commit: CommitId, brought: _Brought, before: _Brought, in_force: frozenset[str]) -> set[str]:
        """Return what is in force after ``commit``, as seen from one parent."""
        states: set[str] = set()
        for signers in in_force:
            if brought.usable is None or brought.usable == signers:
                states.add(signers)
            elif self._may_change(commit, signers):
                states.add(brought.usable)
            elif brought.blob == before.blob:
                states.add(signers)
        return states

    def _brought(self, commit: CommitId) -> _Brought:
        reader = Reader(self._store, commit, self._bounds)
        entry = reader.entry_of(FILE)
        if entry is None:
            return _Brought(None, None)
        try:
            content = self._content(reader)
            require_somebody(content, at=time_of(commit, reader.raw))
        except Unusable:
            return _Brought(entry.sha, None)
        return _Brought(entry.sha, content.decode())

    def _content(self, reader: Reader) -> bytes:
        try:
            return reader.content_of(FILE) or b""
        except Unusable as error:
            raise Unusable(f"{error.message}; make it a plain, small file", reason="signers-unusable") from error

    def _refusal(self, commit: CommitId, signers: str) -> Unusable | None:
        key = (commit, signers)
        if key not in self._verdicts:
            self._verdicts[key] = self._judged(commit, signers)
        return self._verdicts[key]

    def _judged(self, commit: CommitId, signers: str) -> Unusable | None:
        try:
            require_signer(commit, Reader(self._store, commit, self._bounds).raw, signers)
        except Unusable as error:
            return error
        return None

    def _may_change(self, commit: CommitId, signers: str) -> bool:
        """Whether ``commit``, on the way to the head, is signed; past a bound it is not looked at."""
        try:
            taken_apart(commit, Reader(self._store, commit, self._bounds).raw)
        except Unusable:
            return False
        self._verified += 1
        return self._verified <= MOST_SIGNATURES and self._refusal(commit, signers) is None

    def _nobody(self, commit: CommitId) -> Unusable:
        merge = f"the merge {short(self._broken)}" if self._broken else "a commit on the way"
        message = f"{merge} changes {FILE} without a signature of somebody who was allowed; make it again, signed"
        return Unusable(f"commit {short(commit)} can't be trusted: {message}", reason="signer-unknown")


def _between(store: Store, commit: CommitId, have: CommitId) -> _Path:
    """Return the commits that come after ``have`` on the way to ``commit``, each with its parents among them."""
    start = name_of(have)
    parents: _Path = {}
    children: defaultdict[ObjectID, list[ObjectID]] = defaultdict(list)
    waiting = deque([name_of(commit)])
    while waiting:
        name = waiting.popleft()
        if name in parents or name == start or name not in store.objects:
            continue
        found = store.objects[name]
        if not isinstance(found, Commit):
            raise IncompleteError(f"{name.decode()} is no commit")
        parents[name] = tuple(dict.fromkeys(found.parents))
        for parent in parents[name]:
            children[parent].append(name)
        waiting.extend(parents[name])
    after = _reached(start, children)
    if len(after) > MOST_COMMITS:
        message = f"more than {MOST_COMMITS} commits lead to {short(commit)}, too many to follow their signers"
        raise Unusable(f"{message}; push in smaller steps", reason="signers-unusable")
    return {name: tuple(parent for parent in parents[name] if parent in after or parent == start) for name in after}


def _reached(start: ObjectID, children: defaultdict[ObjectID, list[ObjectID]]) -> set[ObjectID]:
    reached: set[ObjectID] = set()
    waiting = deque(children[start])
    while waiting:
        name = waiting.popleft()
        if name not in reached:
            reached.add(name)
            waiting.extend(children[name])
    return reached


def _in_order(path: _Path, start: ObjectID) -> list[ObjectID]:
    """Return the commits of ``path``, each after its parents."""
    missing = {name: sum(parent != start for parent in parents) for name, parents in path.items()}
    children: defaultdict[ObjectID, list[ObjectID]] = defaultdict(list)
    for name, parents in path.items():
        for parent in parents:
            children[parent].append(name)
    ready = deque(name for name, count in missing.items() if count == 0)
    ordered: list[ObjectID] = []
    while ready:
        name = ready.popleft()
        ordered.append(name)
        for child in children[name]:
            missing[child] -= 1
            if missing[child] == 0:
                ready.append(child)
    return ordered
