"""Whose signature a text carries, by ``ssh-keygen``: the questions that a device asks, so with the same answers.

Each is answered by an exit code, never by wording. The time is the text's own. Nothing is written to the disk: what
ssh-keygen is to read it reads from memory.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from metrica_fleet.errors import NotNow, Unusable
from metrica_hub.adapters import aside

if TYPE_CHECKING:
    from collections.abc import Generator

    from metrica_fleet.signed import Signed

_ANSWER_S: Final = 10.0
_MOST_PRINCIPALS: Final = 20


async def signer_of(signed: Signed, signers: str, *, namespace: str, at: str) -> str:
    """Return who of ``signers``, the content of an ``allowed_signers``, has signed, being allowed to.

    Args:
        signed: a text and its signature.
        signers: who may.
        namespace: for what it must have been signed.
        at: when, 14 digits, UTC.

    Raises:
        Unusable: ``signature-bad``: it does not sign this text, or not for this; ``signer-unknown``: who did may not.
        NotNow: ``signatures-unverifiable``, when this machine can't tell.
    """
    answer, _ = aside(lambda: _signer_of(signed, signers, namespace, at), "signature")
    return await answer


def _signer_of(signed: Signed, signers: str, namespace: str, at: str) -> str:
    text = signed.text.encode()
    with _in_memory("signature", signed.signature) as signature, _in_memory("signers", signers) as allowed:
        fds, when = (signature, allowed), f"-Overify-time={at}Z"
        listed = _asked(text, fds, "find-principals", "-f", _path(allowed), when)
        names = listed.stdout.decode("utf-8", "replace").splitlines() if listed.returncode == 0 else []
        known = [name for name in names if name and not name.startswith("-")][:_MOST_PRINCIPALS]
        for name in known:
            if not _asked(text, fds, "verify", "-n", namespace, "-I", name, "-f", _path(allowed), when).returncode:
                return name
        if _asked(text, fds, "check-novalidate", "-n", namespace).returncode:
            message = f"its signature does not sign this text, or not for this (namespace {namespace}); sign it anew"
            raise Unusable(message, reason="signature-bad")
    who = (
        f"{known[0]} may not sign for this ({namespace}), or not at that time" if known else "nobody in it has this key"
    )
    raise Unusable(who, reason="signer-unknown")


def _asked(text: bytes, fds: tuple[int, int], question: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", question, "-s", _path(fds[0]), *arguments],
            input=text,
            capture_output=True,
            check=False,
            # UTC: OpenSSH reads times in allowed_signers in the machine's zone, and devices have UTC.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            pass_fds=fds,
            timeout=_ANSWER_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        message = f"ssh-keygen could not verify it ({error}); install openssh-client"
        raise NotNow(message, reason="signatures-unverifiable") from error


@contextmanager
def _in_memory(name: str, content: str) -> Generator[int]:
    descriptor = os.memfd_create(name)
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.write(content)
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
