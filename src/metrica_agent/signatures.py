"""Whose signature a text carries, judged by ``ssh-keygen`` as git does it: commits, orders, gates and commands.

Each question is answered by an exit code, never by wording: may one of the signers have signed this, for that purpose
and at that time; and if not, is the signature good at all, and whose key is it. The time is the text's own, so that
every device comes to the same answer, also one without a clock. Nothing is written to the disk: ssh-keygen reads
memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from metrica_fleet.errors import NotNow, Unusable

if TYPE_CHECKING:
    from collections.abc import Generator

_MOST_PRINCIPALS: Final = 20
_ANSWER_S: Final = 20.0
PATH = os.environ.get("PATH", os.defpath)
"""Where ssh-keygen is."""
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def require_signer(
    text: bytes, signature: bytes, signers: str, *, namespace: str, at: str, what: str, way_out: str
) -> str:
    """Return who of ``signers`` has signed ``text``.

    Args:
        text: what was signed.
        signature: armoured.
        signers: the content of an ``allowed_signers``.
        namespace: what it must have been signed for.
        at: when, 14 digits, UTC.
        what: what messages call it.
        way_out: what to do when somebody signed it who may not.

    Raises:
        Unusable: ``signature-bad``, or ``signer-unknown``: a good signature by somebody who is not allowed, not for
            this, or not at that time.
        NotNow: ``signatures-unverifiable``, when this machine can't tell.
    """
    with _in_memory("signature", signature) as signed, _in_memory("signers", signers.encode()) as allowed:
        verifier = _Verifier(text, namespace, at, signed, allowed)
        why = "it is not among the signers that are in force on this device"
        for principal in verifier.principals():
            refusal = verifier.refusal(principal)
            if refusal is None:
                return principal
            why = f"{principal} may not: {refusal}"
        fingerprint = verifier.fingerprint()
    if fingerprint is None:
        raise bad(what, f"what it carries does not sign it, or not for this (namespace {namespace})")
    raise Unusable(f"{what} is signed with the key {fingerprint}: {why}; {way_out}", reason="signer-unknown")


def bad(what: str, why: str) -> Unusable:
    """Return the refusal of ``what`` for a signature that is none."""
    return Unusable(f"{what} has no good signature: {why}; sign it anew", reason="signature-bad")


class _Verifier:
    """ssh-keygen's answers about one signature."""

    def __init__(self, text: bytes, namespace: str, at: str, signature: int, signers: int) -> None:
        self._text, self._namespace, self._at = text, namespace, f"-Overify-time={at}Z"
        self._signature_fd, self._signers_fd = signature, signers

    def fingerprint(self) -> str | None:
        """Return the key that made the signature; ``None`` when it does not sign this."""
        done = self._asked("check-novalidate", "-n", self._namespace)
        found = _FINGERPRINT.search(done.stdout.decode("utf-8", "replace"))
        return found[0] if done.returncode == 0 and found else None

    def principals(self) -> list[str]:
        """Return under which names the key is allowed at that time, whatever for."""
        done = self._asked("find-principals", "-f", _path(self._signers_fd), self._at)
        found = done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []
        return [name for name in found if name and not name.startswith("-")][:_MOST_PRINCIPALS]

    def refusal(self, principal: str) -> str | None:
        """Return why ``principal`` may not have signed it; ``None``: it may."""
        who = ("-n", self._namespace, "-I", principal, "-f", _path(self._signers_fd))
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
                input=self._text,
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
