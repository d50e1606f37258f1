"""What a strained machine is spared: rules of the next step, and what is remembered of them.

Updates wait, services rest by their priority, a low disk is cleaned. Which stage asks for what: ``strain``.
"""

from __future__ import annotations

from msgspec.structs import replace

from metrica_agent.decisions import strain as straining
from metrica_agent.decisions.drift import IMAGE
from metrica_agent.decisions.steps import (
    REST_S,
    Apply,
    Choice,
    Clean,
    Cleaned,
    Cleaning,
    Observed,
    Rest,
    Settle,
    Wait,
    held_up,
    step_key,
)
from metrica_agent.decisions.world import Memory, Saying, Strain
from metrica_fleet.identity import ReleaseDigest
from metrica_fleet.records import Scalar

EARLIER_ON_LOW_DISK = 1
"""Confirmed releases before the last one that are kept on a low disk: two in all."""
SPARE_IMAGES_KEPT = 200
"""Names of images that cleaning may take: beyond that, the oldest are left to a person."""
STRAINED = "strain.wait."
"""How the rules begin by which an update waits for a strained machine."""
RESTED = "rested"
"""The setback of a rest that was taken: who wakes what rests is not fought for ever."""


# --- rules ----------------------------------------------------------------------------------------------------


def tell_or_clean(observed: Observed, now_s: float) -> Choice | None:
    """Tell each stage, and clean. A ledger that can't be written comes to it only by cleaning: then that is first."""
    cleaning = _clean(observed, now_s)
    if observed.unwritten and cleaning is not None:
        return cleaning
    if observed.strain.levels != observed.memory.strain.levels:
        step = strained(observed.memory, observed.strain)
        return Choice(rule="strain", step=step, why=step.sayings[0].message)
    return cleaning


def _clean(observed: Observed, now_s: float) -> Choice | None:
    """Clean by the first kind that was not tried lately; each look that finds enough free ends it."""
    need = observed.need
    if need is None:
        return None
    why = f"{observed.strain.disk.figures}; enough is {need.free_bytes // (1024 * 1024)} MiB"
    for what in Cleaning:
        fewest = what is Cleaning.RELEASES and not observed.unwritten
        memory = least(observed.memory) if fewest else observed.memory
        keep = kept(memory) | standing_on(observed)
        step = Clean(
            what=what,
            need=need,
            keep=keep,
            keep_images=_portrayed(observed.memory),
            spare_images=observed.memory.spare_images,
        )
        if held_up(observed, step, now_s) is None:
            return Choice(rule=f"clean.{what}", step=step, why=why)
    return None


def _portrayed(memory: Memory) -> frozenset[str]:
    """Return the images by which drift would be repaired: their names may mean others by now."""
    traits = memory.portrait.traits.values() if memory.portrait is not None else ()
    return frozenset(one[IMAGE] for one in traits if IMAGE in one)


def rest_or_resume(observed: Observed, now_s: float) -> Choice | None:
    """Stop who is to rest, and start who no longer is."""
    memory, release = observed.memory, observed.release
    if release is None or memory.standing is None or observed.current != memory.standing:
        return None
    should = straining.resting(memory, release)
    found = straining.in_words(memory.strain)
    why = found[1] if found else "the machine is well again"
    step = Rest(release=release.digest, services=should)
    if set(should) - set(memory.resting):
        return _held_up_by_trouble(observed, step, now_s) or Choice(rule="strain.rest", step=step, why=why)
    if set(memory.resting) - set(should):
        again = Apply(release=release.digest, trial=False, resting=should)
        return _held_up_by_trouble(observed, again, now_s) or Choice(rule="strain.resume", step=again, why=why)
    if not observed.awake:
        return None
    why = f"{', '.join(observed.awake)} runs, and is to rest: {why}"
    return held_up(observed, step, now_s) or Choice(rule="strain.rest", step=step, why=why)


def _held_up_by_trouble(observed: Observed, step: Rest | Apply, now_s: float) -> Choice | None:
    """As ``held_up``; that something else was put to rest just now holds up nobody."""
    setback = observed.setbacks.get(step_key(step))
    return None if setback is None or setback.reason == RESTED else held_up(observed, step, now_s)


def waits_out(observed: Observed, now_s: float) -> Choice | None:
    """Put an update off on a strained machine: it would strain it more, and be judged by how it copes with that."""
    found = straining.in_words(observed.memory.strain)
    if found is None:
        return None
    reason, words = found
    return Choice(rule=f"{STRAINED}{reason}", step=Wait(until_s=now_s + REST_S), why=f"updates wait: {words}")


def standing_on(observed: Observed) -> frozenset[ReleaseDigest]:
    """Return the release that ``current`` points at."""
    return frozenset((observed.current,) if observed.current else ())


def kept(memory: Memory) -> frozenset[ReleaseDigest]:
    """Return the releases that must stay on disk: what runs, what is being tried, and what to fall back on."""
    needed = [*memory.earlier, memory.confirmed, memory.resolved, memory.trial, memory.safe]
    return frozenset(one.release for one in needed if one is not None and one.release is not None)


# --- what is remembered ----------------------------------------------------------------------------------------


def strained(memory: Memory, strain: Strain) -> Settle:
    """The machine is strained further, or less: what follows is decided from here on."""
    return Settle(memory=replace(memory, strain=strain), sayings=straining.changes(memory.strain, strain))


def rested(memory: Memory, services: tuple[str, ...]) -> Settle:
    """These services were stopped, and stay so until the machine is well."""
    reason, words = straining.in_words(memory.strain) or ("strained", "the machine is strained")
    message = f"at rest: {', '.join(services)}; {words}"
    saying = Saying(kind="services.rested", reason=reason, message=message, detail={"services": ", ".join(services)})
    return Settle(memory=replace(memory, resting=services), sayings=(saying,))


def resumed(memory: Memory, still: tuple[str, ...]) -> Settle:
    """Of the services that rested, only these still do."""
    woken = ", ".join(name for name in memory.resting if name not in still)
    saying = Saying(kind="services.resumed", message=f"running again: {woken}", detail={"services": woken})
    return Settle(memory=replace(memory, resting=still), sayings=(saying,))


def least(memory: Memory) -> Memory:
    """Return ``memory`` as a low disk leaves it: of the confirmed releases only the last two."""
    return replace(memory, earlier=memory.earlier[:EARLIER_ON_LOW_DISK])


def cleaned(memory: Memory, what: Cleaning, came: Cleaned) -> Settle:
    """Room was made; a cleaning that found nothing is not worth telling."""
    spare = tuple(name for name in memory.spare_images if name not in came.images)
    memory = replace(memory, spare_images=spare)
    if not came.removed and not came.freed_bytes:
        return Settle(memory=memory)
    message = f"{what.replace('-', ' ')}: {came.freed_bytes // 1024} KiB freed"
    detail: dict[str, Scalar] = {"what": what.value, "freed_bytes": came.freed_bytes, "removed": came.removed}
    return Settle(memory=memory, sayings=(Saying(kind="disk.cleaned", reason=what, message=message, detail=detail),))


def spared(memory: Memory, images: frozenset[str]) -> Memory:
    """Return ``memory`` that knows the images of releases which are about to be removed."""
    new = tuple(sorted(images - set(memory.spare_images)))
    return replace(memory, spare_images=(*memory.spare_images, *new)[-SPARE_IMAGES_KEPT:]) if new else memory
