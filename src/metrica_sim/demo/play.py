"""The acts of the play, and what each must have come to, as Postgres has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from metrica_fleet.identity import CommitId, short
from metrica_sim.demo.stage import Stage

ACT_S: Final = 120.0
"""What one act may take at most."""
_LOOK_S: Final = 0.2


async def play(stage: Stage) -> bool:
    """Play all acts; return whether everything was as it should be."""
    if not await first_act(stage):
        return False
    good = await good_act(stage)
    return good is not None and await bad_act(stage, good)


async def first_act(stage: Stage) -> bool:
    """All devices come to the first commit."""
    return await confirmed_by_all(stage, stage.first, "first commit", began_s=stage.began_s)


async def good_act(stage: Stage) -> CommitId | None:
    """A good commit is confirmed by all; return it, or ``None`` when it was not."""
    began_s = time.monotonic()
    commit = await stage.repository.good()
    await told(stage)
    well = await confirmed_by_all(stage, commit, "good commit", began_s=began_s)
    await tell_beginning(stage, commit)
    return commit if well else None


async def bad_act(stage: Stage, good: CommitId) -> bool:
    """A bad commit is refused by all, and ``good`` runs everywhere again."""
    began_s = time.monotonic()
    commit = await stage.repository.bad()
    await told(stage)
    well = await taken_back_by_all(stage, commit, good, began_s=began_s)
    await tell_beginning(stage, commit)
    for reason in await stage.facts.reasons(commit):
        stage.console.say(f"    {reason}")
    return well


async def told(stage: Stage) -> None:
    """Print the command behind the commit that was just made."""
    message = await stage.repository.last_message()
    folder = stage.shown(stage.repository.folder)
    stage.console.say(f"$ git -C {folder} commit --all --message '{message}'")


async def confirmed_by_all(stage: Stage, commit: CommitId, what: str, *, began_s: float) -> bool:
    """Wait until every device has confirmed ``commit``; say so, or who has not."""

    async def done() -> frozenset[str]:
        return await stage.facts.confirmed(commit)

    missing = await _watched(stage, done, f"confirmed {short(commit)}", began_s)
    name = f"{what} {short(commit)}"
    if not missing:
        stage.console.done(f"{name} confirmed by all {len(stage.devices)} devices", time.monotonic() - began_s)
        return True
    await _tell_missing(stage, commit, f"{name} was not confirmed by {', '.join(sorted(missing))}")
    return False


async def taken_back_by_all(stage: Stage, bad: CommitId, good: CommitId, *, began_s: float) -> bool:
    """Wait until every device has refused ``bad`` and runs ``good`` again; say so, or who does not."""

    async def done() -> frozenset[str]:
        return await stage.facts.took_back(bad, good)

    missing = await _watched(stage, done, f"refused {short(bad)} and runs {short(good)} again", began_s)
    if not missing:
        line = f"bad commit {short(bad)} refused by all {len(stage.devices)} devices, {short(good)} runs again"
        stage.console.done(line, time.monotonic() - began_s)
        return True
    who = ", ".join(sorted(missing))
    await _tell_missing(stage, bad, f"bad commit {short(bad)} was not taken back by {who}")
    return False


async def rolled_out(stage: Stage, commit: CommitId, *, began_s: float) -> bool:
    """Wait until ``commit`` has gone through all stages, and say so; or that it halted, and who was spared."""
    while (rollout := await stage.facts.rollout(commit)) is None or rollout.state in {"open", "paused"}:
        seconds = time.monotonic() - began_s
        if seconds > ACT_S:
            stage.console.failed(f"the rollout of {short(commit)} goes on after {ACT_S:g} s")
            return False
        stage.household.require_running()
        await asyncio.sleep(_LOOK_S)
    seconds = time.monotonic() - began_s
    metrica = stage.shown(stage.person.program)
    if rollout.state != "halted":
        stage.console.done(f"rollout {rollout.number} of {short(commit)} is {rollout.state}", seconds)
        return rollout.state == "done"
    stage.console.done(f"rollout {rollout.number} of {short(commit)} halted by itself: {rollout.message}", seconds)
    stage.console.say(f"    {rollout.refused} refused it and went back, {rollout.waiting} never began it")
    for words in ("status", 'abort "it is bad"'):
        stage.console.say(f"$ {metrica} rollout {words}")
    return True


async def tell_beginning(stage: Stage, commit: CommitId) -> None:
    """Print how soon after the nudge all simulated devices had begun."""
    count, seconds = await stage.facts.begun(commit, stage.simulated)
    if seconds is not None:
        stage.console.say(f"    {count} simulated devices had begun their trial {seconds:.1f} s after the nudge")


async def _watched(
    stage: Stage, done: Callable[[], Awaitable[frozenset[str]]], what: str, began_s: float
) -> frozenset[str]:
    """Look until all devices are done, and print each as it is; return those that are not in time."""
    everyone = frozenset[str](stage.devices)
    seen: frozenset[str] = frozenset()
    while True:
        now = await done() & everyone
        seconds = time.monotonic() - began_s
        for device in sorted(now - seen):
            stage.console.say(f"    ● {device} {what} ({seconds:.1f} s)")
        seen |= now
        if seen >= everyone or seconds > ACT_S:
            return everyone - seen
        stage.household.require_running()
        stage.console.progress(f"{len(seen)} of {len(everyone)} devices {what}")
        await asyncio.sleep(_LOOK_S)


async def _tell_missing(stage: Stage, commit: CommitId, sentence: str) -> None:
    stage.console.failed(f"{sentence} within {ACT_S:g} s; logs: {stage.shown(stage.household.logs)}/")
    for line in await stage.facts.last_words(commit):
        stage.console.say(f"    {line}")


async def rest(stage: Stage, until_s: float) -> None:
    """Keep everything up until ``until_s``.

    Raises:
        Trouble: something ended meanwhile.
    """
    while (left_s := until_s - time.monotonic()) > 0:
        stage.household.require_running()
        stage.console.progress(f"the page stays up for {left_s:.0f} s more")
        await asyncio.sleep(min(left_s, 1.0))
