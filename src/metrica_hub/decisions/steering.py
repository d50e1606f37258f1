"""A person's word about a rollout: what it makes of it, or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from metrica_fleet.identity import short
from metrica_fleet.rollout import Course, aborted, paused, resumed
from metrica_hub.decisions.progress import plan_of, seen_of
from metrica_hub.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metrica_hub.decisions.progress import Entry, Rollout

Verb = Literal["pause", "resume", "abort"]


def steered(verb: Verb, words: str, *, revert: bool | None) -> Callable[[Rollout, Sequence[Entry], float], Course]:
    """Return what ``verb`` makes of a rollout's course, as the store asks it; ``words``: who says so, and why.

    ``revert``: whether an abort takes devices back; ``None``: as the policy has it.

    The returned function raises:
        Conflict: it can't be done to a rollout in this state.
    """

    def decide(rollout: Rollout, entries: Sequence[Entry], now_s: float) -> Course:
        course = rollout.course
        match verb:
            case "pause":
                after = paused(course, words)
            case "resume":
                after = resumed(plan_of(rollout, entries), course, seen_of(entries), now_s, words)
            case "abort":
                back = rollout.policy.abort == "revert" if revert is None else revert
                after = aborted(course, words, revert=back)
        if after == course:
            what = f"The rollout of commit {short(rollout.commit)} is {course.state}: {_hint(verb)}."
            raise Conflict(what, reason=f"rollout-{course.state}")
        return after

    return decide


def _hint(verb: Verb) -> str:
    match verb:
        case "pause":
            return "only an open one can be paused"
        case "resume":
            return "only one that is paused or halted can go on"
        case "abort":
            return "it is over"
