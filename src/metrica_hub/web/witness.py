"""Whether somebody who may has signed a stop order, so that a slip is told at once and not by silence of the devices.

Each device judges by itself, whatever is found here. What is asked is the ``allowed_signers`` of the branch's commit;
where that says nothing, the order is relayed all the same: a stop must not wait for a Git server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.identity import short
from metrica_fleet.signed import ORDERS, Signed, time_of
from metrica_fleet.signers import FILE, signers_in
from metrica_hub.errors import Invalid, StoreAway

if TYPE_CHECKING:
    from metrica_hub.decisions.rollout_view import HeadView

_WAY_OUT: Final = (
    "sign it with a key that is in it for metrica-order; if devices know better, publish it at the broker yourself"
)


class Heads(Protocol):
    """What is asked of the database; it may raise ``StoreAway``."""

    async def head(self, branch: str) -> tuple[HeadView, str | None] | None:
        """Return where the branch is, and its ``allowed_signers``."""
        ...


class Verify(Protocol):
    """Who finds out whose a signature is."""

    async def __call__(self, signed: Signed, signers: str, *, namespace: str, at: str) -> str:
        """Return who of ``signers`` has signed. Raises Unusable, or NotNow when it can't be told."""
        ...


class Witnessed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of an order's signature."""

    signed_by: str | None = None
    """By the fleet repository's ``allowed_signers``; ``None``: it was not found out."""
    unjudged: str | None = None
    """Why not."""


class Witness:
    """Judges the signatures of orders, as far as this hub can."""

    def __init__(self, branch: str | None, heads: Heads, verify: Verify) -> None:
        """``branch``: ``None`` for a hub that follows none."""
        self._branch = branch
        self._heads = heads
        self._verify = verify

    async def witnessed(self, signed: Signed, *, line: str | None = None) -> Witnessed:
        """Return who has signed, or why that can't be told here.

        Args:
            signed: the order.
            line: of ``allowed_signers``, where the hub's key for orders has signed: as it should be.

        Raises:
            Invalid: ``signature-bad`` or ``signer-unknown``: nobody has who may; ``signer-unbounded``: the hub's key
                for orders might sign more than orders.
            StoreAway: the database does not answer.
            Unusable: ``not-dated``.
        """
        found = None if self._branch is None else await self._heads.head(self._branch)
        signers = _in_force(found)
        if isinstance(signers, Witnessed):
            return signers
        commit, text = signers
        try:
            who = await self._verify(signed, text, namespace=ORDERS, at=time_of(signed))
        except StoreAway:
            raise
        except NotNow as error:
            return Witnessed(unjudged=error.message)
        except Unusable as error:
            where = f"by {FILE} of the fleet repository (commit {commit}) nobody who may has signed this order"
            way_out = _WAY_OUT if line is None else f"put this line into it, and push: {line}"
            raise Invalid(f"{where}: {error.message}; {way_out}", reason=error.reason) from error
        if line is not None:
            _require_orders_alone(line, text, commit)
        return Witnessed(signed_by=who)


def _require_orders_alone(line: str, signers: str, commit: str) -> None:
    """Refuse the hub's key for orders where it may sign more: who breaks the hub could then sign commits."""
    (own,) = signers_in(line.encode())
    if any(one.key == own.key and one.namespaces != own.namespaces for one in signers_in(signers.encode())):
        what = f"by {FILE} of the fleet repository (commit {commit}) the hub's key for orders may sign more than orders"
        raise Invalid(f"{what}; have no line for it but this: {line}", reason="signer-unbounded")


def _in_force(found: tuple[HeadView, str | None] | None) -> tuple[str, str] | Witnessed:
    """Return the commit that was read and its ``allowed_signers``; or why nobody can be judged by it."""
    if found is None or found[0].read_commit is None:
        return Witnessed(unjudged="this hub has read no commit of the fleet repository")
    head, signers = found
    commit = short(head.read_commit)
    if head.problems:
        return Witnessed(unjudged=f"commit {commit} can't be used, and devices go by the {FILE} of one before")
    if signers is None:
        return Witnessed(unjudged=f"commit {commit} has no {FILE}, and each device goes by its own")
    try:
        signers_in(signers.encode())
    except Unusable as error:
        return Witnessed(unjudged=f"commit {commit}: {error.message}")
    return commit, signers
