"""May this commit follow that one? Forward only; a lagging mirror is no rollback; the unproven is refused.

| relation of the offered commit to the accepted one | verdict |
| --- | --- |
| FIRST: nothing was accepted before | accept |
| SAME | ignore |
| FORWARD: the accepted commit is one of its ancestors | accept |
| BEHIND: it is an ancestor of the accepted commit | ignore: a mirror lags, or the branch was moved back |
| DIVERGED: another history | refuse, ``history-diverged`` |
| UNPROVEN: the history between the two can't be had | refuse, ``history-unproven`` |

A commit that an operator allowed by name is accepted whatever its relation, once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never

from metrica_agent.decisions.value import Value
from metrica_fleet.identity import CommitId, short


class Relation(StrEnum):
    """How an offered commit stands to the one that was accepted last."""

    FIRST = "first"
    """There is nothing to compare with."""
    SAME = "same"
    FORWARD = "forward"
    BEHIND = "behind"
    DIVERGED = "diverged"
    """Neither comes from the other: another history, or a fork of this one (``git push --force``)."""
    UNPROVEN = "unproven"
    """Not forward as far as can be seen, and too little of the history can be had to say more."""


class Verdict(StrEnum):
    """What to do with an offered commit."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    """Stay, look again at the next poll; no fault of the commit."""
    REFUSE = "refuse"
    """Stay, say so loudly, do not try this commit again by itself."""


class Judgement(Value, frozen=True, kw_only=True):
    """A verdict, with the slug and the sentence that go into its event."""

    verdict: Verdict
    reason: str
    message: str


HISTORY: Final = frozenset({"history-diverged", "history-unproven"})
"""Why a commit is refused whose history will not do; an operator's word lifts it."""


def _way_out(commit: CommitId) -> str:
    command = f'metrica-agent accept-history {commit} --reason "..."'
    return f"commit on top of the accepted one, or allow this history, on the device: {command}"


def may_follow(
    relation: Relation,
    *,
    commit: CommitId,
    accepted: CommitId | None,
    allowed: frozenset[CommitId] = frozenset(),
) -> Judgement:
    """Judge whether the device may go from ``accepted`` to ``commit``.

    Args:
        relation: What the Git edge found out about the two.
        commit: The branch's commit at a remote.
        accepted: The newest commit that was taken; ``None`` before the first.
        allowed: Commits that an operator allowed to be followed although their history does not fit.
    """
    if relation is Relation.SAME or commit == accepted:
        return Judgement(verdict=Verdict.IGNORE, reason="same", message=f"{short(commit)} is what is accepted")
    if commit in allowed:
        return Judgement(
            verdict=Verdict.ACCEPT,
            reason="history-allowed",
            message=f"an operator allowed {short(commit)} to follow {short(accepted)}; its history: {relation}",
        )
    if accepted is None:
        return Judgement(
            verdict=Verdict.ACCEPT,
            reason="first",
            message=f"{short(commit)} is the first commit of this device",
        )
    return _judged(relation, commit, accepted)


def _judged(relation: Relation, commit: CommitId, accepted: CommitId) -> Judgement:
    new, old = short(commit), short(accepted)
    match relation:
        case Relation.FORWARD:
            return Judgement(verdict=Verdict.ACCEPT, reason="forward", message=f"{new} comes after {old}")
        case Relation.SAME | Relation.BEHIND:
            message = (
                f"{new} is older than the accepted {old}: the remote lags, or its branch was moved back; "
                f"if that is intended, {_way_out(commit)}"
            )
            return Judgement(verdict=Verdict.IGNORE, reason="behind", message=message)
        case Relation.DIVERGED:
            message = f"{new} does not come after the accepted {old}: the branch was rewritten; {_way_out(commit)}"
            return Judgement(verdict=Verdict.REFUSE, reason="history-diverged", message=message)
        case Relation.FIRST | Relation.UNPROVEN:
            message = (
                f"nothing shows that {new} comes after the accepted {old}: the remote does not have {old}, "
                f"so it lags far behind or its branch was rewritten; {_way_out(commit)}"
            )
            return Judgement(verdict=Verdict.REFUSE, reason="history-unproven", message=message)
        case _:
            assert_never(relation)
