"""Keeps the device's certificate good: asks for the next one in time, and has the bus connect with it.

The present one stays until the broker has taken the next: whatever is wrong with that, the device is not cut off by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_agent.decisions.renewing import Ask, Facts, Prove, Refused, Rest, decide
from metrica_agent.decisions.world import Saying
from metrica_agent.pulse import Pulse
from metrica_fleet.enrolment import chance_of
from metrica_fleet.errors import FleetError, NotNow

if TYPE_CHECKING:
    from metrica_agent.decisions.renewing import Papers
    from metrica_agent.tasks.telling import Clock, Teller
    from metrica_agent.wake import Wake

EXPIRED: Final = "bus-certificate-expired"
REVOKED: Final = "bus-certificate-revoked"
UNTIMELY: Final = "bus-untimely"
_SAID: Final[dict[str, Refused]] = {EXPIRED: "expired", REVOKED: "revoked"}
ASKED_WITHIN_S: Final = 240.0
"""For a new key, the hub's answer, and what the disk takes."""
PROVEN_WITHIN_S: Final = 120.0
TOLD_AGAIN_S: Final = 86_400.0

log = structlog.stdlib.get_logger(__name__)


class Identity(Protocol):
    """The device's identity on its disk."""

    def has_next(self) -> bool:
        """Whether there is a certificate that the broker has not seen yet."""
        ...

    async def taken(self) -> bool:
        """Note that the broker took what was shown last; true when that is the next one. ``NotNow``: the disk."""
        ...

    async def papers(self) -> Papers | None:
        """Return the present certificate."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What renewing a certificate takes."""

    identity: Identity
    ask: Callable[[], Awaitable[None]]
    """Gets the next certificate from the hub. ``NotNow``, or ``Unusable`` where asking again will hardly help."""
    wall: Callable[[], datetime | None]
    """The time of day; ``None`` while it can't be trusted."""


@dataclass(slots=True, kw_only=True)
class RenewalTask:
    """The loop. The report task tells it how the connections go; it asks that one to connect anew."""

    means: Means
    turn: Callable[[], None]
    """Has the bus connect anew."""
    ledger: Teller
    clock: Clock
    wake: Wake
    pulse: Pulse = field(default_factory=Pulse)
    _refused: Refused | None = None
    _untimely_s: float | None = None
    """Since when the broker's certificate has not been valid by our clock."""
    _linked: bool = False
    _attempts: int = 0
    _tried_s: float | None = None
    _told: dict[str, float] = field(default_factory=dict[str, float])

    def linked(self, stands: bool) -> None:  # noqa: FBT001 - handed over as a callback
        """Note that the bus is connected, or not any more."""
        self._linked = stands
        if stands:
            self._refused = None
        self.wake.nudge()

    def troubled(self, reason: str) -> None:
        """Note why a connection to the broker came to nothing."""
        said = _SAID.get(reason)
        if said is not None and said != self._refused:
            self._refused = said
            self.wake.nudge()
        if reason == UNTIMELY and self._untimely_s is None:
            self._untimely_s = self.clock.now_s()
            self.wake.nudge()

    async def run(self) -> None:
        """Look, and do what is to be done, until cancelled."""
        while True:
            self.wake.clear()
            papers = await self.means.identity.papers()
            if await self._hear():
                continue
            # Nothing is waited for from here on: a link that came to stand after it was looked for would be given up.
            match decide(self._facts(papers)):
                case Rest(until_s=until_s):
                    await self.wake.wait_until(until_s)
                case Ask(why=why):
                    await self._ask(why)
                case Prove():
                    await self._prove()

    def _facts(self, papers: Papers | None) -> Facts:
        return Facts(
            now_s=self.clock.now_s(),
            wall=self.means.wall(),
            papers=papers,
            has_next=self.means.identity.has_next(),
            linked=self._linked,
            refused=self._refused,
            chance=0.0 if papers is None else chance_of(papers.serial),
            attempts=self._attempts,
            tried_s=self._tried_s,
        )

    async def _hear(self) -> bool:
        """Draw the conclusions from what the connections came to; true where the certificate is another one now."""
        if self._untimely_s is not None and await self._told_lately("bus.untimely", self._untimely()):
            self._untimely_s = None
        if self._refused is not None:
            message = f"the broker refuses this device's certificate: it is {self._refused}"
            way_out = "metrica device add" if self._refused == "revoked" else "another one is asked for"
            saying = Saying(kind="identity.refused", reason=self._refused, message=f"{message}; {way_out}")
            await self._told_lately("identity.refused", saying)
        if not self._linked:
            return False
        try:
            if not await self.means.identity.taken():
                return False
        except NotNow as error:
            log.warning("certificate_not_kept", reason=error.reason, error=error.message)
            return False
        self._attempts, self._tried_s = 0, None
        message = "the broker took the new certificate; the one before, and its key, are gone"
        await self._tell(Saying(kind="identity.renewed", message=message))
        return True

    def _untimely(self) -> Saying:
        message = (
            "the broker's certificate is not valid by this device's clock: the bus waits until the clock is right;"
            " what runs goes on, and what is said is kept"
        )
        return Saying(kind="bus.untimely", reason="clock", message=message)

    async def _ask(self, why: str) -> None:
        log.info("certificate_renewal", why=why)
        self._tried_s = self.clock.now_s()
        self._attempts += 1
        self.pulse.back_within(ASKED_WITHIN_S, "asks for a certificate")
        try:
            await self.means.ask()
        except FleetError as error:
            log.warning("certificate_not_renewed", reason=error.reason, error=error.message)
            saying = Saying(kind="identity.unrenewed", reason=error.reason, message=error.message)
            await self._told_lately(f"unrenewed {error.reason}", saying)
        else:
            self._attempts, self._tried_s = 0, None
            self._refused = None

    async def _prove(self) -> None:
        """Have the bus connect with the next certificate, and see what becomes of it."""
        self._tried_s = self.clock.now_s()
        self._attempts += 1
        self._linked = False
        self.wake.clear()
        self.turn()
        await self.wake.wait_until(self.clock.now_s() + PROVEN_WITHIN_S)

    async def _told_lately(self, what: str, saying: Saying) -> bool:
        """Tell it, once a day; false where the ledger could not take it."""
        now_s, told_s = self.clock.now_s(), self._told.get(what)
        if told_s is not None and now_s - told_s < TOLD_AGAIN_S:
            return True
        if not await self._tell(saying):
            return False
        self._told[what] = now_s
        return True

    async def _tell(self, saying: Saying) -> bool:
        log.info(saying.kind, reason=saying.reason, message=saying.message)
        return bool(await self.ledger.record(self.clock.stamp(), sayings=(saying,)))
