"""The emergency stop on a device: what is in force, and the rules by which it is obeyed before anything else.

| level | what is still done |
| --- | --- |
| freeze | the way back, and a trial that is applied, go on; one that is not is taken back at once; no step is begun |
| safe | the safe-mode stack is made to run and kept so |
| halt | the workloads are stopped, and again if something starts them; ``current`` is the confirmed release |

Under each, commits are still taken note of (what is wanted, and who may sign), and a low disk is cleaned: neither
touches what runs. What is lifted is left the way that a failed trial is: back to the confirmed release, judged by the
same rules. A commit that a stop takes back is no worse for it and is tried again.

Level-triggered like all else: the orders are states, and each look holds what is in force against what was obeyed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from msgspec.structs import replace

from metrica_agent.decisions.remembering import back_to, told_entered, told_going_back, told_left
from metrica_agent.decisions.steps import REST_S, Choice, Halt, Observed, Settle, Step, Switch, Wait, held_up
from metrica_agent.decisions.world import (
    Desired,
    Heard,
    InForce,
    Memory,
    SafeMode,
    Saying,
    Stopped,
    TrialKind,
    Unacceptable,
)
from metrica_fleet.identity import short
from metrica_fleet.stop import Level, Whom, strength, strongest

if TYPE_CHECKING:
    from metrica_fleet.identity import BootId, DeviceId

STOPPED: Final = "stopped"
"""The reason of whatever a stop does."""
NOTED: Final = "stop.note"
"""The rule by which an order is remembered that changes nothing here."""


# --- what is in force -----------------------------------------------------------------------------------------


def known(memory: Memory, heard: Heard | None, candidate: Desired | Unacceptable | None) -> Stopped:
    """Return what is known to be stopped: the order of the highest number, and what Git's newest commit says."""
    stop = memory.stop or Stopped()
    if heard is not None and heard.order.number > stop.number:
        stop = replace(stop, number=heard.order.number, ordered=heard.order.stops, by=heard.by)
    if candidate is None or candidate.stops is None or candidate.stops == stop.in_git == ():
        return stop
    return replace(stop, in_git=candidate.stops, commit=candidate.commit if candidate.stops else None)


def in_force(stop: Stopped, memory: Memory, device: DeviceId) -> InForce | None:
    """Return the stop that counts for this device, the stronger one of the order's and Git's; ``None``: it is free."""
    whom = Whom(device=device, role=memory.role, tags=memory.tags)
    ordered, in_git = strongest(stop.ordered, whom), strongest(stop.in_git, whom)
    if in_git is not None and (ordered is None or strength(in_git) > strength(ordered)):
        return InForce(stop=in_git, source="git", number=stop.number, by=f"commit {short(stop.commit)}")
    if ordered is not None:
        return InForce(stop=ordered, source="order", number=stop.number, by=stop.by)
    return None


def level(memory: Memory) -> Level | None:
    """Return how far this device is stopped, as it was told."""
    obeyed = memory.stop.obeyed if memory.stop is not None else None
    return obeyed.stop.level if obeyed is not None else None


# --- rules ----------------------------------------------------------------------------------------------------


def begun(
    memory: Memory,
    heard: Heard | None,
    candidate: Desired | Unacceptable | None,
    *,
    device: DeviceId,
    boot_id: BootId,
    now_s: float,
) -> Choice | None:
    """Return the step by which a stop begins, is another or is lifted; all that it asks for follows from there.

    It asks for no look at anything but memory: a disk or an engine that hangs keeps no stop from being written down.
    """
    stop = known(memory, heard, candidate)
    force = in_force(stop, memory, device)
    before = memory.stop.obeyed if memory.stop is not None else None
    if force != before:
        step = _obeyed(memory, stop, force, boot_id, now_s)
        return Choice(rule="stop.obey" if force else "stop.lift", step=step, why=step.sayings[0].message)
    if stop == (memory.stop or Stopped()):
        return None
    why = f"order {stop.number} changes nothing for this device"
    return Choice(rule=NOTED, step=Settle(memory=replace(memory, stop=stop)), why=why)


def obey(observed: Observed, now_s: float) -> Choice | None:
    """Return what a stop asks for now: a step, or a wait when all is done; ``None``: nothing is stopped."""
    memory = observed.memory
    begins = begun(
        memory,
        observed.heard,
        observed.candidate,
        device=observed.device,
        boot_id=observed.boot_id,
        now_s=now_s,
    )
    force = memory.stop.obeyed if memory.stop is not None else None
    if begins is not None or force is None:
        return begins
    match force.stop.level:
        case Level.FREEZE:
            step, rule = _frozen(observed, now_s)
        case Level.SAFE:
            step, rule = _kept_safe(observed)
        case Level.HALT:
            step, rule = _halted(observed)
        case _:
            assert_never(force.stop.level)
    why = in_words(force)
    if step is None:
        return Choice(rule="stop", step=Wait(until_s=now_s + REST_S), why=why)
    return held_up(observed, step, now_s) or Choice(rule=f"stop.{rule}", step=step, why=why)


def bounded(observed: Observed, choice: Choice, now_s: float) -> Choice:
    """Return ``choice``, made for a trial, as a freeze allows it: one that goes forward is judged, and no more."""
    trial = observed.memory.trial
    forward = trial is not None and trial.kind is TrialKind.FORWARD
    if level(observed.memory) is not Level.FREEZE or not forward or isinstance(choice.step, Settle | Wait):
        return choice
    step = _taken_back(observed.memory, observed.boot_id, now_s)
    return Choice(rule="stop.back", step=step, why=f"no step forward is begun any more: {choice.why}")


def _frozen(observed: Observed, now_s: float) -> tuple[Step | None, str]:
    memory = observed.memory
    if memory.trial is not None:
        forward = memory.trial.kind is TrialKind.FORWARD
        begun = memory.trial.applied_s is None or memory.trial.boot_id != observed.boot_id
        return (_taken_back(memory, observed.boot_id, now_s), "back") if forward and begun else (None, "")
    if memory.confirmed is None and memory.safe is None:
        return _at_rest(observed)  # whatever of a first release runs is not confirmed
    at_rest = memory.safe is None or memory.safe.applied
    return (_done(memory, "no step is begun any more"), "done") if at_rest and not _is_done(memory) else (None, "")


def _kept_safe(observed: Observed) -> tuple[Step | None, str]:
    memory = observed.memory
    if memory.trial is not None or memory.safe is None:
        return _into_safe_mode(memory), "safe"
    if memory.safe.applied and not _is_done(memory):
        return _done(memory, "the safe-mode stack runs, and nothing else"), "done"
    return None, ""


def _halted(observed: Observed) -> tuple[Step | None, str]:
    if observed.memory.trial is not None:
        return _dropped(observed.memory), "drop"
    return _at_rest(observed)


def _at_rest(observed: Observed) -> tuple[Step | None, str]:
    """Stop what runs, have ``current`` point at what is confirmed, and tell that once."""
    memory, standing = observed.memory, observed.memory.standing
    if not observed.halted or observed.running:
        return Halt(), "halt"
    if standing is not None and observed.current != standing and standing in observed.complete:
        return Switch(release=standing), "switch"
    return (None, "") if _is_done(memory) else (_done(memory, "no workload runs"), "done")


# --- what is remembered ---------------------------------------------------------------------------------------


def _obeyed(memory: Memory, stop: Stopped, force: InForce | None, boot_id: BootId, now_s: float) -> Settle:
    """Another stop is in force than before, or none: it counts from this transaction on."""
    before = memory.stop.obeyed if memory.stop is not None else None
    told = (_told_obeyed(force),) if force is not None else (_told_lifted(before, stop),)
    after = replace(memory, stop=replace(stop, obeyed=force, done=False))
    if before is None or (force is not None and force.stop.level is before.stop.level):
        return Settle(memory=after, sayings=told)
    left = _left(after, before, force, boot_id, now_s)
    return Settle(memory=left.memory, sayings=(*told, *left.sayings))


def _left(memory: Memory, before: InForce, force: InForce | None, boot_id: BootId, now_s: float) -> Settle:
    """Leave what a halt or safe mode by order did: the confirmed release is gone back to like after a failed trial."""
    sayings: tuple[Saying, ...] = ()
    if before.stop.level is Level.FREEZE:
        return Settle(memory=memory)
    safe = memory.safe
    if before.stop.level is Level.SAFE:
        if safe is None or safe.reason != STOPPED:
            return Settle(memory=memory)
        memory, sayings = replace(memory, safe=None), (told_left(safe, "the stop is lifted"),)
    elif safe is not None:
        return Settle(memory=replace(memory, safe=replace(safe, applied=False)))
    goes_back = force is None or force.stop.level is Level.FREEZE
    if not goes_back or memory.confirmed is None or memory.trial is not None:
        return Settle(memory=memory, sayings=sayings)
    back = back_to(memory.confirmed, boot_id, now_s)
    return Settle(memory=replace(memory, trial=back), sayings=(*sayings, told_going_back(back)))


def _taken_back(memory: Memory, boot_id: BootId, now_s: float) -> Settle:
    """The trial forward, which is not applied, ends where it began."""
    trial, confirmed = memory.trial, memory.confirmed
    dropped = _dropped(memory)
    if trial is None or confirmed is None or memory.safe is not None:
        return dropped
    back = back_to(confirmed, boot_id, now_s, excused=trial.excused)
    return replace(
        dropped, memory=replace(dropped.memory, trial=back), sayings=(*dropped.sayings, told_going_back(back))
    )


def _dropped(memory: Memory) -> Settle:
    """The trial ends without a verdict. What a trial began in safe mode leaves behind goes with the safe-mode stack."""
    trial, safe = memory.trial, memory.safe
    after = replace(memory, trial=None, safe=None if safe is None else replace(safe, applied=False))
    if trial is None or trial.kind is TrialKind.BACK:
        return Settle(memory=after)
    message = f"the trial of release {short(trial.release)} is given up for the stop; it is tried again after it"
    saying = Saying(kind="release.waiting", reason=STOPPED, message=message, commit=trial.commit, release=trial.release)
    return Settle(memory=after, sayings=(saying,))


def _into_safe_mode(memory: Memory) -> Settle:
    dropped = _dropped(memory)
    if memory.safe is not None:
        return dropped
    safe = SafeMode(reason=STOPPED, message="by the emergency stop", commit=memory.accepted)
    return replace(dropped, memory=replace(dropped.memory, safe=safe), sayings=(*dropped.sayings, told_entered(safe)))


def _is_done(memory: Memory) -> bool:
    return memory.stop is not None and memory.stop.done


def _done(memory: Memory, what: str) -> Settle:
    if memory.stop is None or memory.stop.obeyed is None:
        return Settle(memory=memory)
    message = f"{what}, by {_name(memory.stop.obeyed)}"
    saying = Saying(kind="stop.done", reason=memory.stop.obeyed.stop.level, message=message)
    return Settle(memory=replace(memory, stop=replace(memory.stop, done=True)), sayings=(saying,))


# --- in words -------------------------------------------------------------------------------------------------


def in_words(force: InForce) -> str:
    """Return what is in force, by whom and why, in one sentence's part."""
    stop = force.stop
    what = {
        Level.FREEZE: "nothing changes any more",
        Level.SAFE: "the safe-mode stack is to run, and nothing else",
        Level.HALT: "no workload is to run",
    }[stop.level]
    where = "" if stop.scope == "fleet" else f" ({stop.scope})"
    return f"{what}{where}, by {_name(force)}{f': {stop.reason}' if stop.reason else ''}"


def _name(force: InForce) -> str:
    return f"{force.by}, stop order {force.number}" if force.source == "order" else f"STOP in {force.by}"


def _told_obeyed(force: InForce) -> Saying:
    return Saying(
        kind="stop.obeyed",
        reason=force.stop.level,
        message=in_words(force),
        detail={"number": force.number, "source": force.source, "by": force.by, "scope": force.stop.scope},
    )


def _told_lifted(before: InForce | None, stop: Stopped) -> Saying:
    was = f"; it was {before.stop.level} by {_name(before)}" if before is not None else ""
    message = f"nothing stops this device any more{was}"
    return Saying(kind="stop.lifted", message=message, detail={"number": stop.number, "by": stop.by})
