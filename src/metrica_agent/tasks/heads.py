"""Hears where the hub says the branch is, and knows whether this device can follow: "stale" where it can't.

A word that says the same again is judged only when half of the last one's life is over: who signed it is found out by
a process of its own. What is older than the last one, or the same, as the broker gives it at each connect, is no news.
One that nobody signed who may is judged again when others may: a new device hears it before its first commit has told
whom to trust.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from metrica_agent.decisions import freshness
from metrica_agent.decisions.world import HeadMark, Saying
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.notary import Doubted
from metrica_agent.tasks.telling import Clock, Teller
from metrica_fleet import head as heads
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.retry import full_jitter
from metrica_fleet.signed import HEADS, Signed, parted

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_agent.decisions.freshness import Stale, Word
    from metrica_agent.decisions.world import Memory
    from metrica_agent.tasks.notary import Notary
    from metrica_agent.wake import Wake
    from metrica_fleet.head import Vouched
    from metrica_fleet.identity import CommitId, FleetId
    from metrica_fleet.messages import Head

log = structlog.stdlib.get_logger(__name__)

AGAIN_BASE_S: Final = 1.0
AGAIN_CAP_S: Final = 60.0
UNWRITTEN_S: Final = 60.0
"""Until it is tried again to tell what the ledger could not take."""


@dataclass(slots=True, kw_only=True)
class HeadTask:
    """The loop that knows whether the device is stale."""

    fleet: FleetId
    notary: Notary
    memory: Callable[[], Memory]
    wanted: Callable[[], CommitId | None]
    """The commit that the remotes gave last."""
    ledger: Teller
    clock: Clock
    wake: Wake
    chance: Callable[[], float]
    poll_s: float
    on_heard: Callable[[], None]
    """Called when there is something to remember."""
    on_change: Callable[[], None]
    """Called when the device becomes stale, or is not any more."""
    pulse: Pulse = field(default_factory=Pulse)
    stale: Stale | None = None
    """Why this device can't say that it has the newest commit."""
    _began_s: float = field(init=False)
    _word: Word | None = None
    _waiting: tuple[Signed, float] | None = None
    """To be judged, and when it was heard; the newest is enough."""
    _doubted: Doubted[tuple[Signed, float]] = field(default_factory=Doubted[tuple[Signed, float]])
    _told: set[str] = field(default_factory=set[str])
    """Why words were refused since a good one was heard: each is told once."""

    def __post_init__(self) -> None:
        self._began_s = self.clock.now_s()

    @property
    def heard(self) -> HeadMark | None:
        """What is to be remembered."""
        return self._word.mark if self._word is not None else None

    def hear(self, head: Head) -> None:
        """Take what the hub says, to be judged; one that is not signed says nothing."""
        if head.signed is None:
            return
        try:
            self._waiting = parted(head.signed.encode()), self.clock.now_s()
        except Unusable as error:
            log.warning("head_refused", reason=error.reason, error=error.message)
            return
        self.wake.nudge()

    def remembered(self) -> None:
        """Memory has changed: others may sign now. A newer word that waits to be judged is enough."""
        said = self._doubted.again(self.notary.signers(self.memory()))
        if said is not None and self._waiting is None:
            self._waiting = said
            self.wake.nudge()

    async def run(self) -> None:
        """Judge, and look at the time, until cancelled."""
        failures = 0
        while True:
            self.wake.clear()
            self.pulse.works()
            said, self._waiting = self._waiting, None
            try:
                again_s = await self._judge(*said) if said is not None else None
                failures = 0
            except NotNow as error:
                self._waiting = self._waiting or said
                failures += 1
                log.warning("head_unjudged", reason=error.reason, error=error.message)
                again_s = self.clock.now_s() + full_jitter(failures, self.chance(), AGAIN_BASE_S, AGAIN_CAP_S)
            due_s = await self._look()
            await self.wake.wait_until(min((one for one in (again_s, due_s) if one is not None), default=None))

    async def _judge(self, signed: Signed, heard_s: float) -> float | None:
        """Take a word that is newer than all before, and good. Return when one that can wait is to be judged."""
        memory = self.memory()
        try:
            vouched = heads.read(signed.text)
            if not self._is_news(vouched):
                return None
            if (again_s := self._can_wait_until(vouched)) is not None:
                self._waiting = self._waiting or (signed, heard_s)
                return again_s
            await self.notary.opened(signed, HEADS, memory)
        except Unusable as error:
            self._doubted.refused((signed, heard_s), error, self.notary.signers(memory))
            await self._refuse(error)
            self.remembered()  # it may have changed while this was judged
            return None
        self._told.clear()
        self._word = freshness.after(self._word, vouched, heard_s)
        self.on_heard()
        return None

    def _is_news(self, vouched: Vouched) -> bool:
        """Whether it is above all that were heard. Raises Unusable: ``head-of-another-fleet``."""
        if vouched.fleet != self.fleet:
            message = f'it is a head of the fleet "{vouched.fleet}", and this is "{self.fleet}"'
            raise Unusable(message, reason="head-of-another-fleet")
        remembered, word = self.memory().head, self._word
        if word is not None:
            return vouched.number > word.mark.number
        return remembered is None or vouched.number >= remembered.number

    def _can_wait_until(self, vouched: Vouched) -> float | None:
        """Return until when a word that says the same again can wait; ``None``: it is to be judged now."""
        word = self._word
        if word is None or (word.mark.commit, word.stop) != (vouched.commit, vouched.stop):
            return None
        again_s = freshness.again_s(word)
        return again_s if self.clock.now_s() < again_s else None

    async def _look(self) -> float | None:
        """Tell whether the device is stale, when that changed. Return when to look again."""
        self._word = freshness.looked_at(self._word, self.wanted())
        now_s = self.clock.now_s()
        word, remembered, began_s, poll_s = self._word, self.memory().head, self._began_s, self.poll_s
        stopped = self.memory().stop
        stop = stopped.number if stopped is not None else 0
        stale = freshness.staleness(word, remembered, began_s=began_s, poll_s=poll_s, now_s=now_s, stop=stop)
        saying = freshness.to_tell(self.stale, stale)
        if saying is not None and not await self._tell(saying):
            return now_s + UNWRITTEN_S
        if (self.stale is None) != (stale is None) or saying is not None:
            self.stale = stale
            self.on_change()
        return freshness.due_s(word, remembered, began_s=began_s, poll_s=poll_s, now_s=now_s, stop=stop)

    async def _refuse(self, error: Unusable) -> None:
        log.warning("head_refused", reason=error.reason, error=error.message)
        if error.reason in self._told:
            return
        message = f"what the hub is said to vouch for is not believed: {error.message}"[:1000]
        if await self._tell(Saying(kind="head.refused", reason=error.reason, message=message)):
            self._told.add(error.reason)

    async def _tell(self, saying: Saying) -> bool:
        return await self.ledger.record(self.clock.stamp(), sayings=(saying,)) != ()
