"""Tells when the device is cut off from everything, and when that is over and how long it was."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from metrica_agent.decisions import contact as deciding
from metrica_agent.decisions.contact import Contact
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake

log = structlog.stdlib.get_logger(__name__)

UNWRITTEN_S = 60.0
"""Until it is tried again to tell what the ledger could not take."""


@dataclass(slots=True, kw_only=True)
class ContactTask:
    """The loop that knows whether anything outside answers. Sync and report tell it; it asks nobody itself."""

    ledger: Teller
    clock: Clock
    wake: Wake
    lost_s: float = deciding.LOST_S
    contact: Contact = field(init=False)

    def __post_init__(self) -> None:
        self.contact = Contact(heard_s=self.clock.now_s())

    def heard(self) -> None:
        """Note that a remote answered, whatever it said."""
        self.contact = deciding.heard(self.contact, self.clock.now_s())
        if self.contact.lost_since_s is not None:
            self.wake.nudge()

    def linked(self, stands: bool) -> None:  # noqa: FBT001 - handed over as a callback
        """Note that the bus is connected, or not any more."""
        self.contact = deciding.linked(self.contact, self.clock.now_s(), stands=stands)
        self.wake.nudge()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            self.wake.clear()
            told = await self._tell()
            now_s = self.clock.now_s()
            await self.wake.wait_until(deciding.due_s(self.contact, self.lost_s) if told else now_s + UNWRITTEN_S)

    async def _tell(self) -> bool:
        """Tell what is to be told; ``False`` when the ledger could not take it."""
        before = self.contact
        saying = deciding.to_tell(before, self.clock.now_s(), self.lost_s)
        if saying is None:
            return True
        log.info(saying.kind, reason=saying.reason, message=saying.message)
        if not await self.ledger.record(self.clock.stamp(), sayings=(saying,)):
            return False
        self.contact = deciding.told(self.contact, before)
        self.wake.nudge()  # the answer may have changed while it was written down
        return True
