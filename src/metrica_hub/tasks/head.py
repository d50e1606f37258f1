"""Looks at the branch and nudges the devices: publishes ``head`` when the branch moved, and on each new connection.

Only a nudge: devices ask the remotes themselves. So an unreachable repository is told once, and tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from metrica_fleet.codec import encode
from metrica_fleet.errors import NotNow
from metrica_fleet.messages import Head
from metrica_fleet.retry import spread
from metrica_fleet.topics import HEAD, Address, topic_of
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_fleet.identity import CommitId, FleetId

_log = structlog.get_logger()


class Mirror(Protocol):
    """What following asks of the repository."""

    async def head(self) -> CommitId:
        """Return the branch's commit."""
        ...


class Store(Protocol):
    """What following asks of the database."""

    async def put_head(self, branch: str, commit: CommitId) -> int:
        """Remember the commit; return its number."""
        ...


class Bus(Protocol):
    """What following asks of the bus."""

    def say(self, topic: str, payload: bytes) -> None:
        """Publish a retained message."""
        ...


class Follower:
    """The loop's surroundings. ``wake`` makes it look at once and say again what it finds."""

    def __init__(
        self,
        fleet: FleetId,
        branch: str,
        *,
        poll_s: float,
        mirror: Mirror,
        store: Store,
        bus: Bus,
        chance: Callable[[], float],
        on_moved: Callable[[], object],
    ) -> None:
        self._topic = topic_of(Address(fleet, HEAD))
        self._branch = branch
        self._poll_s = poll_s
        self._mirror = mirror
        self._store = store
        self._bus = bus
        self._chance = chance
        self._on_moved = on_moved
        self._wake = Wake()
        self._said: CommitId | None = None
        self._seen: CommitId | None = None
        self._reachable = True

    @property
    def reachable(self) -> bool:
        """Whether the repository answered when it was asked last."""
        return self._reachable

    @property
    def commit(self) -> CommitId | None:
        """Where the branch is, as far as it was seen; ``None``: it was not."""
        return self._seen

    def wake(self) -> None:
        """Look again now: the broker may have forgotten what it was told."""
        self._said = None
        self._wake.nudge()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except NotNow as error:
                if self._reachable:
                    _log.warning("head.unknown", error_kind=error.reason, error=error.message, branch=self._branch)
                self._reachable = False
            else:
                self._reachable = True
            pause_s = spread(self._poll_s, self._chance(), share=0.2)
            await self._wake.wait(pause_s)

    async def _look(self) -> None:
        self._seen = commit = await self._mirror.head()
        if commit == self._said:
            return
        number = await self._store.put_head(self._branch, commit)
        self._on_moved()
        self._bus.say(self._topic, encode(Head(branch=self._branch, commit=commit, number=number)))
        self._said = commit
        _log.info("head.published", commit=commit, number=number, branch=self._branch)
