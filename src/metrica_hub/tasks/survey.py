"""Surveys what the fleet's updates rest on: whether the mirrors keep up, and whether devices believe this hub.

Only the hub that leads does, and only for ``/metrics``: nothing waits for what it finds. A mirror that does not answer
is found out about at the next look; what is wrong with a commit, as soon as that was read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from metrica_fleet.errors import NotNow
from metrica_fleet.retry import spread
from metrica_hub.decisions.lagging import Standing, found
from metrica_hub.decisions.reading import has_key
from metrica_hub.errors import Unstorable
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from metrica_fleet.identity import CommitId
    from metrica_hub.decisions.rollout_view import HeadView

_log = structlog.get_logger()


class Mirror(Protocol):
    """What is asked of a mirror."""

    async def head(self) -> CommitId:
        """Return the branch's commit there."""
        ...


class Follower(Protocol):
    """Who follows the branch itself."""

    @property
    def commit(self) -> CommitId | None:
        """Where it is; ``None``: not known."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether it answered last."""
        ...


class Store(Protocol):
    """What is asked of the database; it may raise ``StoreAway``."""

    async def head(self, branch: str) -> tuple[HeadView, str | None] | None:
        """Return where the branch is, and its ``allowed_signers``."""
        ...


class Hub(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads."""
        ...


class Meter(Protocol):
    """Who shows it."""

    def surveyed(self, remotes: Mapping[str, Standing], *, believed: bool | None, problems: int | None) -> None:
        """Show what was found, until something else is."""
        ...


class Surveyor:
    """The loop's surroundings."""

    def __init__(
        self,
        branch: str,
        *,
        mirrors: Mapping[str, Mirror],
        origin: tuple[str, Follower],
        poll_s: float,
        line: Callable[[], Awaitable[str]],
        store: Store,
        hub: Hub,
        meter: Meter,
        now_s: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """``origin``: the repository that is followed, by its name; ``line``: the hub's own, of ``allowed_signers``."""
        self._branch = branch
        self._mirrors = mirrors
        self._origin = origin
        self._poll_s = poll_s
        self._line = line
        self._store = store
        self._hub = hub
        self._meter = meter
        self._now_s = now_s
        self._chance = chance
        self._standings: dict[str, Standing] = {}
        self._wake = Wake()

    def wake(self) -> None:
        """A commit was read."""
        self._wake.nudge()

    async def run(self) -> None:
        """Survey for ever."""
        while True:
            self._wake.clear()
            if self._hub.leads is True:
                await self._look()
            else:
                self._standings.clear()
                self._meter.surveyed({}, believed=None, problems=None)
            await self._wake.wait(spread(self._poll_s, self._chance(), share=0.2))

    async def _look(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, mirror in self._mirrors.items():
                group.create_task(self._ask(name, mirror))
        believed, problems = await self._belief()
        name, follower = self._origin
        origin = {name: Standing(reachable=follower.reachable)}
        self._meter.surveyed(origin | self._standings, believed=believed, problems=problems)

    async def _ask(self, name: str, mirror: Mirror) -> None:
        before = self._standings.get(name)
        mirrored: CommitId | None = None
        try:
            mirrored = await mirror.head()
        except NotNow as error:
            if before is None or before.reachable:
                _log.warning("mirror.unreachable", error_kind=error.reason, error=error.message)
        _, follower = self._origin
        head = follower.commit if follower.reachable else None
        self._standings[name] = found(before, head=head, mirrored=mirrored, now_s=self._now_s())

    async def _belief(self) -> tuple[bool | None, int | None]:
        """Return whether devices believe what this hub signs, and how much of the branch's commit can't be used."""
        try:
            head = await self._store.head(self._branch)
            if head is None or head[0].read_commit is None:
                return None, None
            return has_key(head[1] or "", await self._line()), len(head[0].problems)
        except (NotNow, Unstorable) as error:
            _log.info("survey.deferred", error_kind=error.reason, error=error.message)
            return None, None
