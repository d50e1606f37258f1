"""What a commit's signature signs: taken from its raw bytes. Whose it is, ``metrica_agent.signatures`` finds out.

The time that counts is the commit's own.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_agent import signatures
from metrica_fleet.errors import Unusable
from metrica_fleet.identity import short
from metrica_fleet.signers import COMMITS

if TYPE_CHECKING:
    from metrica_fleet.identity import CommitId

LARGEST_COMMIT_BYTES: Final = 1024 * 1024
_COMMITTED: Final = re.compile(rb"^committer [^\n]*> (\d{1,11}) [+-]\d{4}$", re.MULTILINE)
_LATEST_S: Final = 253_402_300_799
"""The end of the year 9999: times have four digits for the year."""
_SSH_SIGNATURE: Final = b"-----BEGIN SSH SIGNATURE-----"


class Signed(NamedTuple):
    """A commit taken apart."""

    payload: bytes
    """What was signed: the commit without its signature."""
    signature: bytes
    at: str
    """The committer's time, 14 digits, UTC."""


def taken_apart(commit: CommitId, raw: bytes) -> Signed:
    """Separate the signature of a commit from what it signs.

    Raises:
        Unusable: ``signature-missing`` or ``signature-bad``.
    """
    if len(raw) > LARGEST_COMMIT_BYTES:
        raise _bad(commit, f"the commit itself has {len(raw)} bytes")
    head, end, message = raw.partition(b"\n\n")
    kept: list[bytes] = []
    signatures: list[list[bytes]] = []
    into: list[bytes] = kept
    for line in head.split(b"\n"):
        name, _, value = line.partition(b" ")
        if line.startswith(b" "):
            into.append(line if into is kept else line[1:])
        elif name in (b"gpgsig", b"gpgsig-sha256"):
            into = [value]
            if name == b"gpgsig":
                signatures.append(into)
        else:
            into = kept
            kept.append(line)
    if not signatures:
        raise Unusable(
            f"commit {short(commit)} is not signed; sign it by SSH (git config gpg.format ssh; git commit -S)",
            reason="signature-missing",
        )
    signature = b"\n".join(signatures[0]) + b"\n"
    if len(signatures) > 1 or not signature.startswith(_SSH_SIGNATURE):
        raise _bad(commit, "it carries no one SSH signature; OpenPGP and X.509 are not understood")
    return Signed(b"\n".join(kept) + end + message, signature, _time_of(commit, head))


def time_of(commit: CommitId, raw: bytes) -> str:
    """Return the committer's time, 14 digits, UTC.

    Raises:
        Unusable: ``signature-bad``, for a commit that has none.
    """
    return _time_of(commit, raw.partition(b"\n\n")[0])


def _time_of(commit: CommitId, head: bytes) -> str:
    found = _COMMITTED.findall(head)
    if len(found) != 1 or int(found[0]) > _LATEST_S:
        raise _bad(commit, "it does not say when it was made")
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(int(found[0])))


def require_signer(commit: CommitId, raw: bytes, signers: str) -> str:
    """Return who of ``signers``, the content of an ``allowed_signers``, has signed the commit whose bytes are ``raw``.

    Raises:
        Unusable: ``signature-missing``, ``signature-bad``, or ``signer-unknown``: a good signature by somebody who is
            not allowed, not for commits, or not at that time.
        NotNow: ``signatures-unverifiable``, when this machine can't tell.
    """
    signed = taken_apart(commit, raw)
    return signatures.require_signer(
        signed.payload,
        signed.signature,
        signers,
        namespace=COMMITS,
        at=signed.at,
        what=f"commit {short(commit)}",
        way_out="have one of them sign a commit on top, or renew the device's own allowed_signers_file",
    )


def _bad(commit: CommitId, why: str) -> Unusable:
    return signatures.bad(f"commit {short(commit)}", why)
