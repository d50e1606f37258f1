"""Whom the device trusts to sign commits: its own file first, then what signed commits hand on.

Which commits are signed by whom is found out by the Git edge; here is what is remembered of it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions.steps import Settle
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Desired, Memory, Saying, Trust
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import CommitId, short
from metrica_fleet.signers import COMMITS, signers_in, who_may_sign

DISTRUSTED: Final = frozenset({"signature-missing", "signature-bad", "signer-unknown", "signers-unusable"})
"""Why a commit is refused whose signature, or whose signers, will not do."""


def signers_in_force(memory: Memory, own_file: str | None) -> str | None:
    """Return the ``allowed_signers`` by which this device judges what is signed; ``None``: there is none.

    Where commits must be signed it is what they handed on; else the accepted commit's, else the device's ``own_file``.
    """
    if memory.trust is not None:
        return memory.trust.signers
    return own_file if memory.signers is None else memory.signers


class Proof(Value, frozen=True, kw_only=True):
    """By what an agent on trial shows that it can tell whose a commit is: the next one has to pass by that."""

    signers: str
    """The ``allowed_signers`` in force."""
    accepted: CommitId | None
    """The commit accepted last: what comes after it is to be signed by them, or by whom they let in on the way."""
    is_handover: bool
    """Whether that commit put these signers in force: it is signed by those before, who may be among them no more."""


def proof_by(memory: Memory) -> Proof:
    """Return the proof for a device where commits must be signed."""
    if memory.trust is None:
        return Proof(signers="", accepted=memory.accepted, is_handover=False)
    is_handover = memory.trust.since is not None and memory.trust.since == memory.accepted
    return Proof(signers=memory.trust.signers, accepted=memory.accepted, is_handover=is_handover)


def founded(memory: Memory, own_file: str) -> Settle:
    """Begin with ``own_file``, the device's ``allowed_signers_file``, unless trust began with it already.

    Refusals for want of a good signature are lifted: they were spoken by signers who are not in force any more.
    """
    root = sha256(own_file.encode()).hexdigest()
    if memory.trust is not None and memory.trust.root == root:
        return Settle(memory=memory)
    refused = tuple(one for one in memory.refused if one.reason not in DISTRUSTED)
    last = memory.last_refused
    after = replace(
        memory,
        trust=Trust(signers=own_file, since=None, root=root),
        refused=refused,
        last_refused=None if last is not None and last.reason in DISTRUSTED else last,
    )
    return Settle(memory=after, sayings=(_told(own_file, None, "device-file"),))


def handed_on(memory: Memory, desired: Desired) -> Settle:
    """The accepted commit, signed by somebody who might, brings the signers that are in force from now on."""
    trust, signers = memory.trust, desired.signers
    if trust is None:
        return Settle(memory=replace(memory, signers=usable(signers)))
    if signers is None or signers == trust.signers:
        return Settle(memory=memory)
    after = replace(memory, trust=Trust(signers=signers, since=desired.commit, root=trust.root))
    return Settle(memory=after, sayings=(_told(signers, desired.commit, "signed-commit"),))


def usable(signers: str | None) -> str | None:
    """Return ``signers`` where they can be read; else ``None``, as if the commit brought none."""
    try:
        return signers if signers is not None and signers_in(signers.encode()) else None
    except Unusable:
        return None


def _told(signers: str, commit: CommitId | None, reason: str) -> Saying:
    try:
        people = ", ".join(who_may_sign(signers_in(signers.encode()), COMMITS, at=None))
    except Unusable as error:
        people = f"nobody ({error.message})"
    source = f"commit {short(commit)}" if commit else "the device's own file"
    message = f"by {source}, commits may be signed by: {people}"[:1000]
    return Saying(kind="signers.changed", reason=reason, message=message, commit=commit)
