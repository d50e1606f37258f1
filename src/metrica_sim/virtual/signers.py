"""Who has signed a commit, and who may, in a world without cryptography: names stand for keys.

A generation of signers is two: the next one has one of them, and one who is new. So somebody who stays signs the
commit that hands the branch on, and each time the key of one is removed. Whether a commit is good enough is found out
here as the agent's Git edge does it (tests/unit/sim/test_virtual_git.py holds the two together).
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from metrica_fleet.errors import Unusable

if TYPE_CHECKING:
    from metrica_fleet.identity import CommitId
    from metrica_sim.virtual.history import Commit

STRANGER: Final = "mallory"
_KIND: Final = b"ssh-ed25519"
_OTHERS: Final = "# metrica-gate:hub metrica-command:hub metrica-head:hub"
"""What ``pens`` reads; to everybody else it is a comment."""


def who_signs(generation: int) -> str:
    """Return the signer of ``generation`` who was of the one before as well."""
    return f"signer-{generation}"


def removed_by(generation: int) -> str:
    """Return whose key ``generation`` does not have any more."""
    return f"signer-{generation - 1}" if generation else STRANGER


@cache
def file_of(generation: int) -> str:
    """Return the ``allowed_signers`` of ``generation``."""
    return _file(f"signer-{generation}", f"signer-{generation + 1}")


@cache
def file_of_a_stranger() -> str:
    """Return one that a stranger would like to have in force."""
    return _file(STRANGER)


def require_trust(commit: Commit, have: Commit | None, signers: str) -> None:
    """Make sure that ``commit``, which comes after ``have``, is signed by somebody who may, ``signers`` in force at it.

    Raises:
        Unusable: ``signature-missing`` or ``signer-unknown``.
    """
    in_force = frozenset({signers}) if have is None else _in_force(commit, have, signers)
    if any(commit.by in _allowed(one) for one in in_force):
        return
    reason = "signature-missing" if commit.by is None and in_force else "signer-unknown"
    raise Unusable(f"commit {commit.id[:8]} is signed by {commit.by or 'nobody'} (simulated)", reason=reason)


def _in_force(commit: Commit, have: Commit, signers: str) -> frozenset[str]:
    """Return every set of signers that the ways from ``have`` to the parents of ``commit`` lead to."""
    found: dict[CommitId, frozenset[str]] = {have.id: frozenset({signers})}
    for one in sorted(_between(commit, have), key=lambda one: one.number):
        ways = [parent for parent in one.parents if parent.id in found]
        states = frozenset[str]().union(*(_after(one, parent, found[parent.id]) for parent in ways))
        found[one.id] = found[ways[0].id] if not states and len(ways) == 1 else states
    return frozenset[str]().union(*(found[parent.id] for parent in commit.parents if parent.id in found))


def _between(commit: Commit, have: Commit) -> set[Commit]:
    between: set[Commit] = set()
    todo = [commit]
    while todo:
        ours = {parent for parent in todo.pop().parents if parent is not have and have.id in parent.ancestors}
        todo += ours - between
        between |= ours
    return between


def _after(commit: Commit, parent: Commit, in_force: frozenset[str]) -> set[str]:
    brought, states = commit.content.signers, set[str]()
    for signers in in_force:
        if brought is None or brought == signers:
            states.add(signers)
        elif commit.by in _allowed(signers):
            states.add(brought)
        elif brought == parent.content.signers:
            states.add(signers)
    return states


@cache
def _allowed(signers: str) -> frozenset[str]:
    lines = (line.split() for line in signers.splitlines() if not line.startswith("#"))
    return frozenset(words[0] for words in lines if len(words) > 1 and not words[1].startswith("namespaces="))


def _file(*who: str) -> str:
    orders = (f'{one} namespaces="metrica-order" {_key(one)}' for one in ("alice", "bob"))
    return "\n".join([_OTHERS, *orders, *(f"{one} {_key(one)}" for one in who)]) + "\n"


def _key(name: str) -> str:
    """Return what has the form of a public key."""
    parts = (_KIND, sha256(name.encode()).digest())
    return f"{_KIND.decode()} {b64encode(b''.join(len(part).to_bytes(4, 'big') + part for part in parts)).decode()}"
