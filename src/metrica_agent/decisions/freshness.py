"""May this device say that it has the newest commit? What the hub vouches for, held against what the remotes gave.

A remote that is dead or lies, and a broker that withholds what the hub says, hold a device back without any error. So
the hub vouches for where the branch is (metrica_fleet.head), and a device that can't follow says "stale":

- *held back*: the hub names a commit that no remote has given for a while. One that was given once, and was followed by
  another or refused, holds nobody back.
- *unheard*: the hub's last word is older than it is good for, by the boot clock. One that was held back on the way does
  not count from when it came: words are as far apart as the hub says.
- *a stop withheld*: the hub names a stop order that has not come here for a while, on whatever way.

Nothing is decided by it: what runs, and what is wanted, is Git's alone. Who never heard a word that is signed says
nothing, for the hub may be older than that. One that did remembers it over a restart, so that silence is noticed.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions.contact import in_words
from metrica_agent.decisions.steps import Choice, Observed, Settle
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import HeadMark, Saying
from metrica_fleet.head import Vouched
from metrica_fleet.identity import CommitId, short

STALE: Final = "stale"
"""The reason of a device that is where it should be as far as it knows, and may not know."""
REMEMBERED: Final = 6 * 3600
"""Numbers rise with the seconds: so far one that was heard may be above the one that is remembered, of one commit."""
POLLS: Final = 3
"""For so many polls a commit may be on its way."""
PATIENCE_S: Final = 30.0
"""And so much longer."""


class Word(Value, frozen=True, kw_only=True):
    """The newest word of the hub about the branch."""

    mark: HeadMark
    heard_s: float
    """When it was heard, or would have been, had it come as soon after it was said as the soonest of all."""
    since_s: float
    """Since when its commit is named."""
    offset_s: float
    """From the hub's clock to ours, by the word that came the soonest: one that was held back is late by it."""
    given: bool = False
    """Whether a remote has given that commit."""
    stop: int = 0
    """The newest stop order that the hub has."""
    stop_since_s: float = 0.0
    """Since when that one is named."""


class Stale(Value, frozen=True, kw_only=True):
    """Why this device can't say that it has the newest commit."""

    reason: str
    """``stop-withheld``, ``head-held-back`` or ``head-unheard``."""
    message: str
    commit: CommitId | None = None
    """What the hub names."""


def after(word: Word | None, vouched: Vouched, now_s: float) -> Word:
    """Return the newest word, now that ``vouched`` was heard, which is newer."""
    mark = HeadMark(number=vouched.number, commit=vouched.commit, lifetime_s=vouched.lifetime_s)
    said_s = vouched.issued_at.timestamp()
    offset_s = now_s - said_s if word is None else min(word.offset_s, now_s - said_s)
    heard_s = said_s + offset_s
    stop, stop_since_s = vouched.stop, now_s if word is None or word.stop != vouched.stop else word.stop_since_s
    if word is None or word.mark.commit != mark.commit:
        return Word(mark=mark, heard_s=heard_s, since_s=now_s, offset_s=offset_s, stop=stop, stop_since_s=stop_since_s)
    return replace(word, mark=mark, heard_s=heard_s, offset_s=offset_s, stop=stop, stop_since_s=stop_since_s)


def looked_at(word: Word | None, wanted: CommitId | None) -> Word | None:
    """Return the word, now that the remotes gave ``wanted``."""
    if word is None or word.given or word.mark.commit != wanted:
        return word
    return replace(word, given=True)


def staleness(
    word: Word | None, remembered: HeadMark | None, *, began_s: float, poll_s: float, now_s: float, stop: int = 0
) -> Stale | None:
    """Return why the device is stale; ``None``: it is not, as far as the hub ever said.

    Args:
        word: what this process heard last.
        remembered: what an earlier one heard.
        began_s: since when this process listens.
        poll_s: how often the remotes are asked.
        now_s: by the boot clock.
        stop: the number of the newest stop order that has come here; 0: none has.
    """
    mark = word.mark if word is not None else remembered
    if mark is None:
        return None
    if word is not None and word.stop > stop and now_s - word.stop_since_s >= PATIENCE_S:
        known = f"the newest here is {stop}" if stop else "none has come here"
        message = f"the hub has the stop order {word.stop}, and {known}: it is withheld on its way, or was refused here"
        return Stale(reason="stop-withheld", message=message, commit=mark.commit)
    silent_s = now_s - (word.heard_s if word is not None else began_s)
    if silent_s >= mark.lifetime_s:
        message = (
            f"the hub has not said for {in_words(silent_s)} where the branch is, which was at {short(mark.commit)}: "
            "whether this is the newest commit is not known"
        )
        return Stale(reason="head-unheard", message=message, commit=mark.commit)
    if word is not None and not word.given and now_s - word.since_s >= _patience_s(poll_s):
        message = f"the hub says that the branch is at {short(mark.commit)}, and no Git remote gives that commit"
        return Stale(reason="head-held-back", message=message, commit=mark.commit)
    return None


def due_s(
    word: Word | None, remembered: HeadMark | None, *, began_s: float, poll_s: float, now_s: float, stop: int = 0
) -> float | None:
    """Return when the answer may be another by time alone; ``None``: never."""
    mark = word.mark if word is not None else remembered
    if mark is None:
        return None
    times = [(word.heard_s if word is not None else began_s) + mark.lifetime_s]
    if word is not None and not word.given:
        times.append(word.since_s + _patience_s(poll_s))
    if word is not None and word.stop > stop:
        times.append(word.stop_since_s + PATIENCE_S)
    return min((time for time in times if time > now_s), default=None)


def again_s(word: Word) -> float:
    """Return when a word that says the same again is worth finding out who signed it: half of this one's life later."""
    return word.heard_s + word.mark.lifetime_s / 2


def to_tell(before: Stale | None, now: Stale | None) -> Saying | None:
    """Return what is to be told of a change."""
    if now is not None:
        if before is not None and (before.reason, before.commit) == (now.reason, now.commit):
            return None
        return Saying(kind="head.stale", reason=now.reason, message=now.message, commit=now.commit)
    if before is None:
        return None
    message = "the hub says where the branch is, a remote has given that commit, and no stop order is missing"
    return Saying(kind="head.fresh", message=message)


def noted(observed: Observed) -> Choice | None:
    """Remember what the hub vouched for, of each commit and now and then: a restart must not forget that it does."""
    heard, last = observed.head, observed.memory.head
    if heard is None or (last is not None and heard.number < last.number + (heard.commit == last.commit) * REMEMBERED):
        return None
    if heard == last:
        return None
    step = Settle(memory=replace(observed.memory, head=heard))
    return Choice(rule="head.heard", step=step, why=f"the hub says that the branch is at {short(heard.commit)}")


def _patience_s(poll_s: float) -> float:
    return POLLS * poll_s + PATIENCE_S
