"""Hears stop orders, from the bus and from files, and hands on those that somebody signed who may.

What was heard is obeyed by the converge loop, the only writer of memory, which writes it down in one transaction with
the event; until then it lies here, and on the broker. An order that is known already, as the broker gives it at each
connect, costs nothing: its number is looked at before its signature, and nothing else counts before that is good.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from metrica_agent.decisions.world import Heard, Saying
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.notary import Doubted
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.retry import full_jitter
from metrica_fleet.signed import ORDERS, Signed
from metrica_fleet.stop import understood

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_agent.decisions.world import Memory
    from metrica_agent.tasks.notary import Notary
    from metrica_fleet.identity import FleetId
    from metrica_fleet.stop import StopOrder

log = structlog.stdlib.get_logger(__name__)

WAITING: Final = 16
"""Orders that are kept while one is looked at, the newest."""
AGAIN_BASE_S: Final = 1.0
AGAIN_CAP_S: Final = 60.0
TOLD: Final = 10
TOLD_S: Final = 3600.0
"""At most so many refusals are told in so long: who may publish orders must not be able to fill the outbox."""
NOTED_S: Final = 10.0
"""How long whoever gave an order by a file is kept waiting for it to be written down."""


@dataclass(slots=True, kw_only=True)
class StopTask:
    """The loop that judges orders, and the newest that is good."""

    fleet: FleetId
    notary: Notary
    memory: Callable[[], Memory]
    ledger: Teller
    clock: Clock
    wake: Wake
    noted: Wake
    """Nudged when memory has changed."""
    chance: Callable[[], float]
    on_heard: Callable[[], None]
    """Ends what the converge loop does, and wakes it."""
    pulse: Pulse = field(default_factory=Pulse)
    heard: Heard | None = None
    _waiting: deque[Signed] = field(default_factory=lambda: deque(maxlen=WAITING))
    _told: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=TOLD))
    """When which refusals were told."""
    _doubted: Doubted[Signed] = field(default_factory=Doubted[Signed])

    def hear(self, signed: Signed) -> None:
        """Take an order to be judged."""
        self._waiting.append(signed)
        self.wake.nudge()

    def remembered(self) -> None:
        """Memory has changed: an order may be written down, or be one of somebody who may sign now."""
        self.noted.nudge()
        self._judge_again()

    def _judge_again(self) -> None:
        signed = self._doubted.again(self.notary.signers(self.memory()))
        if signed is not None:
            self.hear(signed)

    async def run(self) -> None:
        """Judge until cancelled."""
        failures = 0
        while True:
            self.wake.clear()
            self.pulse.works()
            again_s = None
            try:
                while self._waiting:
                    await self._judged(self._waiting[0])
                    self._waiting.popleft()
                failures = 0
            except NotNow as error:
                failures += 1
                log.warning("order_unjudged", reason=error.reason, error=error.message)
                again_s = self.clock.now_s() + full_jitter(failures, self.chance(), AGAIN_BASE_S, AGAIN_CAP_S)
            await self.wake.wait_until(again_s)

    async def taken(self, signed: Signed) -> None:
        """Return when an order that came by a file is refused, or written down.

        Raises:
            NotNow: neither could be done yet.
        """
        number = await self._judged(signed)
        if number is None:
            return
        until_s = self.clock.now_s() + NOTED_S
        while not self._is_known(number):
            if self.clock.now_s() >= until_s:
                raise NotNow("the order could not be written down yet", reason="order-unwritten")
            self.noted.clear()
            if not self._is_known(number):
                await self.noted.wait_until(until_s)

    async def _judged(self, signed: Signed) -> int | None:
        """Hand on an order that is newer than all before and good; return its number, ``None`` for any other."""
        memory = self.memory()
        try:
            order = understood(signed.text, self.fleet)
            if self._is_in_force(order):
                return order.number
            _, by = await self.notary.opened(signed, ORDERS, memory)
        except Unusable as error:
            self._doubted.refused(signed, error, self.notary.signers(memory))
            await self._refuse(error)
            self._judge_again()  # others may have come while it was judged
            return None
        if self.heard is None or order.number > self.heard.order.number:
            self.heard = Heard(order=order, by=by)
            self.on_heard()
        return order.number

    def _is_in_force(self, order: StopOrder) -> bool:
        """Whether it is the newest that is known already. Raises ``Unusable``: ``order-outdated``."""
        stop = self.memory().stop
        if stop is None or order.number > stop.number:
            return False
        if order.number == stop.number and order.stops == stop.ordered:
            return True
        message = f"order {order.number} is not newer than {stop.number}, which is known"
        raise Unusable(message, reason="order-outdated")

    def _is_known(self, number: int) -> bool:
        stop = self.memory().stop
        return stop is not None and stop.number >= number

    async def _refuse(self, error: Unusable) -> None:
        now_s = self.clock.now_s()
        log.warning("order_refused", reason=error.reason, error=error.message)
        recent = [what for at_s, what in self._told if at_s > now_s - TOLD_S]
        if error.message in recent or len(recent) == TOLD:
            return
        saying = Saying(
            kind="stop.refused", reason=error.reason, message=f"a stop order is refused: {error.message}"[:1000]
        )
        if await self.ledger.record(self.clock.stamp(), sayings=(saying,)) != ():
            self._told.append((now_s, error.message))
