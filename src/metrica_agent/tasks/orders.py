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

from metrica_agent.pulse import Pulse
from metrica_agent.wake import Wake
from metrica_fleet.errors import FleetError
from metrica_fleet.retry import full_jitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_agent.decisions.orders import Given

log = structlog.stdlib.get_logger(__name__)

LOOK_S = 20.0
"""Between looks while nobody rings: for who puts an order there by hand."""
BROKEN_BASE_S = 2.0
BROKEN_CAP_S = 60.0


class Spool(Protocol):
    """Where orders lie that were given at the console."""

    async def oldest(self) -> Given | None:
        """Return the oldest order that can be read; others are set aside. Raises NotNow."""
        ...

    async def remove(self, order_id: str) -> None:
        """Forget an order. Raises NotNow."""
        ...


@dataclass(slots=True)
class Orders:
    """The order that is to be obeyed next."""

    spool: Spool
    wake: Wake
    """Nudged by whoever gives an order."""
    now_s: Callable[[], float]
    chance: Callable[[], float]
    given: Given | None = None
    pulse: Pulse = field(default_factory=Pulse)

    async def run(self, on_order: Callable[[], None]) -> None:
        """Look until cancelled; ``on_order`` wakes the converge loop."""
        failures = 0
        while True:
            self.wake.clear()
            self.pulse.works()
            try:
                await self.look()
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
                await self.wake.wait_until(self.now_s() + LOOK_S)

    async def look(self) -> None:
        """Take the oldest order, when none is taken yet."""
        if self.given is None:
            self.given = await self.spool.oldest()

    async def done(self, order_id: str) -> None:
        """Forget an order: it is obeyed, and that is written down. One that can't be removed is obeyed again."""
        await self.spool.remove(order_id)
        self.given = None
        self.wake.nudge()  # there may be another one
