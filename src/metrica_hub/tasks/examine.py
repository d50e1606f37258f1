"""Examines each new commit of the branch: what the fleet is there, and how it rolls out; begins its rollout.

Only the hub that leads does. A commit that can't be used begins nothing, and the one before goes on: the devices refuse
it, too. A commit that can't be read now is tried again; until it is read the gate is not said again either, so that
devices can tell, and do by the policy that they know.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet.errors import NotNow
from metrica_fleet.retry import full_jitter
from metrica_fleet.rollout import planned
from metrica_hub.decisions.reading import of_another_fleet
from metrica_hub.errors import Unstorable
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_fleet.identity import CommitId, FleetId
    from metrica_fleet.rollout import Plan
    from metrica_hub.decisions.progress import Rollout
    from metrica_hub.decisions.reading import Reading

LOOK_S: Final = 2.0
_RETRY_BASE_S: Final = 2.0
_RETRY_CAP_S: Final = 60.0

_log = structlog.get_logger()


class Contents(Protocol):
    """What examining asks of the repository."""

    async def read(self, commit: CommitId) -> Reading:
        """Return what of ``commit`` concerns the hub."""
        ...


class Store(Protocol):
    """What examining asks of the database."""

    async def unread(self, branch: str) -> CommitId | None:
        """Return the branch's commit if nobody has read yet what the fleet is at it."""
        ...

    async def met(self, branch: str, commit: CommitId, reading: Reading, plan: Plan | None) -> Rollout | None:
        """Note what was read; begin the rollout."""
        ...


class Hub(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads."""
        ...


class Examiner:
    """The loop's surroundings."""

    def __init__(
        self,
        fleet: FleetId,
        branch: str,
        *,
        contents: Contents,
        store: Store,
        hub: Hub,
        chance: Callable[[], float],
        on_read: Callable[[], object],
    ) -> None:
        """``on_read`` is told when what was read is noted."""
        self._fleet = fleet
        self._branch = branch
        self._contents = contents
        self._store = store
        self._hub = hub
        self._chance = chance
        self._on_read = on_read
        self._attempt = 0
        self._wake = Wake()
        self.is_current = False
        """Whether the branch's commit, as far as the hub knows it, was examined."""

    def wake(self) -> None:
        """The branch may have moved."""
        self._wake.nudge()

    async def run(self) -> None:
        """Examine for ever."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except (NotNow, Unstorable) as error:
                self.is_current = False
                self._attempt += 1
                _log.info("commit.unexamined", error_kind=error.reason, error=error.message)
            else:
                self._attempt = 0
            if self._attempt:
                await asyncio.sleep(full_jitter(self._attempt, self._chance(), _RETRY_BASE_S, _RETRY_CAP_S))
            await self._wake.wait(LOOK_S)

    async def _look(self) -> None:
        commit = await self._store.unread(self._branch) if self._hub.leads is True else None
        if commit is not None:
            self.is_current = False
            await self._examine(commit)
        self.is_current = self._hub.leads is True

    async def _examine(self, commit: CommitId) -> None:
        reading = await self._contents.read(commit)
        if reading.fleet is not None and reading.fleet != self._fleet:
            reading = of_another_fleet(reading, self._fleet)
        for problem in reading.problems:
            _log.warning("commit.unusable", commit=commit, error=problem)
        plan = None if reading.policy is None else planned(reading.policy, commit, reading.devices)
        begun = await self._store.met(self._branch, commit, reading, plan)
        self._on_read()
        if begun is not None:
            _log.info("rollout.begun", rollout=begun.id, commit=commit, devices=len(reading.devices))
