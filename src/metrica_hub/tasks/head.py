"""Looks at the branch and nudges the devices: publishes ``head`` when the branch moved, and on each new connection.

Only a nudge: devices ask the remotes themselves. So an unreachable repository is told once, and tried again.

What it says is signed, and said again now and then for as long as the repository answers: so a device tells whether it
has the newest commit. Where the key can't be used the nudge goes without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from metrica_fleet import head
from metrica_fleet.codec import encode
from metrica_fleet.errors import NotNow
from metrica_fleet.messages import Head
from metrica_fleet.retry import spread
from metrica_fleet.signed import HEADS, Signed, joined
from metrica_fleet.topics import HEAD, Address, topic_of
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

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


class Signer(Protocol):
    """The hub's own key."""

    async def sign(self, text: bytes, namespace: str) -> bytes:
        """Return the armoured signature of ``text``."""
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
        signer: Signer,
        now: Callable[[], datetime],
        now_s: Callable[[], float],
        chance: Callable[[], float],
        on_moved: Callable[[], object],
        stop: Callable[[], int],
    ) -> None:
        """``stop``: the number of the newest stop order; 0: there is none."""
        self._fleet = fleet
        self._topic = topic_of(Address(fleet, HEAD))
        self._branch = branch
        self._poll_s = poll_s
        self._mirror = mirror
        self._store = store
        self._bus = bus
        self._signer = signer
        self._now = now
        self._now_s = now_s
        self._chance = chance
        self._on_moved = on_moved
        self._stop = stop
        self._said_stop = 0
        self._wake = Wake()
        self._said: CommitId | None = None
        self._said_s = float("-inf")
        self._number = 0
        """Of the commit, in the database."""
        self._vouched = 0
        """The number under which the branch was vouched for last."""
        self._is_mute = False
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
        is_news, stop = commit != self._said, self._stop()
        if not is_news and stop == self._said_stop and self._now_s() - self._said_s < head.REPEATED_S:
            return
        if is_news:
            self._number = await self._store.put_head(self._branch, commit)
            self._on_moved()
        signed = await self._signed(commit, stop)
        said = Head(branch=self._branch, commit=commit, number=self._number, signed=signed)
        self._bus.say(self._topic, encode(said))
        self._said, self._said_stop, self._said_s = commit, stop, self._now_s()
        if is_news:
            _log.info("head.published", commit=commit, number=self._number, branch=self._branch)

    async def _signed(self, commit: CommitId, stop: int) -> str | None:
        """Return where the branch is as a signed text, with the newest stop; ``None`` where the key can't be used."""
        now = self._now()
        self._vouched = head.next_number(self._vouched, now.timestamp())
        text = head.written(
            head.Vouched(
                fleet=self._fleet,
                number=self._vouched,
                issued_at=now,
                branch=self._branch,
                commit=commit,
                lifetime_s=head.LIFETIME_S,
                stop=stop,
            )
        )
        try:
            signature = await self._signer.sign(text.encode(), HEADS)
        except NotNow as error:
            if not self._is_mute:
                _log.error("head.unsigned", error_kind=error.reason, error=error.message)
            self._is_mute = True
            return None
        self._is_mute = False
        return joined(Signed(text, signature.decode())).decode()
