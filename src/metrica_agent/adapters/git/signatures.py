"""Whose signature a commit carries: taken from its raw bytes, judged by ``ssh-keygen`` as git does it.

Three questions, each answered by an exit code, never by wording: is the signature good in itself, whose key is it,
and was that key good for commits then. "Then" is the commit's own time, so that every device comes to the same answer,
also one without a clock. Nothing is written to the disk: what ssh-keygen reads is memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import short
from metrica_fleet.signers import COMMITS

if TYPE_CHECKING:
    from collections.abc import Generator

    from metrica_fleet.identity import CommitId

LARGEST_COMMIT_BYTES: Final = 1024 * 1024
_MOST_PRINCIPALS: Final = 20
_ANSWER_S: Final = 20.0
PATH = os.environ.get("PATH", os.defpath)
"""Where ssh-keygen is."""
_COMMITTED: Final = re.compile(rb"^committer [^\n]*> (\d{1,11}) [+-]\d{4}$", re.MULTILINE)
_LATEST_S: Final = 253_402_300_799
"""The end of the year 9999: times have four digits for the year."""
_SSH_SIGNATURE: Final = b"-----BEGIN SSH SIGNATURE-----"
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


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
    with _in_memory("signature", signed.signature) as signature, _in_memory("signers", signers.encode()) as allowed:
        verifier = _Verifier(signed, signature, allowed)
        fingerprint = verifier.fingerprint()
        if fingerprint is None:
            raise _bad(commit, "what it carries does not sign this commit, or not as one (namespace git)")
        why = "it is not among the signers that are in force on this device"
        for principal in verifier.principals():
            refusal = verifier.refusal(principal)
            if refusal is None:
                return principal
            why = f"{principal} may not: {refusal}"
    raise Unusable(
        f"commit {short(commit)} is signed with the key {fingerprint}: {why}; have one of them sign a commit on top, "
        "or renew the device's own allowed_signers_file",
        reason="signer-unknown",
    )


class _Verifier:
    """ssh-keygen's answers about one signature."""

    def __init__(self, signed: Signed, signature: int, signers: int) -> None:
        self._payload, self._at = signed.payload, f"-Overify-time={signed.at}Z"
        self._signature_fd, self._signers_fd = signature, signers

    def fingerprint(self) -> str | None:
        """Return the key that made the signature; ``None`` when it does not sign this."""
        done = self._asked("check-novalidate", "-n", COMMITS)
        found = _FINGERPRINT.search(done.stdout.decode("utf-8", "replace"))
        return found[0] if done.returncode == 0 and found else None

    def principals(self) -> list[str]:
        """Return under which names the key is allowed at that time, whatever for."""
        done = self._asked("find-principals", "-f", _path(self._signers_fd), self._at)
        found = done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []
        return [name for name in found if name and not name.startswith("-")][:_MOST_PRINCIPALS]

    def refusal(self, principal: str) -> str | None:
        """Return why ``principal`` may not sign this commit; ``None``: it may."""
        who = ("-n", COMMITS, "-I", principal, "-f", _path(self._signers_fd))
        done = self._asked("verify", *who, self._at)
        if done.returncode == 0:
            return None
        return done.stderr.decode("utf-8", "replace").strip().partition("\n")[0].rpartition(": ")[2][:200] or "no"

    def _asked(self, question: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        program = shutil.which("ssh-keygen", path=PATH)
        if program is None:
            message = "ssh-keygen is missing, so that no signature can be verified; install openssh-client"
            raise NotNow(message, reason="signatures-unverifiable")
        command = [program, "-Y", question, "-s", _path(self._signature_fd), *arguments]
        fds = (self._signature_fd, self._signers_fd)
        try:
            return subprocess.run(
                command,
                input=self._payload,
                capture_output=True,
                check=False,
                # UTC: OpenSSH reads times in allowed_signers in the machine's zone, and all devices must agree.
                env={"LC_ALL": "C", "TZ": "UTC"},
                pass_fds=fds,
                timeout=_ANSWER_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            message = f"ssh-keygen could not verify a signature: {error}; it is tried again"
            raise NotNow(message, reason="signatures-unverifiable") from error


@contextmanager
def _in_memory(name: str, content: bytes) -> Generator[int]:
    descriptor = os.memfd_create(name)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _bad(commit: CommitId, why: str) -> Unusable:
    return Unusable(f"commit {short(commit)} has no good signature: {why}; sign it anew", reason="signature-bad")
