"""Looks for orders that people gave, and hands them to the converge loop one by one.

Level-triggered like all else: an order lies where it was given until it is obeyed and that is written down. So one that
was given while the agent was down is obeyed when it starts, before anything else, and one that a crash interrupts is
obeyed again, which changes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from metrica_agent.decisions.orders import BroughtOrder, Given, SignedStopOrder
from metrica_agent.pulse import Pulse
from metrica_agent.wake import Wake
from metrica_fleet.errors import FleetError, NotNow
from metrica_fleet.retry import full_jitter
from metrica_fleet.signed import Signed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metrica_agent.decisions.orders import Failed, Order

log = structlog.stdlib.get_logger(__name__)

LOOK_S = 20.0
"""Between looks while nobody rings: for who puts an order there by hand."""
BROKEN_BASE_S = 2.0
BROKEN_CAP_S = 60.0
COMMAND = "command-"
"""How the ids of orders begin that came as commands."""


class Spool(Protocol):
    """Where orders lie that were given at the console."""

    async def oldest(self) -> Given | None:
        """Return the oldest order that can be read; others are set aside. Raises NotNow."""
        ...

    async def remove(self, order_id: str) -> None:
        """Forget an order. Raises NotNow."""
        ...


@dataclass(slots=True)
class _Commanded:
    """An order that somebody waits for."""

    given: Given
    over: asyncio.Event = field(default_factory=asyncio.Event)
    failed: Failed | None = None


@dataclass(slots=True)
class Orders:
    """The order that is to be obeyed next."""

    spool: Spool
    wake: Wake
    """Nudged by whoever gives an order."""
    now_s: Callable[[], float]
    chance: Callable[[], float]
    on_signed: Callable[[Signed], Awaitable[None]] | None = None
    """Judges a stop order that came by a file, until it is refused or written down. Raises NotNow."""
    on_brought: Callable[[], None] | None = None
    """Has Git asked for what a stick brought."""
    given: Given | None = None
    signed: Given | None = None
    """A stop order: it is obeyed by its signature."""
    look_s: float = LOOK_S
    pulse: Pulse = field(default_factory=Pulse)
    _commanded: dict[str, _Commanded] = field(default_factory=dict[str, "_Commanded"])
    """Orders of commands, in memory only: they end with the agent."""

    async def run(self, on_order: Callable[[], None]) -> None:
        """Look until cancelled; ``on_order`` wakes the converge loop."""
        failures = 0
        while True:
            self.wake.clear()
            self.pulse.works()
            try:
                await self.look()
                await self._have_judged()
                failures = 0
            except FleetError as error:
                failures += 1
                log.warning("orders_unread", reason=error.reason, error=error.message)
            if self.given is not None:
                on_order()
            self.pulse.back_within(BROKEN_CAP_S, "waits for orders")
            if failures:
                await asyncio.sleep(full_jitter(failures, self.chance(), BROKEN_BASE_S, BROKEN_CAP_S))
            else:
                await self.wake.wait_until(self.now_s() + self.look_s)

    async def look(self) -> None:
        """Take the oldest order, when none is taken yet: those of the console first."""
        if self.given is not None or self.signed is not None:
            return
        oldest = await self.spool.oldest()
        if oldest is not None and isinstance(oldest.order, SignedStopOrder):
            self.signed = oldest
        elif oldest is not None:
            self.given = oldest
            if isinstance(oldest.order, BroughtOrder) and self.on_brought is not None:
                self.on_brought()
        elif self._commanded:
            self.given = next(iter(self._commanded.values())).given

    async def _have_judged(self) -> None:
        while self.signed is not None and isinstance(self.signed.order, SignedStopOrder):
            if self.on_signed is not None:
                await self.on_signed(Signed(self.signed.order.text, self.signed.order.signature))
            await self.spool.remove(self.signed.id)
            self.signed = None
            await self.look()

    async def done(self, order_id: str, failed: Failed | None = None) -> None:
        """Forget an order: it is obeyed, and that is written down. One that can't be removed is obeyed again."""
        if order_id.startswith(COMMAND):
            self._answer(order_id, failed)
        else:
            await self.spool.remove(order_id)
        if self.given is not None and self.given.id == order_id:
            self.given = None
        self.wake.nudge()  # there may be another one

    async def obeyed(self, number: int, order: Order) -> None:
        """Return when the order of a command was obeyed, in its turn. Cancelled before that, it is withdrawn.

        Raises:
            NotNow: why it could not be obeyed.
        """
        given = Given(id=f"{COMMAND}{number}", order=order)
        commanded = self._commanded[given.id] = _Commanded(given)
        self.wake.nudge()
        try:
            await commanded.over.wait()
        finally:
            self._commanded.pop(given.id, None)
            if self.given is given:
                self.given = None
        if commanded.failed is not None:
            raise NotNow(commanded.failed.message, reason=commanded.failed.reason)

    def _answer(self, order_id: str, failed: Failed | None) -> None:
        commanded = self._commanded.pop(order_id, None)
        if commanded is not None:
            commanded.failed = failed
            commanded.over.set()
