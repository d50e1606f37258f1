"""Says whose signed texts are: of operators' orders, and of the hub's gates and commands.

    text, who = await notary.opened(signed, GATES, memory)

Who may sign is what memory says (``decisions.trust``); for what and until when, the signers' file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from metrica_agent.decisions.trust import signers_in_force
from metrica_fleet.errors import Unusable
from metrica_fleet.signed import time_of

if TYPE_CHECKING:
    from metrica_agent.decisions.world import Memory
    from metrica_fleet.signed import Signed


class Verify(Protocol):
    """Finds out who signed a text, beside the loop."""

    async def __call__(self, text: bytes, signature: bytes, signers: str, *, namespace: str, at: str) -> str:
        """Return which of ``signers`` has signed ``text`` for ``namespace``, being allowed to at ``at``.

        Raises:
            Unusable: ``signature-bad`` or ``signer-unknown``.
            NotNow: ``signatures-unverifiable``, when this machine can't tell.
        """
        ...


@dataclass(frozen=True, slots=True)
class Notary:
    """The way to find out whose a text is, and the device's own ``allowed_signers``."""

    verify: Verify
    own: str | None = None
    """Where neither signatures of commits nor the accepted commit say who may sign; ``None``: then nobody may."""

    async def opened(self, signed: Signed, namespace: str, memory: Memory) -> tuple[bytes, str]:
        """Return the text of ``signed``, and who signed it.

        Raises:
            Unusable: ``signers-none``, ``not-dated``, ``signature-bad`` or ``signer-unknown``.
            NotNow: ``signatures-unverifiable``.
        """
        signers = signers_in_force(memory, self.own)
        if signers is None:
            message = "nobody is known who may sign; put allowed_signers into the fleet repository"
            raise Unusable(message, reason="signers-none")
        text = signed.text.encode()
        who = await self.verify(text, signed.signature.encode(), signers, namespace=namespace, at=time_of(signed))
        return text, who
