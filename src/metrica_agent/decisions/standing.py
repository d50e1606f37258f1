"""Where the device stands, in the words of its retained status."""

from __future__ import annotations

from metrica_agent.decisions import stopping
from metrica_agent.decisions import strain as straining
from metrica_agent.decisions.freshness import STALE, Stale
from metrica_agent.decisions.gating import GATE
from metrica_agent.decisions.next_step import CONSENT, UNWELL
from metrica_agent.decisions.steps import Choice
from metrica_agent.decisions.upgrading import AGENT
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Desired, Memory, Strain, TrialKind, Unacceptable
from metrica_fleet.identity import CommitId
from metrica_fleet.records import Mode, Phase
from metrica_fleet.stop import Level


class Standing(Value, frozen=True, kw_only=True):
    """What the device runs, wants, and why it is not there yet."""

    mode: Mode
    wanted: CommitId | None
    phase: Phase | None
    reason: str | None
    message: str


def standing(
    memory: Memory,
    candidate: Desired | Unacceptable | None,
    choice: Choice | None,
    *,
    stale: Stale | None = None,
) -> Standing:
    """Return where a device with this ``memory`` stands.

    Args:
        memory: what it remembers.
        candidate: what the remotes gave last.
        choice: its last decision.
        stale: why it can't know whether that is the newest commit.
    """
    mode = _mode(memory)
    wanted = candidate.commit if candidate else memory.accepted
    stopped = memory.stop.obeyed if memory.stop is not None else None
    if wanted is None and stopped is not None:
        why = stopping.in_words(stopped)
        return Standing(mode=mode, wanted=None, phase=None, reason=stopping.STOPPED, message=why)
    if wanted is None:
        return Standing(mode=mode, wanted=None, phase=None, reason="no-commit", message="no commit is known yet")
    phase = _phase(memory, wanted)
    refused = memory.refusal_of(wanted)
    if refused is not None and phase is Phase.REFUSED:
        return Standing(mode=mode, wanted=wanted, phase=phase, reason=refused.reason, message=refused.message)
    if stopped is not None:
        why = stopping.in_words(stopped)
        return Standing(mode=mode, wanted=wanted, phase=phase, reason=stopping.STOPPED, message=why)
    if memory.safe is not None and memory.trial is None:
        return Standing(mode=mode, wanted=wanted, phase=phase, reason=memory.safe.reason, message=memory.safe.message)
    strained = straining.in_words(memory.strain)
    if strained is not None and memory.trial is None:
        return Standing(
            mode=mode, wanted=wanted, phase=phase, reason=strained[0], message=_strained(memory, phase, strained[1])
        )
    if phase is Phase.CONFIRMED and choice is not None and choice.rule == UNWELL:
        return Standing(mode=mode, wanted=wanted, phase=phase, reason="unwell", message=choice.why)
    if phase is Phase.CONFIRMED and stale is not None:
        return Standing(mode=mode, wanted=wanted, phase=phase, reason=STALE, message=stale.message)
    if phase is Phase.CONFIRMED:
        return Standing(mode=mode, wanted=wanted, phase=phase, reason=None, message="")
    why = choice.why if choice else "the agent has just started"
    held = _way_reason(choice.rule) if choice else None
    return Standing(mode=mode, wanted=wanted, phase=phase, reason=held or "in-progress", message=why)


def _way_reason(rule: str) -> str | None:
    """Return what is in the way, when ``rule`` is one of a commit that waits for something."""
    prefix = next((one for one in ("setback.", CONSENT, GATE, AGENT) if rule.startswith(one)), None)
    return rule.removeprefix(prefix) if prefix is not None else None


def _mode(memory: Memory) -> Mode:
    level = stopping.level(memory)
    if level is Level.HALT:
        return Mode.HALTED
    if memory.trial is not None:
        return Mode.TRIAL if memory.trial.kind is TrialKind.FORWARD else Mode.ROLLING_BACK
    if memory.safe is not None:
        return Mode.SAFE
    if level is Level.FREEZE:
        return Mode.HELD
    if memory.strain.levels != Strain().levels:
        return Mode.DEGRADED
    return Mode.HELD if memory.held is not None else Mode.STEADY


def _strained(memory: Memory, phase: Phase, words: str) -> str:
    waits = "" if phase is Phase.CONFIRMED else "; updates wait"
    rests = f"; at rest: {', '.join(memory.resting)}" if memory.resting else ""
    return f"{words}{rests}{waits}"


def _phase(memory: Memory, wanted: CommitId) -> Phase:
    if memory.refusal_of(wanted) is not None:
        return Phase.REFUSED
    if memory.trial is not None and memory.trial.commit == wanted:
        return Phase.TRIAL
    if memory.upgrading is not None and memory.upgrading.commit == wanted:
        return Phase.TRIAL  # of the agent that the commit wants: the device has begun
    if memory.confirmed is not None and memory.confirmed.commit == wanted:
        return Phase.CONFIRMED
    if memory.resolved is not None and memory.resolved.commit == wanted:
        return Phase.STAGED
    return Phase.PENDING
