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
    coming = confirming(stage, stage.first, began_s=stage.began_s)
    return await confirmed_by_all(stage, stage.first, "first commit", coming)


async def good_act(stage: Stage) -> CommitId | None:
    """A good commit is confirmed by all; return it, or ``None`` when it was not."""
    began_s = time.monotonic()
    commit = await stage.repository.good()
    await told(stage)
    well = await confirmed_by_all(stage, commit, "good commit", confirming(stage, commit, began_s=began_s))
    await tell_beginning(stage, commit)
    return commit if well else None


async def bad_act(stage: Stage, good: CommitId) -> bool:
    """A bad commit is refused by all, and ``good`` runs everywhere again."""
    began_s = time.monotonic()
    commit = await stage.repository.bad()
    await told(stage)
    well = await taken_back_by_all(stage, commit, good, taking_back(stage, commit, good, began_s=began_s))
    await tell_beginning(stage, commit)
    for reason in await stage.facts.reasons(commit):
        stage.console.say(f"    {reason}")
    return well


async def told(stage: Stage) -> None:
    """Print the command behind the commit that was just made."""
    message = await stage.repository.last_message()
    folder = stage.shown(stage.repository.folder)
    stage.console.say(f"$ git -C {folder} commit --all --message '{message}'")


class Coming:
    """Who of the devices is done with a commit: each is printed once, when it comes."""

    def __init__(self, stage: Stage, done: Callable[[], Awaitable[frozenset[str]]], what: str, began_s: float) -> None:
        """``done`` says which devices are; ``what``: each has done then."""
        self._stage = stage
        self._done = done
        self._what = what
        self._began_s = began_s
        self._seen: frozenset[str] = frozenset()

    @property
    def seconds(self) -> float:
        """Since the commit was made."""
        return time.monotonic() - self._began_s

    async def look(self) -> frozenset[str]:
        """Print who came since the last look; return who has not come yet.

        Raises:
            Trouble: a part of the demo ended meanwhile, or Postgres does not answer.
        """
        stage, everyone = self._stage, frozenset[str](self._stage.devices)
        stage.household.require_running()
        now = await self._done() & everyone
        for device in sorted(now - self._seen):
            stage.console.say(f"    ● {device} {self._what} ({self.seconds:.1f} s)")
        self._seen |= now
        if self._seen < everyone:
            stage.console.progress(f"{len(self._seen)} of {len(everyone)} devices {self._what}")
        return everyone - self._seen

    async def missing(self) -> frozenset[str]:
        """Look until all have come; return those that have not in time."""
        while True:
            missing = await self.look()
            if not missing or self.seconds > ACT_S:
                return missing
            await asyncio.sleep(_LOOK_S)


def confirming(stage: Stage, commit: CommitId, *, began_s: float) -> Coming:
    """Return who has confirmed ``commit``."""
    return Coming(stage, lambda: stage.facts.confirmed(commit), f"confirmed {short(commit)}", began_s)


def taking_back(stage: Stage, bad: CommitId, good: CommitId, *, began_s: float) -> Coming:
    """Return who has refused ``bad`` and runs ``good`` again."""
    what = f"refused {short(bad)} and runs {short(good)} again"
    return Coming(stage, lambda: stage.facts.took_back(bad, good), what, began_s)


async def confirmed_by_all(stage: Stage, commit: CommitId, what: str, coming: Coming) -> bool:
    """Wait until every device has confirmed ``commit``; say so, or who has not."""
    missing = await coming.missing()
    name = f"{what} {short(commit)}"
    if not missing:
        stage.console.done(f"{name} confirmed by all {len(stage.devices)} devices", coming.seconds)
        return True
    await _tell_missing(stage, commit, f"{name} was not confirmed by {', '.join(sorted(missing))}")
    return False


async def taken_back_by_all(stage: Stage, bad: CommitId, good: CommitId, coming: Coming) -> bool:
    """Wait until every device has refused ``bad`` and runs ``good`` again; say so, or who does not."""
    missing = await coming.missing()
    if not missing:
        line = f"bad commit {short(bad)} refused by all {len(stage.devices)} devices, {short(good)} runs again"
        stage.console.done(line, coming.seconds)
        return True
    who = ", ".join(sorted(missing))
    await _tell_missing(stage, bad, f"bad commit {short(bad)} was not taken back by {who}")
    return False


async def rolled_out(stage: Stage, commit: CommitId, coming: Coming) -> bool:
    """Wait until ``commit`` has gone through all stages, and say so; or that it halted, and who was spared."""
    while (rollout := await stage.facts.rollout(commit)) is None or rollout.state in {"open", "paused"}:
        if coming.seconds > ACT_S:
            stage.console.failed(f"the rollout of {short(commit)} goes on after {ACT_S:g} s")
            return False
        await coming.look()
        await asyncio.sleep(_LOOK_S)
    metrica = stage.shown(stage.person.program)
    if rollout.state != "halted":
        stage.console.done(f"rollout {rollout.number} of {short(commit)} is {rollout.state}", coming.seconds)
        return rollout.state == "done"
    halted = f"rollout {rollout.number} of {short(commit)} halted by itself: {rollout.message}"
    stage.console.done(halted, coming.seconds)
    stage.console.say(f"    {rollout.refused} refused it and went back, {rollout.waiting} never began it")
    for words in ("status", 'abort "it is bad"'):
        stage.console.say(f"$ {metrica} rollout {words}")
    return True


async def tell_beginning(stage: Stage, commit: CommitId) -> None:
    """Print how soon after the nudge all simulated devices had begun."""
    count, seconds = await stage.facts.begun(commit, stage.simulated)
    if seconds is not None:
        stage.console.say(f"    {count} simulated devices had begun their trial {seconds:.1f} s after the nudge")


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
