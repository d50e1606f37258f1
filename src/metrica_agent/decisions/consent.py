"""May the switch begin now? Update windows of the role, and locks that its services hold, each with a bound.

Asked are the candidate's own policies, once it is staged and preflighted. The first release of a device, a way out of
safe mode, the way back, a repair and an order do not ask. Patience is counted on the boot clock; only whether a window
is open rests on the wall clock, and while that can't be trusted every window is closed.

Patience counts while consent is what is waited for, and at no other time: a hold, a stop, a hot machine, a gate that
closes, a trial, or an agent that does not run, sets the wait aside. What was waited before stays counted.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from metrica_agent.decisions.steps import Observed, Settle, WallTime
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Desired, Memory, Release, Saying, Waiting
from metrica_fleet.identity import BootId
from metrica_fleet.policies import Day, ServicePolicy, UpdatePolicy

LOCKED: Final = "locked"
OUTSIDE_WINDOW: Final = "outside-window"
LOOK_S: Final = {LOCKED: 5.0, OUTSIDE_WINDOW: 30.0}
"""How soon to look again."""
PROGRESS_S: Final = 300.0
"""How often the time that was waited is written down: a start of the agent forgets no more of it."""
UNSEEN_S: Final = 3 * PROGRESS_S
"""A wait that was not written down for so long was no wait for consent: it is looked at, and written down, before."""
_DAYS: Final = tuple(Day)


class Withheld(Value, frozen=True, kw_only=True):
    """Consent is not given yet."""

    reason: str
    message: str
    until_s: float
    """When to look again."""
    waiting: Waiting
    """What is to be remembered of it; equal to what is remembered already on most looks."""


def withheld(observed: Observed, desired: Desired, release: Release, now_s: float) -> Withheld | None:
    """Return why ``release`` may not begin yet; ``None``: it may."""
    memory = observed.memory
    if memory.safe is not None or memory.confirmed is None:
        return None
    before = memory.waiting if memory.waiting is not None and memory.waiting.release == release.digest else None
    total_s, locked_s = waited(before, observed.boot_id, now_s)
    left_s = desired.update.patience_s - total_s
    if left_s > 0 and not is_open(desired.update, observed.wall):
        reason, message = OUTSIDE_WINDOW, _closed(desired.update, observed.wall, left_s)
    else:
        patience_s = {name: _patience_s(desired, name) for name in held(observed, release)}
        locked = sorted(name for name, bound_s in patience_s.items() if bound_s > locked_s)
        if not locked:
            return None
        left_s = max(patience_s[name] for name in locked) - locked_s
        reason, message = LOCKED, f"{_listed(locked)} asked not to be restarted; it waits {left_s:.0f} s more at most"
    waiting = _noted(before, release, reason, observed.boot_id, now_s)
    until_s = now_s + min(LOOK_S[reason], left_s)
    return Withheld(reason=reason, message=message, until_s=until_s, waiting=waiting)


def noted(observed: Observed, desired: Desired, found: Withheld) -> Settle | None:
    """Return what is to be written down about a wait, its reason said once; ``None``: that is done already."""
    memory = observed.memory
    before = memory.waiting
    if before == found.waiting:
        return None
    known = before is not None and before.release == found.waiting.release and found.reason in before.told
    saying = Saying(
        kind="release.waiting",
        reason=found.reason,
        message=found.message,
        commit=desired.commit,
        release=found.waiting.release,
    )
    return Settle(memory=replace(memory, waiting=found.waiting), sayings=() if known else (saying,))


def set_aside(observed: Observed, now_s: float) -> Settle | None:
    """Return what is to be written down when something else is waited for; ``None``: nothing is, or it is done."""
    before = observed.memory.waiting
    if before is None or before.aside:
        return None
    total_s, locked_s = waited(before, observed.boot_id, now_s)
    aside = replace(before, aside=True, since_s=now_s, total_s=total_s, locked_s=locked_s)
    return Settle(memory=replace(observed.memory, waiting=aside))


def outlived(memory: Memory) -> Memory:
    """Return ``memory`` for an agent that starts: since the one before it nobody waited, and its end is not known."""
    waiting = memory.waiting
    return memory if waiting is None else replace(memory, waiting=replace(waiting, aside=True))


def overridden(observed: Observed, desired: Desired, release: Release) -> tuple[Saying, ...]:
    """Return what is to be said of consent that is not there, when ``release`` begins all the same."""
    if observed.memory.safe is not None or observed.memory.confirmed is None:
        return ()
    found: list[tuple[str, str]] = []
    if not is_open(desired.update, observed.wall):
        message = f"it waited {desired.update.patience_s:.0f} s for a window, and begins outside of one"
        found.append(("window-overridden", message))
    locked = sorted(held(observed, release))
    if locked:
        message = f"{_listed(locked)} holds its lock past its patience, and is restarted all the same"
        found.append(("lock-overridden", message))
    return tuple(
        Saying(kind="consent.overridden", reason=reason, message=message, commit=desired.commit, release=release.digest)
        for reason, message in found
    )


def held(observed: Observed, release: Release) -> frozenset[str]:
    """Return the services that hold their lock, run, and would be restarted or removed by ``release``."""
    containers = observed.sample.containers if observed.sample is not None else None
    wanted = {service.name: service for service in release.services}
    touched: set[str] = set()
    for container in containers or ():
        service = wanted.get(container.service)
        same = [one for one in containers or () if one.service == container.service]
        if service is None or container.inputs != service.inputs or len(same) > service.replicas:
            touched.add(container.service)
    running = {container.service for container in containers or () if container.state == "running"}
    return observed.locks & touched & running


def waited(waiting: Waiting | None, boot_id: BootId, now_s: float) -> tuple[float, float]:
    """Return how long was waited in all, and for locks alone. What another boot did not write down is not counted."""
    if waiting is None:
        return 0.0, 0.0
    counts = not waiting.aside and waiting.boot_id == boot_id
    since_s = min(max(0.0, now_s - waiting.since_s), UNSEEN_S) if counts else 0.0
    return waiting.total_s + since_s, waiting.locked_s + (since_s if waiting.reason == LOCKED else 0.0)


def is_open(policy: UpdatePolicy, wall: WallTime | None) -> bool:
    """Whether a window of ``policy`` is open at ``wall``, the time in its zone; unknown time: none is."""
    if not policy.windows and not policy.days:
        return True
    if wall is None:
        return False
    windows = policy.windows or ("00:00-24:00",)
    return any(_is_in(window, policy, wall) for window in windows)


def _is_in(window: str, policy: UpdatePolicy, wall: WallTime) -> bool:
    begin, end = (_minute(text) for text in window.split("-"))
    yesterday = (wall.weekday - 1) % len(_DAYS)
    if begin < end:
        return begin <= wall.minute < end and _begins_on(policy, wall.weekday)
    since_begin = wall.minute >= begin and _begins_on(policy, wall.weekday)
    return since_begin or (wall.minute < end and _begins_on(policy, yesterday))


def _begins_on(policy: UpdatePolicy, weekday: int) -> bool:
    return not policy.days or _DAYS[weekday] in policy.days


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def _patience_s(desired: Desired, service: str) -> float:
    return desired.services.get(service, ServicePolicy()).lock_patience_s


def _noted(before: Waiting | None, release: Release, reason: str, boot_id: BootId, now_s: float) -> Waiting:
    if before is None:
        return Waiting(release=release.digest, reason=reason, boot_id=boot_id, since_s=now_s, told=(reason,))
    same = (before.reason, before.boot_id) == (reason, boot_id)
    if same and not before.aside and now_s < before.since_s + PROGRESS_S:
        return before
    total_s, locked_s = waited(before, boot_id, now_s)
    told = before.told if reason in before.told else (*before.told, reason)
    return replace(
        before,
        reason=reason,
        boot_id=boot_id,
        since_s=now_s,
        total_s=total_s,
        locked_s=locked_s,
        told=told,
        aside=False,
    )


def _closed(policy: UpdatePolicy, wall: WallTime | None, left_s: float) -> str:
    days = f" on {', '.join(policy.days)}" if policy.days else ""
    when = f"{', '.join(policy.windows) or 'any time'}{days} ({policy.zone})"
    known = "" if wall is not None else "; this device does not know the time there, so no window is open"
    return f"it may begin in {when}{known}; past {left_s:.0f} s more it begins regardless"


def _listed(services: list[str]) -> str:
    names = ", ".join(f'"{name}"' for name in services)
    return f"service {names}" if len(services) == 1 else f"services {names}"
