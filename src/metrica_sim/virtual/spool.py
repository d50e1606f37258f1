"""The folder of orders of a simulated machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metrica_agent.decisions.orders import Given
from metrica_sim.virtual.loop import operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_agent.decisions.orders import Order


class SimulatedSpool:
    """Orders that lie there, oldest first. It is on the machine's disk: it outlives the agent."""

    def __init__(self) -> None:
        self._orders: list[Given] = []
        self._number = 0
        self.ring: Callable[[], None] = _nobody_hears
        """Wakes the agent that runs."""

    def give(self, order: Order) -> None:
        """Let somebody at the console order something."""
        self._number += 1
        self._orders.append(Given(id=f"{self._number:012d}", order=order))
        self.ring()

    async def oldest(self) -> Given | None:
        """Return the oldest order."""
        operation("spool:look")
        return self._orders[0] if self._orders else None

    async def remove(self, order_id: str) -> None:
        """Forget an order."""
        operation("spool:remove")
        self._orders = [given for given in self._orders if given.id != order_id]
        operation("spool:removed")


def _nobody_hears() -> None:
    """Stand for the bell where no agent runs."""
