"""Settings -> who follows the branch and rolls its commits out: put together here, for ``assembling`` to build on.

A hub without ``[git]`` follows none. It shows what is in the database all the same, and steers it for who leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from metrica_hub.adapters.mirror import Contents, Mirror, redacted
from metrica_hub.adapters.store.rollouts import Rollouts
from metrica_hub.adapters.store.writer import Writer
from metrica_hub.tasks.examine import Examiner
from metrica_hub.tasks.head import Follower
from metrica_hub.tasks.rollout import Gatekeeper
from metrica_hub.tasks.survey import Surveyor
from metrica_hub.web.figures import BranchFigures, RolloutFigures
from metrica_hub.web.rollouts import BranchResource, RolloutResource

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from metrica_fleet.identity import FleetId
    from metrica_hub.adapters.bus import Bus
    from metrica_hub.adapters.key import Key
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.settings import Git, Settings
    from metrica_hub.tasks.attend import Attendant
    from metrica_hub.tasks.lead import Candidate
    from metrica_hub.web.audit import Audit


@dataclass(frozen=True, slots=True)
class Around:
    """What of the hub is there already."""

    fleet: FleetId
    bus: Bus
    writers: Pool
    readers: Pool
    candidate: Candidate
    attendant: Attendant
    registry: CollectorRegistry
    audit: Audit
    key: Key
    stop: Callable[[], int]
    """The number of the newest stop order."""
    chance: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Following:
    """What runs, what wakes it, and what it answers to."""

    loops: tuple[Callable[[], Coroutine[object, object, None]], ...]
    connected: tuple[Callable[[], object], ...]
    """To be called on each new connection to the broker."""
    woken: tuple[Callable[[], object], ...]
    """To be called when something was committed."""
    resources: tuple[RolloutResource, BranchResource]

    @property
    def doubts(self) -> Callable[[], Coroutine[object, object, tuple[str, ...]]]:
        """Who says why devices may not heed this hub."""
        return self.resources[1].doubts


def following(parts: Settings, around: Around) -> Following:
    """Return it, with what it needs."""
    rollouts = Rollouts(around.readers)
    branch = None if parts.git is None else parts.git.branch
    resources = (RolloutResource(rollouts, around.audit), BranchResource(rollouts, branch, around.key.line))
    if parts.git is None:
        return Following((), (), (), resources)
    house = _house(parts.git, around, rollouts, on_read=lambda: surveyor.wake())  # noqa: PLW0108 - made below
    gatekeeper = Gatekeeper(
        around.fleet,
        store=rollouts,
        bus=around.bus,
        signer=around.key,
        hub=house,
        meter=RolloutFigures(around.registry),
        now=_now,
        now_s=time.monotonic,
    )
    surveyor = _surveyor(parts.git, around, house, rollouts)
    return Following(
        loops=(house.follower.run, house.examiner.run, gatekeeper.run, surveyor.run),
        connected=(house.follower.wake, gatekeeper.connected_anew),
        woken=(gatekeeper.wake,),
        resources=resources,
    )


def _surveyor(git: Git, around: Around, house: _House, rollouts: Rollouts) -> Surveyor:
    return Surveyor(
        git.branch,
        mirrors={redacted(url): Mirror(url, git.branch) for url in git.mirrors},
        origin=(redacted(git.url), house.follower),
        poll_s=git.poll_s,
        line=around.key.line,
        store=rollouts,
        hub=around.candidate,
        meter=BranchFigures(around.registry, now_s=time.monotonic),
        now_s=time.monotonic,
        chance=around.chance,
    )


@dataclass(frozen=True, slots=True)
class _House:
    """What the gate's keeper wants to know of the hub."""

    around: Around
    follower: Follower
    examiner: Examiner

    @property
    def leads(self) -> bool | None:
        return self.around.candidate.leads

    @property
    def listens(self) -> bool:
        return self.around.attendant.listens

    @property
    def is_current(self) -> bool:
        return self.follower.reachable and self.examiner.is_current


def _house(git: Git, around: Around, rollouts: Rollouts, *, on_read: Callable[[], object]) -> _House:
    examiner = Examiner(
        around.fleet,
        git.branch,
        contents=Contents(git.url),
        store=rollouts,
        hub=around.candidate,
        chance=around.chance,
        on_read=on_read,
    )
    follower = Follower(
        around.fleet,
        git.branch,
        poll_s=git.poll_s,
        mirror=Mirror(git.url, git.branch),
        store=Writer(around.writers),
        bus=around.bus,
        signer=around.key,
        now=_now,
        now_s=time.monotonic,
        chance=around.chance,
        on_moved=examiner.wake,
        stop=around.stop,
    )
    return _House(around, follower, examiner)


def _now() -> datetime:
    return datetime.now(UTC)
