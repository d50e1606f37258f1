"""How memory changes, and what is said about it: every transition a release can make stands in this file.

- forward: wanted, accepted, staged, (preflighted), begun, passed = confirmed
- each of them may fail instead: refused, and after a trial the way back begins
- back: begun, passed = rolled back; failed = the release before it is next, or safe mode
- safe mode: entered, staged, running; left by a newer commit that is confirmed, or by an order (obeying.py)
"""

from __future__ import annotations

from msgspec.structs import replace

from metrica_agent.decisions import trust
from metrica_agent.decisions.steps import Observed, Settle
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import (
    Deployed,
    Desired,
    Memory,
    Portrait,
    Refused,
    SafeMode,
    Saying,
    Trial,
    TrialKind,
    Unacceptable,
)
from metrica_fleet.identity import BootId, CommitId, ReleaseDigest, short


class Failure(Value, frozen=True, kw_only=True):
    """Why a trial failed."""

    reason: str
    message: str
    output: str = ""
    """The end of what Compose said."""
    of_release: bool = True
    """Whether the release is bad, so that another commit which means the same is not tried either."""


REFUSED_KEPT = 100
"""Refusals that are remembered: far more than a branch has heads that a device could meet again."""
EARLIER_KEPT = 2
"""Confirmed releases before the last one that are kept to fall back on."""


def accepted(memory: Memory, desired: Desired) -> Settle:
    """The commit goes forward from the one before, or was allowed to follow it: it is what this device wants now."""
    after = replace(memory, accepted=desired.commit, role=desired.role, tags=desired.tags)
    if memory.accepted == desired.commit:
        return Settle(memory=after if after.trust is not None else trust.handed_on(after, desired).memory)
    by_leave = "; an operator allowed it, whatever its history" if desired.commit in memory.allowed else ""
    message = f"commit {short(desired.commit)} is wanted{by_leave}"
    seen = Saying(kind="commit.seen", commit=desired.commit, message=message)
    handed_on = trust.handed_on(_leave_used(after, desired.commit), desired)
    return Settle(memory=handed_on.memory, sayings=(seen, *handed_on.sayings))


def unacceptable(memory: Memory, candidate: Unacceptable) -> Settle:
    """The commit's content or history is refused before anything of it is staged."""
    refusal = Refused(commit=candidate.commit, reason=candidate.reason, message=candidate.message)
    saying = Saying(kind="commit.refused", reason=candidate.reason, message=candidate.message, commit=candidate.commit)
    return Settle(memory=_with_refusal(_leave_used(memory, candidate.commit), refusal), sayings=(saying,))


def _leave_used(memory: Memory, commit: CommitId) -> Memory:
    """The commit was met: an operator's leave is good for once, and a later force push needs a word of its own."""
    return replace(memory, allowed=tuple(one for one in memory.allowed if one != commit))


def staged(memory: Memory, deployed: Deployed) -> Settle:
    """The commit's release is complete on disk."""
    saying = Saying(
        kind="release.staged",
        commit=deployed.commit,
        release=deployed.release,
        message=f"commit {short(deployed.commit)} is release {short(deployed.release)}, complete on disk",
    )
    return Settle(memory=replace(memory, resolved=deployed), sayings=(saying,))


def preflighted(memory: Memory, commit: CommitId, release: ReleaseDigest) -> Settle:
    """Everything that the release needs is here. Not remembered: after a restart it is looked at again."""
    saying = Saying(
        kind="release.preflighted", commit=commit, release=release, message="images, bind sources and room are here"
    )
    return Settle(memory=memory, sayings=(saying,))


def waiting(memory: Memory, commit: CommitId | None, reason: str, message: str) -> Settle:
    """Something is in the way of the next step."""
    saying = Saying(kind="release.waiting", reason=reason, message=message, commit=commit)
    return Settle(memory=memory, sayings=(saying,))


def set_right(memory: Memory, release: ReleaseDigest, differences: tuple[str, ...]) -> Settle:
    """What ran was made equal to what is to run: to the safe-mode stack for the first time, or after drift."""
    safe = memory.safe
    if safe is not None and not safe.applied:
        message = "the safe-mode stack runs, and nothing else"
        saying = Saying(kind="safe_mode.running", reason=safe.reason, message=message, release=release)
        return Settle(memory=replace(memory, safe=replace(safe, applied=True), resting=()), sayings=(saying,))
    message = "; ".join(differences)[:1000]
    saying = Saying(kind="drift.repaired", reason="containers", message=message, release=release)
    return Settle(memory=memory, sayings=(saying,))


def unchanged(memory: Memory, deployed: Deployed) -> Settle:
    """The commit means the release that is already confirmed: it is confirmed as well, and nothing restarts."""
    saying = Saying(
        kind="release.confirmed",
        reason="unchanged",
        commit=deployed.commit,
        release=deployed.release,
        message=f"commit {short(deployed.commit)} changes nothing for this device",
    )
    return Settle(memory=replace(memory, confirmed=deployed, last_refused=None), sayings=(saying,))


def refused(memory: Memory, refusal: Refused) -> Settle:
    """The commit is not tried (again); what runs was not touched."""
    saying = Saying(
        kind="release.refused",
        reason=refusal.reason,
        message=refusal.message,
        commit=refusal.commit,
        release=refusal.release,
    )
    return Settle(memory=_with_refusal(memory, refusal), sayings=(saying,))


def begun(observed: Observed, deployed: Deployed, now_s: float) -> Settle:
    """The switch is recorded before anything is switched."""
    excused = tuple(sorted(observed.ailing_since_s))
    trial = Trial(
        kind=TrialKind.FORWARD,
        commit=deployed.commit,
        release=deployed.release,
        boot_id=observed.boot_id,
        begun_s=now_s,
        excused=excused,
    )
    saying = Saying(
        kind="release.trial_started",
        commit=deployed.commit,
        release=deployed.release,
        message=f"switching to release {short(deployed.release)}",
        detail={"excused": ", ".join(excused)} if excused else {},
    )
    return Settle(memory=replace(observed.memory, trial=trial, waiting=None, asking=None), sayings=(saying,))


def rebooted(memory: Memory, trial: Trial, boot_id: BootId, now_s: float) -> Settle:
    """The machine was started during a trial: it is applied anew, and the boot is counted."""
    again = replace(trial, boot_id=boot_id, begun_s=now_s, applied_s=None, boots=trial.boots + 1)
    saying = Saying(
        kind="trial.rebooted",
        commit=trial.commit,
        release=trial.release,
        message=f"the machine was started during the trial of release {short(trial.release)}; it is applied anew",
        detail={"boots": again.boots},
    )
    return Settle(memory=replace(memory, trial=again), sayings=(saying,))


def staged_again(memory: Memory) -> Settle:
    """The staged release is not as it was published: it is made anew."""
    return Settle(memory=replace(memory, resolved=None))


def applied(memory: Memory, now_s: float) -> Memory:
    """Compose has done what the trial's release asks for; its soak may begin."""
    trial = memory.trial
    return memory if trial is None else replace(memory, trial=replace(trial, applied_s=now_s))


def applying(memory: Memory, trial: Trial) -> Memory:
    """Compose is about to be run for the trial: counted before, so that a crash in it counts too."""
    return replace(memory, trial=replace(trial, applied_s=None, applies=trial.applies + 1), resting=())


def not_applied(memory: Memory, trial: Trial) -> Memory:
    """Compose could not be run: the engine's absence is not held against the release."""
    return replace(memory, trial=replace(trial, applied_s=None))


def passed(memory: Memory, trial: Trial, now_s: float, portrait: Portrait | None = None) -> Settle:
    """The trial's release stayed well: confirmed on the way forward, rolled back on the way back.

    Repairs of what ran before are forgotten, and what runs is remembered as ``portrait``: drift is measured against it.
    """
    deployed = Deployed(commit=trial.commit, release=trial.release)
    took_s = round(now_s - trial.begun_s, 1)
    safe = memory.safe
    left = () if safe is None else (told_left(safe, f"release {short(trial.release)} runs and stayed well"),)
    if trial.kind is TrialKind.BACK:
        saying = Saying(
            kind="rollback.finished",
            commit=trial.commit,
            release=trial.release,
            message=f"release {short(trial.release)} runs again and is well",
            detail={"took_s": took_s},
        )
        after = replace(memory, trial=None, confirmed=deployed, safe=None, portrait=portrait, contests=(), mending=None)
        return Settle(memory=replace(after, arrived=None), sayings=(saying, *left))
    saying = Saying(
        kind="release.confirmed",
        commit=trial.commit,
        release=trial.release,
        message=f"release {short(trial.release)} runs and stayed well",
        detail={"took_s": took_s},
    )
    earlier = _earlier(memory, deployed.release)
    after = replace(
        memory,
        trial=None,
        confirmed=deployed,
        earlier=earlier,
        last_refused=None,
        safe=None,
        portrait=portrait,
        contests=(),
        mending=None,
        arrived=deployed.commit,
    )
    return Settle(memory=after, sayings=(saying, *left))


def failed(memory: Memory, trial: Trial, why: Failure, *, boot_id: BootId, now_s: float) -> Settle:
    """The trial's release is bad. Forward: refused, and the way back begins. Back: the one before is next.

    Where nothing is left to go back to, safe mode is entered; a trial that began in safe mode ends there.
    """
    if trial.kind is TrialKind.BACK:
        return _rollback_failed(memory, trial, why, boot_id=boot_id, now_s=now_s)
    told = _told("release.refused", trial, why)
    memory = _ended(memory, trial, why)
    if memory.safe is not None:
        return Settle(memory=replace(memory, safe=replace(memory.safe, applied=False)), sayings=(told,))
    if memory.confirmed is None:
        return _nothing_left(memory, told)
    back = back_to(memory.confirmed, boot_id, now_s, excused=trial.excused)
    return Settle(memory=replace(memory, trial=back), sayings=(told, told_going_back(back)))


def _rollback_failed(memory: Memory, trial: Trial, why: Failure, *, boot_id: BootId, now_s: float) -> Settle:
    told = _told("rollback.failed", trial, why)
    if not memory.earlier:
        return _nothing_left(memory, told)
    target, rest = memory.earlier[0], memory.earlier[1:]
    back = back_to(target, boot_id, now_s, excused=trial.excused)
    after = replace(memory, confirmed=target, earlier=rest, trial=back)
    return Settle(memory=after, sayings=(told, told_going_back(back)))


def reverted(memory: Memory, refusal: Refused, target: Deployed, *, boot_id: BootId, now_s: float) -> Settle:
    """Go back to ``target`` from a release that runs well, and is the last to fall back on should ``target`` not."""
    others = tuple(one for one in memory.earlier if one.release != target.release)
    earlier = others if memory.confirmed is None else (*others, memory.confirmed)
    back = back_to(target, boot_id, now_s)
    after = replace(_with_refusal(memory, refusal), confirmed=target, earlier=earlier, trial=back, waiting=None)
    told = Saying(kind="release.refused", reason=refusal.reason, message=refusal.message, commit=refusal.commit)
    return Settle(memory=after, sayings=(told, told_going_back(back)))


def _nothing_left(memory: Memory, told: Saying) -> Settle:
    entered = safe_mode_entered(replace(memory, trial=None), "no-release-comes-up", "there is no release to go back to")
    return Settle(memory=entered.memory, sayings=(told, *entered.sayings))


def _ended(memory: Memory, trial: Trial, why: Failure) -> Memory:
    """Return ``memory`` after a trial forward that failed: the commit is refused, its release known as bad."""
    bad = trial.release if why.of_release else None
    refusal = Refused(commit=trial.commit, reason=why.reason, message=why.message, release=bad)
    return replace(_with_refusal(memory, refusal), trial=None, resolved=None)


def _told(kind: str, trial: Trial, why: Failure) -> Saying:
    return Saying(
        kind=kind,
        reason=why.reason,
        message=why.message,
        commit=trial.commit,
        release=trial.release,
        detail={"output": why.output} if why.output else {},
    )


def back_to(target: Deployed, boot_id: BootId, now_s: float, *, excused: tuple[str, ...] = ()) -> Trial:
    """Return the trial that leads back to ``target``: judged by the same rules, with the failed one's excuses."""
    return Trial(
        kind=TrialKind.BACK,
        commit=target.commit,
        release=target.release,
        boot_id=boot_id,
        begun_s=now_s,
        excused=excused,
    )


def told_going_back(back: Trial) -> Saying:
    """Return what is said when the way back begins."""
    message = f"going back to release {short(back.release)}"
    return Saying(kind="rollback.started", commit=back.commit, release=back.release, message=message)


# --- safe mode -------------------------------------------------------------------------------------------------


def safe_mode_entered(memory: Memory, reason: str, message: str) -> Settle:
    """The stack that always works is to run from now on. A commit that was on trial meanwhile is refused."""
    sayings: tuple[Saying, ...] = ()
    if memory.trial is not None and memory.trial.kind is TrialKind.FORWARD:
        why = Failure(reason=f"{reason}-in-trial", message=message)
        sayings = (_told("release.refused", memory.trial, why),)
        memory = _ended(memory, memory.trial, why)
    safe = SafeMode(reason=reason, message=message, commit=memory.accepted)
    return Settle(memory=replace(memory, trial=None, safe=safe), sayings=(*sayings, told_entered(safe)))


def safe_mode_staged(memory: Memory, release: ReleaseDigest) -> Settle:
    """The safe-mode stack is complete on disk."""
    safe = memory.safe
    return Settle(memory=memory if safe is None else replace(memory, safe=replace(safe, release=release)))


def safe_mode_doubted(memory: Memory, release: ReleaseDigest) -> Memory:
    """The safe-mode stack could not be made to run: it is staged anew, for somebody may have mended its folder."""
    safe = memory.safe
    if safe is None or safe.release != release:
        return memory
    return replace(memory, safe=replace(safe, release=None))


def told_entered(safe: SafeMode) -> Saying:
    """Return what is said when safe mode is entered."""
    return Saying(kind="safe_mode.entered", reason=safe.reason, message=safe.message, commit=safe.commit)


def told_left(safe: SafeMode, why: str) -> Saying:
    """Return what is said when it is left."""
    return Saying(kind="safe_mode.left", reason=safe.reason, message=f"safe mode is left: {why}")


def _with_refusal(memory: Memory, refusal: Refused) -> Memory:
    others = tuple(known for known in memory.refused if known.commit != refusal.commit)
    asks = memory.asking if memory.asking is not None and memory.asking.commit != refusal.commit else None
    return replace(memory, refused=(refusal, *others)[:REFUSED_KEPT], last_refused=refusal, asking=asks)


def _earlier(memory: Memory, release: ReleaseDigest) -> tuple[Deployed, ...]:
    before = (memory.confirmed, *memory.earlier) if memory.confirmed else memory.earlier
    return tuple(deployed for deployed in before if deployed.release != release)[:EARLIER_KEPT]
