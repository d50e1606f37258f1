"""What an agent has to say of its own version: the verdict on trial, and else whether the one before was at fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from metrica_agent.decisions import guarding, upgrading
from metrica_agent.decisions.upgrading import Undecided, Verdict
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.ports import Versions
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow

log = structlog.stdlib.get_logger(__name__)

AGAIN_S = 10.0
"""Until what could not be written down is tried again."""
REST_S = 3600.0


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
    on_change: Callable[[], None]
    """Called when something is decided: the converge loop may go on."""
    pulse: Pulse = field(default_factory=Pulse)
    answered_s: float | None = None
    """When a remote last answered this process."""
    _started_s: float = 0.0
    _steady: bool = False
    _over: bool = False

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
            reached = self.answered_s is not None and self.understood()
            verdict = upgrading.judged(
                agents.trial,
                started_s=self._started_s,
                steady_s=self.steady_s,
                git_reached=reached,
                now_s=now_s,
            )
            return verdict.until_s if isinstance(verdict, Undecided) else await self._end(versions, verdict)
        if agents.doubted is not None:
            return await self._doubted(versions, now_s)
        return await self._become_steady(versions, now_s)

    async def _end(self, versions: Versions, verdict: Verdict) -> float:
        if verdict is Verdict.CONFIRMED:
            await versions.confirm()
            await self._tell(versions)
            self.on_change()
        else:
            await versions.doubt()
            log.warning("agent_given_up", reason=verdict)
            self._over = True
            self.restart()
        return self.clock.now_s() + REST_S

    async def _doubted(self, versions: Versions, now_s: float) -> float:
        bad = upgrading.doubt_ended(
            started_s=self._started_s,
            within_s=self.trial_s,
            git_reached=self.answered_s is not None,
            now_s=now_s,
        )
        if bad is None:
            return self._started_s + self.trial_s
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
