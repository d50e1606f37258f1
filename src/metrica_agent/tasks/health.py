"""Looks at what runs, and is the only place that asks the engine for it.

Fast while something is on trial or wanted, slowly on a quiet device, at once when the engine says that something
happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from metrica_agent.decisions import guarding
from metrica_agent.decisions.trial import Watch, watched
from metrica_agent.decisions.world import CheckResult, Container, Release, Sample, Saying, Trial
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake
from metrica_fleet.definition import Check
from metrica_fleet.errors import NotNow
from metrica_fleet.identity import ReleaseDigest
from metrica_fleet.retry import full_jitter

log = structlog.stdlib.get_logger(__name__)

SLOW_S = 300.0
"""Between looks at a quiet device; its engine wakes us when something happens."""
UNRESPONSIVE_S = 15.0
"""Between looks at an engine that does not answer, and how long it may be silent before that is told."""
GATHER_S = 0.3
"""A burst of engine events is one look."""
EVENTS_BASE_S = 1.0
EVENTS_CAP_S = 60.0


class Engine(Protocol):
    """What the container engine can be asked."""

    async def containers(self) -> tuple[Container, ...]:
        """Return the project's containers. Raises NotNow when the engine does not answer."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever a container of the project changed; ends when the engine goes away."""
        ...


class Probe(Protocol):
    """Asks the role's own checks."""

    async def __call__(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]: ...


@dataclass(slots=True)
class Vigil:
    """What is being watched, and what was seen of it. Written by this task, read by the converge loop."""

    wake: Wake
    sample: Sample | None = None
    watch: Watch = field(default_factory=Watch)
    release: Release | None = None
    trial: Trial | None = None
    closely: bool = False
    _key: tuple[ReleaseDigest, float | None] | None = None

    def look_at(self, release: Release | None, trial: Trial | None, *, closely: bool) -> None:
        """Say what to watch. A trial that was applied anew is watched from the beginning."""
        key = (trial.release, trial.applied_s) if trial else None
        if key != self._key:
            self._key, self.watch = key, Watch()
        hurry = (closely and not self.closely) or release != self.release or trial != self.trial
        self.release, self.trial, self.closely = release, trial, closely
        if hurry:
            self.wake.nudge()

    def take(self, sample: Sample, key: tuple[Release | None, Trial | None]) -> None:
        """Take a sample into account, unless something else is watched since it was begun."""
        if key != (self.release, self.trial):
            return
        self.sample = sample
        if self.trial is not None and self.release is not None:
            self.watch = watched(self.watch, self.trial, self.release, sample)


@dataclass(slots=True)
class HealthTask:
    """The loop that samples."""

    vigil: Vigil
    engine: Engine
    probe: Probe
    ledger: Teller
    clock: Clock
    fast_s: float
    chance: Callable[[], float]
    on_sample: Callable[[], None]
    """Wakes the converge loop."""
    pulse: Pulse = field(default_factory=Pulse)
    following: Pulse = field(default_factory=Pulse)
    _outages: int = 0
    _silent_since_s: float | None = None
    _silence_told: bool = False

    async def run(self) -> None:
        """Sample until cancelled."""
        vigil = self.vigil
        while True:
            vigil.wake.clear()
            began_s = self.clock.now_s()
            before = vigil.sample
            sample = await self._sample()
            await self._tell_silence(sample)
            if vigil.closely or before is None or _substance(before) != _substance(sample):
                self.on_sample()
            await vigil.wake.wait_until(began_s + self._pause_s(sample))
            await asyncio.sleep(GATHER_S)

    async def follow(self) -> None:
        """Turn the engine's own events into wake-ups until cancelled; an engine that went away is waited for."""
        attempt = 0
        while True:
            self.following.back_within(None, "listens to the engine")
            try:
                async for _ in self.engine.changes():
                    attempt = 0
                    self.vigil.wake.nudge()
            except NotNow as error:
                log.debug("engine_events_ended", reason=error.reason, error=error.message)
            self._outages += 1
            attempt += 1
            self.vigil.wake.nudge()
            self.following.back_within(EVENTS_CAP_S, "waits for the engine")
            await asyncio.sleep(full_jitter(attempt, self.chance(), EVENTS_BASE_S, EVENTS_CAP_S))

    def _pause_s(self, sample: Sample) -> float:
        if self.vigil.closely:
            return self.fast_s
        return UNRESPONSIVE_S if sample.containers is None else SLOW_S

    async def _sample(self) -> Sample:
        vigil = self.vigil
        key = (vigil.release, vigil.trial)
        self.pulse.back_within(guarding.sample_s(vigil.release), "looks at what runs")
        at_s = self.clock.now_s()
        try:
            containers = await self.engine.containers()
        except NotNow as error:
            sample = Sample(at_s=at_s, taken_s=self.clock.now_s(), containers=None, trouble=error.message)
        else:
            checks = await self.probe(key[0].checks) if key[0] and key[0].checks else ()
            taken_s = self.clock.now_s()
            sample = Sample(at_s=at_s, taken_s=taken_s, containers=containers, checks=checks, outages=self._outages)
        self.pulse.works()
        vigil.take(sample, key)
        return sample

    async def _tell_silence(self, sample: Sample) -> None:
        """Say once that the engine is silent, and once that it is back."""
        if sample.containers is None:
            if self._silent_since_s is None:
                self._silent_since_s = sample.at_s
            if not self._silence_told and sample.at_s >= self._silent_since_s + UNRESPONSIVE_S:
                message = f"the container engine does not answer; what runs may go on running: {sample.trouble}"
                saying = Saying(kind="engine.unresponsive", reason="engine-unresponsive", message=message)
                self._silence_told = await self._tell(saying)
            return
        if self._silence_told:
            await self._tell(Saying(kind="engine.responsive", message="the container engine answers again"))
        self._silent_since_s, self._silence_told = None, False

    async def _tell(self, saying: Saying) -> bool:
        return await self.ledger.record(self.clock.stamp(), sayings=(saying,)) != ()


def _substance(sample: Sample) -> tuple[object, ...]:
    return sample.containers, tuple((check.name, check.passed) for check in sample.checks)
