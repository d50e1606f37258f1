"""What to do when what runs, or what it is made of, is not the release that is to run: mend it, tell it, in bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_agent.decisions import contest, drift
from metrica_agent.decisions.drift import Altered, Difference
from metrica_agent.decisions.steps import Apply, Choice, Mend, Observed, Settle, Step, Switch, Wait, held_up
from metrica_agent.decisions.world import Memory, Mending, Saying
from metrica_fleet.identity import short

if TYPE_CHECKING:
    from metrica_fleet.identity import BootId, ReleaseDigest

SETTLING_S: Final = 10.0
"""How long a difference must last to be called drift: the engine restarts things by itself."""
_WAY_OUT: Final = f"Find who changes it; {drift.WAY_TO_STOP}"


def lost(observed: Observed, now_s: float) -> Choice | None:
    """Bring a release back that is to run and is not on this disk any more, or can't be read."""
    standing = observed.memory.standing
    if standing is None or observed.memory.safe is not None or observed.release is not None:
        return None
    altered = Altered(release=standing, differences=(f"release {short(standing)} is not on this disk any more",))
    return _mend(observed, altered, now_s)


def repair(observed: Observed, now_s: float) -> Choice | None:
    """Set right the link, then the files, then the containers."""
    memory, standing = observed.memory, observed.memory.standing
    if standing is None or observed.release is None:
        return None
    if observed.current != standing:
        step: Step = Switch(release=standing)
        why = "current does not point at the release that is to run"
        return held_up(observed, step, now_s) or Choice(rule="drift.switch", step=step, why=why)
    altered = observed.altered
    if altered is not None and altered.release == standing:
        return _mend(observed, altered, now_s)
    if memory.mending is not None and memory.mending.release == standing:
        return _mend(observed, Altered(release=standing, differences=()), now_s)
    return _containers(observed, standing, now_s) if observed.differs else _learn(observed, now_s)


def _mend(observed: Observed, altered: Altered, now_s: float) -> Choice:
    why = "; ".join(altered.differences) or "files were restored, and their readers not restarted yet"
    step = Mend(altered=altered)
    memory = observed.memory
    begun = memory.mending is not None and memory.mending.release == altered.release
    bounded = not begun and observed.release is not None
    not_before_s = 0.0 if not bounded else contest.not_before_s(memory.contests, drift.FILES, observed.boot_id)
    if now_s < not_before_s:
        return Choice(rule="drift.contested", step=Wait(until_s=not_before_s), why=f"{why} (repaired not long ago)")
    return held_up(observed, step, now_s) or Choice(rule="drift.mend", step=step, why=why)


def _containers(observed: Observed, standing: ReleaseDigest, now_s: float) -> Choice | None:
    memory, found = observed.memory, observed.differs
    why = "; ".join(one.message for one in found)
    if observed.differs_since_s is None:
        return None
    settled_s = observed.differs_since_s + SETTLING_S
    if observed.sample is None or observed.sample.at_s < settled_s:
        return Choice(rule="drift.settling", step=Wait(until_s=max(now_s, settled_s) + 1), why=why)
    times_s = {one.subject: contest.not_before_s(memory.contests, one.subject, observed.boot_id) for one in found}
    due = tuple(one for one in found if now_s >= times_s[one.subject])
    if not due:
        soonest_s = min(times_s.values())
        return Choice(rule="drift.contested", step=Wait(until_s=soonest_s), why=f"{why} (repaired not long ago)")
    step = Apply(release=standing, trial=False, differences=due)
    return held_up(observed, step, now_s) or Choice(rule="drift.repair", step=step, why=why)


def _learn(observed: Observed, now_s: float) -> Choice | None:
    """Nothing differs: take a portrait to compare with, and forget repairs that have lasted."""
    memory, release, sample = observed.memory, observed.release, observed.sample
    if release is None or sample is None or sample.containers is None or observed.ailing_since_s:
        return None
    portrait = memory.portrait
    if drift.is_stale(portrait, release, sample, observed.boot_id):
        portrait = drift.portrayed(release, sample, observed.boot_id)
    quiet = contest.quiet(memory.contests, (), observed.boot_id, now_s)
    left = tuple(one for one in memory.contests if one.subject not in quiet)
    over = sorted(one.subject for one in memory.contests if one.subject in quiet and one.contested)
    after = replace(memory, portrait=portrait, contests=left)
    if after == memory:
        return None
    sayings = tuple(
        Saying(kind="drift.repaired", reason="contest-over", message=f"{subject}: the last repair has lasted")
        for subject in over
    )
    step = Settle(memory=after, sayings=sayings)
    return Choice(rule="drift.learn", step=step, why="nothing differs, and there is something new to remember of it")


# --- what is written down before and after ------------------------------------------------------------------------


def repairing(memory: Memory, step: Apply, boot_id: BootId, now_s: float) -> Settle:
    """Containers are about to be repaired: told and counted before anything is touched."""
    return _counted(memory, "containers", _messages(step.differences), boot_id, now_s, release=step.release)


def mending(memory: Memory, altered: Altered, release: ReleaseDigest, boot_id: BootId, now_s: float) -> Settle:
    """Files are about to be restored. Whose readers must be restarted is remembered: a crash must not forget it."""
    before = memory.mending if memory.mending is not None and memory.mending.release == release else None
    known = before.contents if before is not None else ()
    contents = (*known, *(one for one in altered.contents if one not in known))
    remembered = replace(memory, mending=Mending(release=release, contents=contents))
    if before is not None:
        return Settle(memory=remembered)
    messages = {drift.FILES: list(altered.differences)}
    return _counted(remembered, "files", messages, boot_id, now_s, release=release)


def mended(memory: Memory, release: ReleaseDigest, differences: tuple[str, ...]) -> Settle:
    """The files are as they were published, and whoever read what was altered was restarted."""
    message = "; ".join(differences)[:1000] or "readers of restored files were restarted"
    saying = Saying(kind="drift.repaired", reason="files", message=message, release=release)
    return Settle(memory=replace(memory, mending=None), sayings=(saying,))


def _messages(differences: tuple[Difference, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in differences:
        found.setdefault(one.subject, []).append(one.message)
    return found


def _counted(
    memory: Memory,
    reason: str,
    messages: dict[str, list[str]],
    boot_id: BootId,
    now_s: float,
    *,
    release: ReleaseDigest,
) -> Settle:
    count = contest.counted(memory.contests, messages.keys(), boot_id, now_s)
    new = [message for subject in sorted(count.uncontested) for message in messages[subject]]
    sayings: list[Saying] = []
    if new:
        hint = f". It is set right; {drift.WAY_TO_STOP}" if reason == "containers" else ". It is set right"
        text = f"{'; '.join(new)[:1000]}{hint}"
        sayings.append(Saying(kind="drift.found", reason=reason, message=text, release=release))
    for subject in sorted(count.contested):
        text = (
            f"{subject} was repaired {contest.CONTESTED_AFTER} times and did not stay so"
            f" ({'; '.join(messages[subject])[:500]}); from now on it is touched once an hour. {_WAY_OUT}"
        )
        sayings.append(Saying(kind="drift.contested", reason=reason, message=text, release=release))
    return Settle(memory=replace(memory, contests=count.contests), sayings=tuple(sayings))
