"""Says whose signed texts are: of operators' orders, and of the hub's gates and commands.

    text, who = await notary.opened(signed, GATES, memory)

Who may sign is what memory says (``decisions.trust``); for what and until when, the signers' file. What nobody signed
who may is kept, the last of its kind: others may come to be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from metrica_agent.decisions.trust import signers_in_force
from metrica_fleet.errors import Unusable
from metrica_fleet.signed import time_of

if TYPE_CHECKING:
    from metrica_agent.decisions.world import Memory
    from metrica_fleet.signed import Signed

_T = TypeVar("_T")
_BY_SIGNERS: Final = frozenset({"signers-none", "signer-unknown"})
"""Reasons that may pass with other signers."""


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

    def signers(self, memory: Memory) -> str | None:
        """Return the ``allowed_signers`` in force; ``None``: there is none."""
        return signers_in_force(memory, self.own)

    async def opened(self, signed: Signed, namespace: str, memory: Memory) -> tuple[bytes, str]:
        """Return the text of ``signed``, and who signed it.

        Raises:
            Unusable: ``signers-none``, ``not-dated``, ``signature-bad`` or ``signer-unknown``.
            NotNow: ``signatures-unverifiable``.
        """
        signers = self.signers(memory)
        if signers is None:
            message = "nobody is known who may sign; put allowed_signers into the fleet repository"
            raise Unusable(message, reason="signers-none")
        text = signed.text.encode()
        who = await self.verify(text, signed.signature.encode(), signers, namespace=namespace, at=time_of(signed))
        return text, who


@dataclass(slots=True)
class Doubted(Generic[_T]):
    """The last that nobody signed who might, to be judged again when others may.

    What is retained a device hears at its first connect, before its first commit has told whom to trust.
    """

    _last: tuple[_T, str | None] | None = None
    """It, and by which signers it was judged."""

    def refused(self, what: _T, error: Unusable, by: str | None) -> None:
        """Keep ``what``, refused by the signers ``by``, if other signers may let it pass."""
        if error.reason in _BY_SIGNERS:
            self._last = what, by

    def again(self, signers: str | None) -> _T | None:
        """Return what was refused by others than ``signers``, which are in force now; once."""
        if self._last is None or self._last[1] == signers:
            return None
        what, self._last = self._last[0], None
        return what
