"""How a mirror of the branch keeps up with it.

What is measured is for how long the two have differed, not how old the mirror's commit is: a branch that nobody has
touched for a week is no mirror's fault, and a mirror that is asked a moment before the branch differs for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from metrica_fleet.identity import CommitId


@dataclass(frozen=True, slots=True)
class Standing:
    """A mirror as it was found."""

    reachable: bool
    differs_since_s: float | None = None
    """On the hub's own clock; ``None``: it has what the branch has, or nobody knows."""
    is_known: bool = False
    """Whether it, and the branch, answered: else nothing can be said of how far behind it is."""

    def behind_s(self, now_s: float) -> float | None:
        """Return for how long it has been behind, 0 where it is not; ``None``: not known."""
        if not self.is_known:
            return None
        return 0.0 if self.differs_since_s is None else max(0.0, now_s - self.differs_since_s)


def found(before: Standing | None, *, head: CommitId | None, mirrored: CommitId | None, now_s: float) -> Standing:
    """Return how a mirror stands after it was asked.

    Args:
        before: how it stood; ``None``: it was never asked.
        head: the branch's commit; ``None``: not known.
        mirrored: the mirror's; ``None``: it did not answer.
        now_s: the hub's own clock.
    """
    since_s = None if before is None else before.differs_since_s
    if mirrored is None:
        return Standing(reachable=False, differs_since_s=since_s)
    if head is None:
        return Standing(reachable=True, differs_since_s=since_s)
    if head == mirrored:
        return Standing(reachable=True, is_known=True)
    return Standing(reachable=True, differs_since_s=now_s if since_s is None else since_s, is_known=True)
