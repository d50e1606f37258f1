"""The one decision: what to do next, from everything that is known. Rules in order of precedence, the first that fits.

    an order → the emergency stop → work that was ordered → a stage of strain → cleaning a low disk → a trial →
    (while stopped: a commit to take note of, the safe-mode stack) → who rests → a hold →
    a rollout that was aborted → a commit that can't be used → a release that is gone from the disk →
    the wanted commit, its agent first, then stage by stage, with the rollout's gate open and the workload's consent →
    safe mode → drift → sweep → rest

Strain makes updates wait, and nothing else: a trial in progress goes on to its verdict, as a device between two
releases is worse off than on either, and the way back is how it gets rid of a release that strains it. Cleaning and
resting are for the machine's own good: neither a trial nor a hold keeps a full disk full, or a hold a hot machine hot.

Every path ends in ``Wait``. ``explain`` prints the rule and the facts of each decision.
"""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, assert_never

from msgspec.structs import replace

from metrica_agent.decisions import (
    consent,
    drift,
    freshness,
    gating,
    obeying,
    remembering,
    repair,
    sparing,
    stopping,
    upgrading,
)
from metrica_agent.decisions import strain as straining
from metrica_agent.decisions import trial as judging
from metrica_agent.decisions.lineage import HISTORY
from metrica_agent.decisions.orders import Given, Work
from metrica_agent.decisions.sparing import kept, standing_on
from metrica_agent.decisions.steps import (
    REST_S,
    Apply,
    Choice,
    Observed,
    Preflight,
    Setback,
    Stage,
    StageSafe,
    Step,
    Sweep,
    Switch,
    Wait,
    held_up,
    step_key,
)
from metrica_agent.decisions.trust import usable
from metrica_agent.decisions.world import (
    Container,
    Deployed,
    Desired,
    Memory,
    Refused,
    Release,
    Trial,
    TrialKind,
    Unacceptable,
)
from metrica_fleet.identity import CommitId, short
from metrica_fleet.records import Scalar
from metrica_fleet.stop import Level

if TYPE_CHECKING:
    from collections.abc import Iterable

WORTH_REFUSING = frozenset({"image-unreachable", "host-source-missing"})
"""What a release waits for no longer than its ``pull_deadline_s``: it may never come. All else is the machine's."""
UNWELL = "rest.unwell"
"""The rule of a device that can do nothing about what ails it."""
CONSENT = "consent."
"""How the rules begin by which a release that is ready waits."""
HELD = "held"
"""The rule of a device on which nothing is to change."""
PREFLIGHT_FRESH_S = 60.0
"""How old a preflight may be after a wait for consent."""
FRESH_S = 15.0
"""How old a sample may be that a trial is begun on."""


def decide(observed: Observed, now_s: float) -> Choice:
    """Return the one next step. The same facts give the same answer.

    A commit that has to wait does not keep the device from mending what it runs: of several rules that fit, the first
    with something to do is taken, and only when all wait, the one that waits the shortest.
    """
    memory = observed.memory
    given = observed.given
    if given is not None and not isinstance(given.order, Work):
        return _ordered(observed, given, now_s)
    strained, stop = sparing.tell_or_clean(observed, now_s), stopping.obey(observed, now_s)
    first = observed.unwritten and strained is not None  # what frees the disk that a stop is to be written on
    if stop is not None and not isinstance(stop.step, Wait) and not first:
        return stop
    if given is not None:
        return _ordered(observed, given, now_s)
    strained = strained or gating.noted(observed) or freshness.noted(observed)
    if strained is not None:
        return strained
    if memory.trial is not None:
        judged = gating.taken_back(observed, memory.trial, now_s) or _on_trial(observed, memory.trial, now_s)
        return _not_for_consent(observed, stopping.bounded(observed, judged, now_s), now_s)
    if stop is not None:
        return _not_for_consent(observed, _soonest(_while_stopped(observed, stop, now_s)), now_s)
    resting = sparing.rest_or_resume(observed, now_s)
    if resting is not None and not isinstance(resting.step, Wait):
        return resting
    if memory.held is not None:
        held = Choice(rule=HELD, step=Wait(until_s=now_s + REST_S), why=memory.held.message)
        return _not_for_consent(observed, held, now_s)
    choices = (
        resting,
        gating.aborted(observed, now_s),
        _unacceptable(observed),
        repair.lost(observed, now_s),
        _asking(observed, _update(observed, now_s), now_s),
        _safe_mode(observed, now_s),
        repair.repair(observed, now_s),
        _sweep(observed, now_s),
        _rest(observed, now_s),
    )
    return _soonest(choices)


def _ordered(observed: Observed, given: Given, now_s: float) -> Choice:
    step = obeying.step_for(observed, given, now_s)
    return Choice(rule="order", step=step, why=f"it was ordered: {given.order.reason}")


def _soonest(choices: Iterable[Choice | None]) -> Choice:
    """Return the first with something to do, and when all wait, the one that waits the shortest."""
    waiting: list[tuple[float, Choice]] = []
    for choice in choices:
        if choice is None:
            continue
        if not isinstance(choice.step, Wait):
            return choice
        waiting.append((choice.step.until_s, choice))
    return min(waiting, key=lambda one: one[0])[1]


def _not_for_consent(observed: Observed, choice: Choice, now_s: float) -> Choice:
    """Return ``choice``; where it only waits, the wait for consent is set aside first, for its patience would run."""
    aside = consent.set_aside(observed, now_s) if isinstance(choice.step, Wait) else None
    return choice if aside is None else replace(choice, step=aside)


def _asking(observed: Observed, update: Choice | None, now_s: float) -> Choice | None:
    """Return ``update``, by which consent is waited for, or not."""
    if update is None:
        aside = consent.set_aside(observed, now_s)
        return aside and Choice(rule="update.none", step=aside, why="nothing waits for consent any more")
    return update if update.rule.startswith(CONSENT) else _not_for_consent(observed, update, now_s)


def facts(observed: Observed, now_s: float) -> dict[str, Scalar]:
    """Return what a decision saw, flat and small enough to be kept beside it."""
    memory, candidate = observed.memory, observed.candidate
    containers = observed.sample.containers if observed.sample else None
    return {
        "now_s": round(now_s, 1),
        "wanted": short(candidate.commit) if candidate else None,
        "accepted": short(memory.accepted),
        "confirmed": short(memory.confirmed.release) if memory.confirmed else None,
        "resolved": short(memory.resolved.release) if memory.resolved else None,
        "safe_mode": memory.safe.reason if memory.safe else None,
        "stopped": stopping.in_words(memory.stop.obeyed) if memory.stop and memory.stop.obeyed else None,
        "gate": gating.in_words(memory.gate) if memory.gate else None,
        "held": memory.held.message if memory.held else None,
        "trial": f"{memory.trial.kind} {short(memory.trial.release)}" if memory.trial else None,
        "strain": "; ".join(reason for reason, _ in straining.all_in_words(memory.strain)) or None,
        "resting": ", ".join(memory.resting) or None,
        "agent": _agent_in_words(observed),
        "current": short(observed.current),
        "preflighted": short(observed.preflighted),
        "containers": None if containers is None else ", ".join(sorted(map(_container_in_words, containers))),
        "differs": "; ".join(one.message for one in observed.differs) or None,
        "altered": "; ".join(observed.altered.differences)[:500] if observed.altered else None,
        "locks": ", ".join(sorted(observed.locks)) or None,
        "setbacks": "; ".join(sorted(starmap(_setback_in_words, observed.setbacks.items()))) or None,
    }


def _container_in_words(container: Container) -> str:
    return f"{container.service} {container.state}{f' {container.health}' if container.health else ''}"


def _setback_in_words(key: str, setback: Setback) -> str:
    return f"{key[:20]} {setback.attempts} times: {setback.reason}"


def _agent_in_words(observed: Observed) -> str | None:
    """Return which agent runs, where another is wanted or this one is on trial."""
    agents, candidate = observed.agents, observed.candidate
    wanted = candidate.agent if isinstance(candidate, Desired) else None
    if agents is None or (agents.trial is None and (wanted is None or wanted.name == agents.running)):
        return None
    on_trial = ", on trial" if agents.trial is not None else ""
    return f"{agents.running or 'installed by hand'}{on_trial}; wanted {wanted.name if wanted else 'none'}"


def _while_stopped(observed: Observed, stop: Choice, now_s: float) -> Iterable[Choice | None]:
    """Yield what a stop leaves to be done: what is wanted is known, and the stack that always works is there."""
    candidate, halted = observed.candidate, stopping.level(observed.memory) is Level.HALT
    yield _unacceptable(observed)
    yield _accept(observed, candidate) if isinstance(candidate, Desired) else None
    if not halted:
        yield sparing.rest_or_resume(observed, now_s)
        yield _safe_mode(observed, now_s)
    if observed.memory.safe is not None and stopping.level(observed.memory) is Level.SAFE:
        yield repair.repair(observed, now_s)
    yield stop


# --- a trial, forward or back ---------------------------------------------------------------------------------


def _on_trial(observed: Observed, trial: Trial, now_s: float) -> Choice:
    memory, release = observed.memory, observed.release
    if trial.boot_id != observed.boot_id:
        step = remembering.rebooted(memory, trial, observed.boot_id, now_s)
        return Choice(rule="trial.rebooted", step=step, why="the machine was started during the trial")
    if release is None:
        message = f"release {short(trial.release)} is not on this disk any more"
        return _failed(observed, trial, "release-lost", message, now_s)
    if trial.kind is TrialKind.FORWARD and trial.boots > judging.MAX_BOOTS:
        return _failed(observed, trial, "boots-in-trial", f"the machine started {trial.boots} times in it", now_s)
    if observed.current != trial.release:
        step = Switch(release=trial.release)
        return held_up(observed, step, now_s) or Choice(rule="trial.switch", step=step, why="the trial is recorded")
    if trial.applied_s is None:
        return _apply(observed, trial, release, now_s)
    verdict = judging.judge(trial, release, observed.watch, now_s)
    match verdict:
        case judging.Healthy():
            portrait = drift.portrayed(release, observed.sample, observed.boot_id)
            settled = remembering.passed(memory, trial, now_s, portrait)
            return Choice(rule="trial.healthy", step=settled, why="all stayed well through the soak")
        case judging.Unhealthy():
            return _failed(observed, trial, verdict.reason, verdict.message, now_s)
        case judging.Interrupted():
            return _apply(observed, trial, release, now_s)
        case judging.Undecided():
            return Choice(rule="trial.wait", step=Wait(until_s=verdict.until_s), why=verdict.message)
        case _:
            assert_never(verdict)


def _apply(observed: Observed, trial: Trial, release: Release, now_s: float) -> Choice:
    if trial.kind is TrialKind.FORWARD and trial.applies >= judging.MAX_APPLIES:
        message = f"it was applied {trial.applies} times and never came to a verdict"
        return _failed(observed, trial, "interrupted-in-trial", message, now_s)
    step = Apply(release=trial.release, trial=True)
    setback = observed.setbacks.get(step_key(step))
    # Its images were here before; on the way back there may be a release whose images still are.
    patience_s = 0.0 if trial.kind is TrialKind.BACK else release.limits.pull_deadline_s
    if setback is not None and setback.first_s >= trial.begun_s and _is_hopeless(setback, patience_s, now_s):
        return _failed(observed, trial, setback.reason, setback.message, now_s)
    return held_up(observed, step, now_s) or Choice(rule="trial.apply", step=step, why="switched, not yet applied")


def _failed(observed: Observed, trial: Trial, reason: str, message: str, now_s: float) -> Choice:
    why = remembering.Failure(reason=reason, message=message)
    settled = remembering.failed(observed.memory, trial, why, boot_id=observed.boot_id, now_s=now_s)
    return Choice(rule="trial.failed", step=settled, why=message)


# --- the wanted commit ----------------------------------------------------------------------------------------


def _unacceptable(observed: Observed) -> Choice | None:
    candidate = observed.candidate
    if not isinstance(candidate, Unacceptable) or observed.memory.refusal_of(candidate.commit):
        return None
    if candidate.reason in HISTORY and candidate.commit in observed.memory.allowed:
        return None  # judged before the operator's word came; the remotes are asked again
    settled = remembering.unacceptable(observed.memory, candidate)
    return Choice(rule="commit.refused", step=settled, why=candidate.message)


def _update(observed: Observed, now_s: float) -> Choice | None:
    desired, memory = observed.candidate, observed.memory
    if not isinstance(desired, Desired):
        return None
    accepting = _accept(observed, desired)
    if accepting is not None:
        return accepting
    if memory.refusal_of(desired.commit):
        return None
    if _in_place(observed, desired):
        return upgrading.choice(observed, desired, now_s, in_place=True)
    if memory.safe is not None and memory.safe.commit == desired.commit:
        return None
    strained = sparing.waits_out(observed, now_s)
    if strained is not None:
        return strained
    agent = upgrading.choice(observed, desired, now_s, in_place=False)
    if agent is not None:
        return agent
    resolved = memory.resolved
    if resolved is None or resolved.commit != desired.commit or resolved.release not in observed.complete:
        step = Stage(desired=desired)
        return held_up(observed, step, now_s) or Choice(rule="update.stage", step=step, why="it is not staged yet")
    return _update_to(observed, desired, resolved, now_s)


def _accept(observed: Observed, desired: Desired) -> Choice | None:
    memory = observed.memory
    known = (memory.accepted, memory.role, memory.tags) == (desired.commit, desired.role, desired.tags)
    if known and (memory.trust is not None or memory.signers == usable(desired.signers)):
        return None
    step = remembering.accepted(memory, desired)
    return Choice(rule="update.accept", step=step, why="Git offers a commit that goes forward")


def _in_place(observed: Observed, desired: Desired) -> bool:
    memory, confirmed = observed.memory, observed.memory.confirmed
    if memory.safe is not None or confirmed is None:
        return False
    return confirmed.commit == desired.commit and confirmed.release in observed.complete


def _update_to(observed: Observed, desired: Desired, resolved: Deployed, now_s: float) -> Choice:
    memory = observed.memory
    if memory.safe is None and memory.confirmed is not None and memory.confirmed.release == resolved.release:
        step: Step = remembering.unchanged(memory, resolved)
        return Choice(rule="update.unchanged", step=step, why="the commit means the release that is confirmed")
    known_bad = next((refused for refused in memory.refused if refused.release == resolved.release), None)
    if known_bad is not None:
        message = f"it is the release that was refused as commit {short(known_bad.commit)}: {known_bad.message}"
        return _refuse(memory, resolved.commit, "same-release-refused", message)
    ahead = gating.ahead(observed, desired, now_s)
    if ahead is not None:
        return ahead
    if observed.preflighted != resolved.release:
        return _preflight(observed, desired, resolved, now_s)
    asked = gating.closed(observed, desired, now_s) or _consent(observed, desired, resolved, now_s)
    if asked is not None:
        return asked
    sample = observed.sample
    if sample is None or sample.containers is None or sample.taken_s < now_s - FRESH_S:
        trouble = sample.trouble if sample is not None else ""
        why = f"how it runs now is not known yet{f': {trouble}' if trouble else ''}"
        return Choice(rule="update.look", step=Wait(until_s=now_s + FRESH_S), why=why)
    recovering = _recovering(observed, now_s)
    if recovering is not None:
        return recovering
    said = consent.overridden(observed, desired, observed.offered) if observed.offered else ()
    begun = remembering.begun(observed, resolved, now_s)
    step = replace(begun, sayings=(*said, *begun.sayings))
    return Choice(rule="update.begin", step=step, why="staged, verified and preflighted")


def _consent(observed: Observed, desired: Desired, resolved: Deployed, now_s: float) -> Choice | None:
    """Wait for a window or a lock; what was looked at before a wait, for the gate too, is looked at again after it."""
    if observed.offered is None or observed.offered.digest != resolved.release:
        return None
    asked = consent.withheld(observed, desired, observed.offered, now_s)
    if asked is not None:
        step: Step = consent.noted(observed, desired, asked) or Wait(until_s=asked.until_s)
        return Choice(rule=f"{CONSENT}{asked.reason}", step=step, why=asked.message)
    waiting = observed.memory.waiting
    waited = waiting is not None and waiting.release == resolved.release
    waited |= gating.has_waited(observed.memory, desired.commit)
    if waited and now_s > observed.preflighted_s + PREFLIGHT_FRESH_S:
        return _preflight(observed, desired, resolved, now_s)
    return None


def _recovering(observed: Observed, now_s: float) -> Choice | None:
    """Wait for what may only be starting: only what has been ill as long as a trial would allow is broken."""
    if observed.release is None:
        return None
    patience_s = observed.release.health.start_deadline_s
    young = {name: since_s for name, since_s in observed.ailing_since_s.items() if now_s < since_s + patience_s}
    if not young:
        return None
    name, since_s = min(young.items(), key=lambda one: one[1])
    why = f"{name} is not well, and may only be starting"
    return Choice(rule="update.settle", step=Wait(until_s=since_s + patience_s), why=why)


def _preflight(observed: Observed, desired: Desired, resolved: Deployed, now_s: float) -> Choice:
    step = Preflight(desired=desired, release=resolved.release)
    setback = observed.setbacks.get(step_key(step))
    if setback is not None and _is_hopeless(setback, desired.limits.pull_deadline_s, now_s):
        message = f"not ready within {desired.limits.pull_deadline_s:g} s: {setback.message}"
        return _refuse(observed.memory, resolved.commit, setback.reason, message)
    return held_up(observed, step, now_s) or Choice(rule="update.preflight", step=step, why="it is complete on disk")


def _is_hopeless(setback: Setback, patience_s: float, now_s: float) -> bool:
    """Whether what a release waits for has not come for so long that it is not waited for any more."""
    return setback.reason in WORTH_REFUSING and now_s >= setback.first_s + patience_s


def _refuse(memory: Memory, commit: CommitId, reason: str, message: str) -> Choice:
    settled = remembering.refused(memory, Refused(commit=commit, reason=reason, message=message))
    return Choice(rule="update.refuse", step=settled, why=message)


# --- what is confirmed ----------------------------------------------------------------------------------------


def _safe_mode(observed: Observed, now_s: float) -> Choice | None:
    """Make the safe-mode stack run: all else goes in the same step. From then on it is kept like a release."""
    safe, release = observed.memory.safe, observed.release
    if safe is None:
        return None
    if safe.release is None or release is None:
        step: Step = StageSafe()
        return held_up(observed, step, now_s) or Choice(rule="safe.stage", step=step, why=safe.message)
    if observed.current != safe.release:
        step = Switch(release=safe.release)
        return held_up(observed, step, now_s) or Choice(rule="safe.switch", step=step, why=safe.message)
    if safe.applied:
        return None
    step = Apply(release=safe.release, trial=False)
    return held_up(observed, step, now_s) or Choice(rule="safe.apply", step=step, why=safe.message)


def _sweep(observed: Observed, now_s: float) -> Choice | None:
    keep = kept(observed.memory) | standing_on(observed)
    if observed.memory.standing is None or observed.complete <= keep:
        return None
    step = Sweep(keep=keep)
    if held_up(observed, step, now_s) is not None:
        return None  # what is left until the next sweep is in nobody's way: it is no reason to wait
    return Choice(rule="sweep", step=step, why="releases are on disk that nothing needs")


def _rest(observed: Observed, now_s: float) -> Choice:
    """Nothing is to be done. That all is well is said only when it was seen."""
    step, confirmed = Wait(until_s=now_s + REST_S), observed.memory.confirmed
    if observed.memory.safe is not None:
        return Choice(rule="rest.safe", step=step, why=observed.memory.safe.message)
    if confirmed is None:
        return Choice(rule="rest.empty", step=step, why="nothing is confirmed and nothing usable is wanted")
    name = f"release {short(confirmed.release)}"
    if observed.release is None:
        return Choice(rule=UNWELL, step=step, why=f"{name} is confirmed, and not on this disk; it needs a new commit")
    if observed.sample is None or observed.sample.containers is None:
        trouble = observed.sample.trouble if observed.sample else "it was not asked yet"
        return Choice(rule=UNWELL, step=step, why=f"the container engine does not answer: {trouble}")
    if observed.differs:
        what = "; ".join(one.message for one in observed.differs)
        return Choice(rule=UNWELL, step=step, why=f"{name} is confirmed, and {what}")
    if observed.ailing_since_s:
        ill = ", ".join(sorted(observed.ailing_since_s))
        return Choice(rule=UNWELL, step=step, why=f"{name} is confirmed, and {ill} is not well")
    return Choice(rule="rest", step=step, why=f"{name} is confirmed and runs as it should")
