"""What an order makes of memory, and what is said about it: safe mode, holds, and a history that is allowed."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from metrica_agent.decisions import stopping
from metrica_agent.decisions.lineage import HISTORY
from metrica_agent.decisions.orders import (
    BroughtOrder,
    Failed,
    Given,
    HistoryOrder,
    HoldOrder,
    RedeployOrder,
    RestartOrder,
    SafeModeOrder,
    SignedStopOrder,
    Work,
)
from metrica_agent.decisions.remembering import back_to, told_entered, told_going_back, told_left
from metrica_agent.decisions.steps import Obey, Observed, Settle
from metrica_agent.decisions.world import Held, Memory, Refused, SafeMode, Saying
from metrica_fleet.identity import BootId, CommitId, short

ALLOWED_KEPT = 10
"""Commits of an operator's word that were not met yet."""


def step_for(observed: Observed, given: Given, now_s: float) -> Settle | Obey:
    """Return the step that obeys an order, or that says why it can't be obeyed."""
    match given.order:
        case RestartOrder() | RedeployOrder() as work:
            failed = _hindered(observed, work)
            if failed is not None or observed.release is None:
                return Settle(memory=observed.memory, obeyed=given.id, failed=failed)
            return Obey(given=given, work=work, release=observed.release.digest)
        case _:
            return obeyed(observed.memory, given, observed.boot_id, now_s)


def _hindered(observed: Observed, work: Work) -> Failed | None:
    """Return why what runs is not to be touched now: a trial would take it for the release's own failure."""
    memory, release = observed.memory, observed.release
    if memory.stop is not None and memory.stop.obeyed is not None:
        message = f"nothing is changed while a stop is in force: {stopping.in_words(memory.stop.obeyed)}"
        return Failed(reason=stopping.STOPPED, message=message)
    if memory.trial is not None:
        message = f"release {short(memory.trial.release)} is on trial, and would be judged by it; ask again after that"
        return Failed(reason="on-trial", message=message)
    if memory.standing is None:
        return Failed(reason="nothing-confirmed", message="no release is confirmed on this device yet")
    if release is None:
        message = f"release {short(memory.standing)} is not on this disk now; the device brings it back first"
        return Failed(reason="release-lost", message=message)
    if observed.current != release.digest or (memory.safe is not None and not memory.safe.applied):
        return Failed(reason="not-settled", message="another release is made to run just now; ask again after that")
    if isinstance(work, RedeployOrder):
        return None
    names = sorted(service.name for service in release.services)
    if work.service not in names:
        message = f'the release has no service "{work.service}"; it has {", ".join(names) or "none"}'
        return Failed(reason="unknown-service", message=message)
    if work.service in memory.resting:
        message = f"{work.service} was stopped to spare the machine, and comes back when that is well"
        return Failed(reason="resting", message=message)
    return None


def obeyed(memory: Memory, given: Given, boot_id: BootId, now_s: float) -> Settle:
    """What an order makes of ``memory``; one that is obeyed already changes nothing."""
    match given.order:
        case SafeModeOrder(on=True, reason=why):
            settled = _ordered_into_safe_mode(memory, why)
        case SafeModeOrder(reason=why):
            settled = _ordered_out_of_safe_mode(memory, why, boot_id, now_s)
        case HoldOrder(on=on, reason=why):
            settled = _held(memory, why) if on else _released(memory, why)
        case HistoryOrder(commit=commit, reason=why):
            settled = history_allowed(memory, commit, why)
        case SignedStopOrder():
            settled = Settle(memory=memory)  # the stop task's
        case BroughtOrder(commit=commit, reason=why):
            settled = _brought(memory, commit, why)
        case RestartOrder() | RedeployOrder():
            settled = Settle(memory=memory)
        case _:
            assert_never(given.order)
    return replace(settled, obeyed=given.id)


def _ordered_into_safe_mode(memory: Memory, why: str) -> Settle:
    """A commit on trial is no worse for it: it is tried again when safe mode is left."""
    if memory.safe is not None and memory.trial is None:
        return Settle(memory=memory)
    safe = SafeMode(reason="ordered", message=f"ordered: {why}", commit=memory.accepted)
    return Settle(memory=replace(memory, trial=None, safe=safe), sayings=(told_entered(safe),))


def _ordered_out_of_safe_mode(memory: Memory, why: str, boot_id: BootId, now_s: float) -> Settle:
    """The confirmed release is gone back to like after a failed trial, and judged like there."""
    safe, confirmed = memory.safe, memory.confirmed
    if safe is None:
        return Settle(memory=memory)
    left = told_left(safe, f"ordered: {why}")
    memory = replace(memory, safe=None)
    if confirmed is None or memory.trial is not None:
        return Settle(memory=memory, sayings=(left,))
    back = back_to(confirmed, boot_id, now_s)
    return Settle(memory=replace(memory, trial=back), sayings=(left, told_going_back(back)))


def _held(memory: Memory, why: str) -> Settle:
    if memory.held is not None:
        return Settle(memory=memory)
    message = f"nothing changes until it is lifted: {why}"
    saying = Saying(kind="hold.begun", reason="ordered", message=message)
    return Settle(memory=replace(memory, held=Held(reason="ordered", message=message)), sayings=(saying,))


def _released(memory: Memory, why: str) -> Settle:
    if memory.held is None:
        return Settle(memory=memory)
    saying = Saying(kind="hold.ended", reason="ordered", message=f"changes go on: {why}")
    return Settle(memory=replace(memory, held=None), sayings=(saying,))


def _brought(memory: Memory, commit: CommitId, why: str) -> Settle:
    """Note that nobody has to be asked about ``commit``; one at a time, as sticks come."""
    if memory.brought == commit:
        return Settle(memory=memory)
    message = f"commit {short(commit)} was brought on a stick, {why}"
    saying = Saying(kind="bundle.brought", message=message[:1000], commit=commit)
    return Settle(memory=replace(memory, brought=commit), sayings=(saying,))


def history_allowed(memory: Memory, commit: CommitId, reason: str) -> Settle:
    """An operator's word: ``commit`` may follow, once, whatever its history. All else about it is judged as ever."""
    if commit == memory.accepted:
        message = f"commit {short(commit)} is accepted already; there was nothing to allow ({reason})"
        return Settle(memory=memory, sayings=(Saying(kind="history.allowed", message=message, commit=commit),))
    if commit in memory.allowed:
        return Settle(memory=memory)
    allowed = (commit, *memory.allowed)[:ALLOWED_KEPT]
    last = memory.last_refused
    after = replace(
        memory,
        allowed=allowed,
        refused=tuple(one for one in memory.refused if not _lifted(one, commit)),
        last_refused=None if last is not None and _lifted(last, commit) else last,
    )
    message = f"an operator allowed commit {short(commit)} to follow, whatever its history: {reason}"
    saying = Saying(kind="history.allowed", reason="operator", message=message[:1000], commit=commit)
    return Settle(memory=after, sayings=(saying,))


def _lifted(refusal: Refused, commit: CommitId) -> bool:
    return refusal.commit == commit and refusal.reason in HISTORY
