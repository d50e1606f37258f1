"""Which agent is to run: part of what a commit wants, and settled before the commit's release is touched.

    wanted → its wheels fetched and installed beside → the gate is open → told → on trial (the launcher starts it)
    → steady, and a fetch done by it → confirmed; anything else: the one before runs again, and the commit is refused

The launcher counts the starts of a version on trial, and ends it past its time (``metrica_agent.launcher``). What the
version has to say itself is decided here: that it lives, reaches Git, and can fetch from it what it does not have: the
only way by which it could be replaced.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_agent.decisions import gating, remembering
from metrica_agent.decisions.steps import (
    REST_S,
    Choice,
    Observed,
    OnTrial,
    Settle,
    StageAgent,
    SwitchAgent,
    Wait,
    held_up,
)
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Desired, Memory, Refused, Saying, Upgrading
from metrica_fleet.agent_versions import AgentVersion, version_of
from metrica_fleet.retry import backed_off

if TYPE_CHECKING:
    from metrica_agent.decisions.steps import AgentVersions

AGENT: Final = "agent."
"""How the rules begin by which a commit waits for its agent."""
TELL_S: Final = 5.0
"""Between writing down that a trial begins, and beginning it: so that the hub hears of it from the agent before."""
GIT_FRESH_S: Final = 600.0
"""A remote that answered within this time is reached."""
GIT_PATIENCE_S: Final = 3600.0
"""So long a trial waits for Git; then it is begun, and judged, without."""
TRIAL_S: Final = 600.0
"""How long a version may take to prove itself: to live for a minute and a half, and to fetch from Git."""
FETCH_LEAST_S: Final = 10.0
"""What a fetch that shows something has at least, past the end of a trial, too; the launcher waits longer than that."""
AGAIN_S: Final = 30.0
AGAIN_CAP_S: Final = 3600.0
"""A version that can't be installed now costs a download and a venv at each try: it is tried ever more rarely."""
NO_LAUNCHER: Final = "no-launcher"


def choice(observed: Observed, desired: Desired, now_s: float, *, in_place: bool) -> Choice | None:
    """Return what is to be done for the agent that ``desired`` wants; ``None``: it runs, or none is wanted.

    Args:
        observed: what is seen.
        desired: the commit.
        now_s: on the boot clock.
        in_place: the commit is confirmed here: its gate was passed, and nothing refuses it any more.
    """
    wanted, agents, memory = desired.agent, observed.agents, observed.memory
    if wanted is None or agents is None:
        return _over(memory)
    if agents.trial is not None:
        why = f"the agent {version_of(agents.running)} is on trial"
        return Choice(rule=f"{AGENT}trial", step=Wait(until_s=now_s + REST_S), why=why)
    if agents.running == wanted.name:
        return _over(memory)
    if agents.doubted == wanted.name:
        came = "could not fetch" if agents.doubted_fetch else "did not reach Git"
        why = f"agent {wanted.version} {came}; whether this one does is found out"
        return Choice(rule=f"{AGENT}doubt", step=Wait(until_s=now_s + REST_S), why=why)
    bad = agents.refused.get(wanted.name)
    if bad is not None:
        return _over(memory) if in_place else _refuse(memory, desired, wanted, *bad)
    return _ahead(observed, desired, wanted, now_s, in_place=in_place) or _begin(observed, desired, wanted, now_s)


def _ahead(
    observed: Observed, desired: Desired, wanted: AgentVersion, now_s: float, *, in_place: bool
) -> Choice | None:
    """Return what has to come before the trial: the version on this disk, and the gate open."""
    asked = None if in_place else gating.ahead(observed, desired, now_s)
    if asked is not None:
        return asked
    if observed.agents is None or wanted.name not in observed.agents.complete:
        step = StageAgent(commit=desired.commit, agent=wanted, in_place=in_place)
        why = f"agent {wanted.version} is wanted, and not on this disk yet"
        return held_up(observed, step, now_s) or Choice(rule=f"{AGENT}stage", step=step, why=why)
    return None if in_place else gating.closed(observed, desired, now_s)


def _begin(observed: Observed, desired: Desired, wanted: AgentVersion, now_s: float) -> Choice:
    memory, begun = observed.memory, observed.memory.upgrading
    if memory.starts:
        why = "this agent has just started: it is to be steady before another is tried"
        return Choice(rule=f"{AGENT}settle", step=Wait(until_s=now_s + REST_S), why=why)
    reached_s = observed.git_answered_s
    reached = reached_s is not None and now_s <= reached_s + GIT_FRESH_S
    patient_s = max(observed.began_s, reached_s or 0.0) + GIT_PATIENCE_S
    if not reached and now_s < patient_s:
        why = "no remote answers now, and a trial is measured by whether Git is reached"
        return Choice(rule=f"{AGENT}git", step=Wait(until_s=min(patient_s, now_s + REST_S)), why=why)
    if begun is None or (begun.name, begun.boot_id) != (wanted.name, observed.boot_id):
        now = Upgrading(name=wanted.name, commit=desired.commit, boot_id=observed.boot_id, since_s=now_s)
        saying = Saying(
            kind="agent.update_started",
            message=f"agent {wanted.version} is put on trial",
            commit=desired.commit,
            detail={"version": wanted.version, "name": wanted.name},
        )
        step = Settle(memory=replace(memory, upgrading=now), sayings=(saying,))
        return Choice(rule=f"{AGENT}begin", step=step, why="it is installed beside this one")
    if now_s < begun.since_s + TELL_S:
        return Choice(rule=f"{AGENT}tell", step=Wait(until_s=begun.since_s + TELL_S), why="that is told first")
    switch = SwitchAgent(agent=wanted, needs_git=reached)
    return held_up(observed, switch, now_s) or Choice(
        rule=f"{AGENT}switch", step=switch, why=f"agent {wanted.version} is installed, and its trial is told"
    )


def again_in(attempts: int, chance: float) -> float:
    """Return how long to wait before a version is installed again that could not be for so many times."""
    return backed_off(attempts - 1, chance, AGAIN_S, AGAIN_CAP_S)


def staged(memory: Memory, step: StageAgent) -> Settle:
    """The version is installed beside the one that runs."""
    version, name = step.agent.version, step.agent.name
    saying = Saying(
        kind="agent.update_staged",
        message=f"agent {version} is installed beside this one",
        commit=step.commit,
        detail={"version": version, "name": name},
    )
    return Settle(memory=memory, sayings=(saying,))


def unstageable(memory: Memory, step: StageAgent, reason: str, message: str) -> Settle:
    """These wheels never make an agent here: the commit that wants them is refused."""
    version, name = step.agent.version, step.agent.name
    saying = Saying(
        kind="agent.update_refused",
        reason=reason,
        message=f"agent {version} can't be installed: {message}"[:1000],
        commit=step.commit,
        detail={"version": version, "name": name},
    )
    refusal = Refused(commit=step.commit, reason=_of_agent(reason), message=saying.message)
    settled = remembering.refused(replace(memory, upgrading=None), refusal)
    return replace(settled, sayings=(saying, *settled.sayings))


def _of_agent(reason: str) -> str:
    return reason if reason.startswith("agent-") else f"agent-{reason}"


def _over(memory: Memory) -> Choice | None:
    if memory.upgrading is None:
        return None
    return Choice(rule=f"{AGENT}over", step=Settle(memory=replace(memory, upgrading=None)), why="its trial is over")


def _refuse(memory: Memory, desired: Desired, wanted: AgentVersion, reason: str, message: str) -> Choice:
    why = f"agent {wanted.version} does not run here: {message}"
    refusal = Refused(commit=desired.commit, reason=_of_agent(reason), message=why)
    settled = remembering.refused(replace(memory, upgrading=None), refusal)
    return Choice(rule=f"{AGENT}refuse", step=settled, why=why)


# --- the verdict on oneself -----------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What an agent on trial says of itself."""

    CONFIRMED = "confirmed"
    GIT_UNREACHED = "git-unreached"
    FETCH_FAILED = "fetch-failed"


class Undecided(Value, frozen=True, kw_only=True):
    """Look again then."""

    until_s: float


def end_of(trial: OnTrial, *, started_s: float) -> float:
    """Return when a trial is over; a machine that is slow to start an agent leaves it half of its time all the same."""
    return max(trial.began_s + trial.within_s, started_s + trial.within_s / 2)


def fetch_within(end_s: float, now_s: float) -> float:
    """Return how long a fetch may take that is to show something: one that hangs leaves time for another."""
    return max(FETCH_LEAST_S, (end_s - now_s) / 2)


def judged(
    trial: OnTrial, *, started_s: float, steady_s: float, git_reached: bool, fetched: bool, now_s: float
) -> Verdict | Undecided:
    """Return what comes of a trial, looked at by the version itself.

    Args:
        trial: what it is measured by.
        started_s: when this process began.
        steady_s: what it has to live without a crash.
        git_reached: a remote answered this process, and it has read the commit that a child brought.
        fetched: it has fetched what a remote has, all of it, into nothing.
        now_s: on the boot clock.
    """
    steady = now_s >= started_s + steady_s
    if steady and ((git_reached and fetched) or not trial.needs_git):
        return Verdict.CONFIRMED
    end_s = end_of(trial, started_s=started_s)
    if now_s >= end_s and steady:
        return Verdict.FETCH_FAILED if git_reached else Verdict.GIT_UNREACHED
    return Undecided(until_s=max(started_s + steady_s, now_s + 1.0) if not steady else end_s)


def doubt_ended(*, started_s: float, within_s: float, done: bool, now_s: float) -> bool | None:
    """Return whether a version in doubt is bad: this one has done, in as much time, what that one did not.

    ``None``: not known yet. Neither doing it, it is the world's fault, and the version may be tried again.
    """
    if done:
        return True
    return False if now_s >= started_s + within_s else None


# --- in words -------------------------------------------------------------------------------------------------


class Wanted(Value, frozen=True, kw_only=True):
    """Which agent is wanted, and why another one runs."""

    version: str | None
    reason: str | None = None
    message: str = ""


def wanted(desired: Desired | None, agents: AgentVersions | None, last: Choice | None) -> Wanted:
    """Return what the status says of the agent that is wanted; ``last``: the last decision."""
    if desired is None or desired.agent is None:
        return Wanted(version=None)
    version = desired.agent.version
    if agents is None:
        message = "this agent was not started by the launcher; run the installer again"
        return Wanted(version=version, reason=NO_LAUNCHER, message=message)
    if agents.trial is not None:
        return Wanted(version=version, reason="trial", message=f"the agent {version_of(agents.running)} is on trial")
    if agents.running == desired.agent.name:
        return Wanted(version=version)
    bad = agents.refused.get(desired.agent.name)
    if bad is not None:
        return Wanted(version=version, reason=bad[0], message=bad[1])
    if last is not None and last.rule.startswith((AGENT, "setback.", gating.GATE)):
        return Wanted(version=version, reason=last.rule.rpartition(".")[2], message=last.why)
    return Wanted(version=version, reason="in-progress", message=last.why if last is not None else "")
