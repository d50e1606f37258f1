"""The gate of a rollout, on the device: what was heard of it, whether a commit may begin, and what an abort asks for.

A commit that a stick brought does not wait for the hub, which may never be heard there; a gate that was heard and says
no counts all the same.

The gate comes before consent. It is asked for every release that would be switched to, also a device's first one and
one that leads out of safe mode: a commit that was halted is begun by nobody. The way back, repairs, and a commit that
means the release that runs already do not ask. Who may begin when is metrica_fleet.gate's to say.

How long the hub has been silent is counted on the boot clock, and only while a commit waits. It is written down now and
then, so that a reboot forgets little of it; what an agent that did not run cannot know is not counted. So a device
goes on too late rather than too early.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions import remembering
from metrica_agent.decisions.steps import Choice, Observed, Settle, Step, Wait
from metrica_agent.decisions.world import Asking, Desired, Memory, Refused, Saying, Trial, TrialKind
from metrica_fleet.gate import Asker, Gate, Permission, may_start, refuses, spread_s
from metrica_fleet.identity import CommitId, short

GATE: Final = "gate."
"""How the rules begin by which a release that is ready waits for the rollout."""
ABORTED: Final = "rollout-aborted"
LOOK_S: Final = 300.0
"""How soon to look again at the latest; a gate that is heard wakes earlier."""
PROGRESS_S: Final = 900.0
"""How often the silence is written down: a reboot forgets no more of it."""


def noted(observed: Observed) -> Choice | None:
    """Remember a newer gate than the last, before anything is decided by it."""
    heard, last = observed.gate, observed.memory.gate
    if heard is None or (last is not None and heard.number <= last.number):
        return None
    step = Settle(memory=replace(observed.memory, gate=heard))
    return Choice(rule="gate.heard", step=step, why=f"the hub says: {in_words(heard)}")


def in_words(gate: Gate) -> str:
    """Return what ``gate`` says."""
    where = f"open up to stage {gate.stage}" if gate.stage >= 0 else "open to nobody"
    state = where if gate.state == "open" else gate.state
    return f"commit {short(gate.commit)} is {state} (gate {gate.number})"


# --- before a commit begins -----------------------------------------------------------------------------------


def ahead(observed: Observed, desired: Desired, now_s: float) -> Choice | None:
    """Count from now on how long the commit waits, and put its downloads off by this device's share of the spread."""
    if desired.rollout is None:
        return None
    asking = observed.memory.asking
    if asking is None or asking.commit != desired.commit:
        begun = Asking(commit=desired.commit, boot_id=observed.boot_id, since_s=now_s)
        step: Step = Settle(memory=replace(observed.memory, asking=begun))
        return Choice(rule="gate.asked", step=step, why="the fleet rolls out stage by stage")
    due_s = _since_s(observed, asking) + spread_s(desired.rollout, desired.commit, desired.device)
    if observed.preflighted is not None or now_s >= due_s or observed.memory.brought == desired.commit:
        return None
    why = "downloads are spread over the fleet, so that no registry is overrun"
    return Choice(rule=f"{GATE}prefetch-spread", step=Wait(until_s=due_s), why=why)


def closed(observed: Observed, desired: Desired, now_s: float) -> Choice | None:
    """Wait for the gate, and say once why; ``None``: it is open, or nobody asks for one."""
    asking, gate = observed.memory.asking, observed.memory.gate
    if observed.memory.brought == desired.commit and (gate is None or not refuses(gate, desired.commit)):
        return None
    if desired.rollout is None or asking is None:
        return None
    silence_s = silent_s(observed, asking, now_s)
    asker = Asker(device=desired.device, tags=desired.tags, commit=desired.commit)
    permission = may_start(desired.rollout, observed.memory.gate, asker, silent_s=silence_s)
    if permission.granted:
        return None
    again_s = LOOK_S if permission.again_s is None else max(1.0, min(LOOK_S, permission.again_s))
    step = _written(observed, asking, permission, silence_s, now_s) or Wait(until_s=now_s + again_s)
    return Choice(rule=f"{GATE}{permission.reason}", step=step, why=permission.message)


def has_waited(memory: Memory, commit: CommitId) -> bool:
    """Whether ``commit`` found the gate closed: what was looked at before that is old."""
    return memory.asking is not None and memory.asking.commit == commit and memory.asking.told != ()


def silent_s(observed: Observed, asking: Asking, now_s: float) -> float:
    """Return how long the commit has waited without any word of the hub."""
    since_s, heard_s = _since_s(observed, asking), observed.gate_heard_s
    if heard_s is not None and heard_s >= since_s:
        return now_s - heard_s
    return asking.silent_s + now_s - since_s


def _since_s(observed: Observed, asking: Asking) -> float:
    """Return since when this process knows about it."""
    return max(asking.since_s, observed.began_s) if asking.boot_id == observed.boot_id else observed.began_s


def _written(
    observed: Observed, asking: Asking, permission: Permission, silence_s: float, now_s: float
) -> Settle | None:
    """Return what is to be written down of a wait; ``None``: that is done already."""
    is_new = permission.reason not in asking.told
    lasts = asking.boot_id == observed.boot_id and now_s < asking.since_s + PROGRESS_S
    broken = silence_s < asking.silent_s  # the hub spoke: an agent that is started now must not go on counting
    if lasts and not broken and not is_new:
        return None
    told = (*asking.told, permission.reason) if is_new else asking.told
    after = replace(asking, boot_id=observed.boot_id, since_s=now_s, silent_s=silence_s, told=told)
    saying = Saying(kind="release.waiting", reason=permission.reason, message=permission.message, commit=asking.commit)
    return Settle(memory=replace(observed.memory, asking=after), sayings=(saying,) if is_new else ())


# --- after an abort -------------------------------------------------------------------------------------------


def taken_back(observed: Observed, trial: Trial, now_s: float) -> Choice | None:
    """End the trial of a commit whose rollout was aborted, where the devices are to go back; its release is not bad."""
    gate, memory = observed.memory.gate, observed.memory
    if gate is None or not _goes_back(gate, trial.commit) or trial.kind is not TrialKind.FORWARD:
        return None
    if memory.confirmed is None and memory.safe is None:
        return None  # there is nothing else that it could run
    why = remembering.Failure(reason=ABORTED, message=_said(gate), of_release=False)
    settled = remembering.failed(memory, trial, why, boot_id=observed.boot_id, now_s=now_s)
    return Choice(rule="gate.taken-back", step=settled, why=why.message)


def aborted(observed: Observed, now_s: float) -> Choice | None:
    """Refuse the commit of an aborted rollout, and go back from it where that is asked for.

    A device that the commit changed nothing for has nothing to go back from, and one that has no earlier release stays.
    In safe mode it waits until that is left.
    """
    memory, gate = observed.memory, observed.memory.gate
    if gate is None or gate.state != "aborted" or memory.safe is not None or memory.refusal_of(gate.commit):
        return None
    refusal = Refused(commit=gate.commit, reason=ABORTED, message=_said(gate))
    if memory.confirmed is not None and memory.confirmed.commit == gate.commit:
        earlier = next((one for one in memory.earlier if one.release in observed.complete), None)
        if not gate.revert or memory.arrived != gate.commit or earlier is None:
            return None
        step: Step = remembering.reverted(memory, refusal, earlier, boot_id=observed.boot_id, now_s=now_s)
    elif memory.accepted == gate.commit:
        step = remembering.refused(memory, refusal)
    else:
        return None
    return Choice(rule="gate.aborted", step=step, why=refusal.message)


def _goes_back(gate: Gate, commit: CommitId) -> bool:
    return gate.state == "aborted" and gate.revert and gate.commit == commit


def _said(gate: Gate) -> str:
    return f"its rollout was aborted{f': {gate.reason}' if gate.reason else ''}"
