"""Signatures of a world without cryptography: whose they are stands in them, and they fit one text and one purpose."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from metrica_fleet.errors import Unusable
from metrica_fleet.signed import Signed

OPERATORS: Final = "alice bob metrica-gate:hub metrica-command:hub metrica-head:hub"
"""Who may sign what, as the devices' own files have it."""


def signed(text: str, namespace: str, by: str) -> Signed:
    """Return ``text`` as signed by somebody."""
    armoured = f"-----BEGIN SSH SIGNATURE-----\n{_line(text.encode(), namespace, by)}\n-----END SSH SIGNATURE-----\n"
    return Signed(text, armoured)


async def verify(text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
    """Return who of ``signers`` has signed ``text``: a ``Verify`` of the agent's. Raises ``Unusable``."""
    del at
    line = signature.decode().splitlines()[1]
    who = line.partition(" ")[0]
    if line != _line(text, namespace, who):
        raise Unusable("it does not sign this", reason="signature-bad")
    if who not in signers.split() and f"{namespace}:{who}" not in signers.split():
        raise Unusable(f"{who} may not sign", reason="signer-unknown")
    return who


def _line(text: bytes, namespace: str, by: str) -> str:
    return f"{by} {namespace} {sha256(text).hexdigest()}"
