"""What an agent has to say of its own version: the verdict on trial, and else whether the one before was at fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from metrica_agent.decisions import guarding, upgrading
from metrica_agent.decisions.steps import OnTrial
from metrica_agent.decisions.trust import Proof
from metrica_agent.decisions.upgrading import Undecided, Verdict
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.ports import TryFetch, Versions
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake
from metrica_fleet.errors import FleetError, NotNow
from metrica_fleet.identity import CommitId
from metrica_fleet.retry import full_jitter

log = structlog.stdlib.get_logger(__name__)

AGAIN_S = 10.0
"""Until what could not be written down is tried again."""
REST_S = 3600.0
FETCH_BASE_S = 5.0
FETCH_CAP_S = 60.0
MESSAGE_CHARACTERS = 600


@dataclass(slots=True, kw_only=True)
class UpgradeTask:
    """The loop that ends a trial from inside."""

    versions: Versions | None
    ledger: Teller
    clock: Clock
    wake: Wake
    steady_s: float
    trial_s: float
    understood: Callable[[], bool]
    """Whether what Git offers was read in this process, by the child that reads it."""
    restart: Callable[[], None]
    """Ends this process, so that the launcher starts what is to run."""
    remotes: tuple[str, ...]
    try_fetch: TryFetch
    have: Callable[[], CommitId | None]
    """The commit whose release runs: what is new to Git comes after it."""
    proof: Callable[[], Proof | None]
    """By what it shows that it can tell whose a commit is; ``None``: commits need no signature."""
    chance: Callable[[], float]
    on_change: Callable[[], None]
    """Called when something is decided: the converge loop may go on."""
    pulse: Pulse = field(default_factory=Pulse)
    answered_s: float | None = None
    """When a remote last answered this process."""
    _started_s: float = 0.0
    _steady: bool = False
    _over: bool = False
    _fetched: bool = False
    """Whether this process has fetched, in a trial or a doubt that asks for it."""
    _not_fetched: str = "it has fetched nothing"
    _fetches: int = 0
    _fetch_at_s: float = 0.0

    def __post_init__(self) -> None:
        self._started_s = self.clock.now_s()

    def heard(self) -> None:
        """Note that a remote answered."""
        first, self.answered_s = self.answered_s is None, self.clock.now_s()
        if first:
            self.wake.nudge()

    async def run(self) -> None:
        """Judge until cancelled."""
        while True:
            self.wake.clear()
            self.pulse.back_within(guarding.DISK_S, "looks at its own version")
            try:
                until_s = await self._look()
            except NotNow as error:
                log.warning("choice_unwritten", reason=error.reason, error=error.message)
                until_s = self.clock.now_s() + AGAIN_S
            await self.wake.wait_until(until_s)

    async def _look(self) -> float:
        """Take what there is to say one step further; return when to look again."""
        versions, now_s = self.versions, self.clock.now_s()
        if versions is None or self._over:
            return now_s + REST_S
        await self._tell(versions)
        agents = versions.seen
        if agents.trial is not None:
            return await self._on_trial(versions, agents.trial)
        if agents.doubted is not None:
            return await self._doubted(versions, fetch=agents.doubted_fetch)
        return await self._become_steady(versions, now_s)

    async def _on_trial(self, versions: Versions, trial: OnTrial) -> float:
        reached = self.answered_s is not None and self.understood()
        if reached and trial.needs_git:
            await self._show_fetch(upgrading.end_of(trial, started_s=self._started_s))
        verdict = upgrading.judged(
            trial,
            started_s=self._started_s,
            steady_s=self.steady_s,
            git_reached=reached,
            fetched=self._fetched,
            now_s=self.clock.now_s(),
        )
        if isinstance(verdict, Undecided):
            return self._or_fetch(verdict.until_s)
        return await self._end(versions, verdict)

    async def _show_fetch(self, end_s: float) -> None:
        """Fetch from the first remote that lets this agent, once it is time; note what came of it."""
        began_s = self.clock.now_s()
        if self._fetched or began_s < self._fetch_at_s or (self._fetches and began_s >= end_s):
            return
        asked_s = 0.0
        for url in self.remotes:
            within_s = upgrading.fetch_within(end_s, self.clock.now_s())
            self.pulse.back_within(within_s + guarding.DISK_S, "fetches, to show that it can")
            try:
                await self.try_fetch(url, self.have(), proof=self.proof(), within_s=within_s)
            except FleetError as error:
                log.warning("trial_fetch_failed", reason=error.reason, error=error.message)
                self._not_fetched = f"{error.message} ({error.reason})"
                asked_s = max(asked_s, (error.retry_after_s or 0.0) if isinstance(error, NotNow) else 0.0)
            else:
                self._fetched = True
                break
        self._fetches += 1
        jittered_s = full_jitter(self._fetches, self.chance(), FETCH_BASE_S, FETCH_CAP_S)
        self._fetch_at_s = self.clock.now_s() + max(asked_s, jittered_s)
        self.pulse.back_within(guarding.DISK_S, "looks at its own version")

    def _or_fetch(self, until_s: float) -> float:
        """Return when to look again: at ``until_s``, or before, for another fetch."""
        waits = self._fetches and not self._fetched
        return min(until_s, self._fetch_at_s) if waits else until_s

    async def _end(self, versions: Versions, verdict: Verdict) -> float:
        if verdict is Verdict.CONFIRMED:
            await versions.confirm()
            await self._tell(versions)
            self.on_change()
        else:
            unreached = verdict is Verdict.GIT_UNREACHED
            why = "it did not reach Git" if unreached else f"Git answered, and it could not fetch: {self._not_fetched}"
            await versions.doubt(verdict, why[:MESSAGE_CHARACTERS])
            log.warning("agent_given_up", reason=verdict, error=why)
            self._over = True
            self.restart()
        return self.clock.now_s() + REST_S

    async def _doubted(self, versions: Versions, *, fetch: bool) -> float:
        """Do what the one before was to do; ``fetch``: that is a fetch, and else an answer is enough."""
        reached, end_s = self.answered_s is not None, self._started_s + self.trial_s
        if reached and fetch:
            await self._show_fetch(end_s)
        now_s = self.clock.now_s()
        done = reached and (self._fetched or not fetch)
        bad = upgrading.doubt_ended(started_s=self._started_s, within_s=self.trial_s, done=done, now_s=now_s)
        if bad is None:
            return self._or_fetch(end_s)
        await versions.doubt_ended(bad=bad)
        await self._tell(versions)
        self.on_change()
        return now_s

    async def _become_steady(self, versions: Versions, now_s: float) -> float:
        if self._steady:
            return now_s + REST_S
        if now_s < self._started_s + self.steady_s:
            return self._started_s + self.steady_s
        await versions.steady()
        self._steady = True
        return now_s + REST_S

    async def _tell(self, versions: Versions) -> None:
        """Say what came of trials: written down first, so that it may be said twice, and never not at all."""
        news = versions.news()
        if news and await self.ledger.record(self.clock.stamp(), sayings=news):
            await versions.told()
