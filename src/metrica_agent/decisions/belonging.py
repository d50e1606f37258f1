"""Whether the ledger belongs to the machine that opened it, or lay on a card that was moved or cloned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metrica_agent.decisions.world import Saying

if TYPE_CHECKING:
    from collections.abc import Sequence


class Belonging(NamedTuple):
    """To which machine the ledger is to belong from now on, and what is to be said about it."""

    machine: str
    sayings: tuple[Saying, ...] = ()


def belonging(known: str, here: Sequence[str]) -> Belonging:
    """Return it, given the machine that is ``known`` and all that tells the one that is ``here``.

    Each is ``source:hash``. What can't be compared, because a source is missing here, proves nothing.
    """
    if not known:
        return Belonging(here[0] if here else "")
    source = known.partition(":")[0]
    same_source = next((one for one in here if one.partition(":")[0] == source), known)
    if same_source == known:
        return Belonging(known)
    saying = Saying(
        kind="ledger.moved",
        reason="another-machine",
        message="this ledger was written on another machine: its card was moved, or cloned",
        detail={"source": source},
    )
    return Belonging(here[0], (saying,))
