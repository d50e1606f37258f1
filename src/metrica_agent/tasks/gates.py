"""Hears the gate of the rollout, and hands on what the hub signed: the newest one, and when it last said any.

What was heard is remembered by the converge loop, the only writer of memory. A gate that is known already, as the
broker gives it at each connect, costs nothing; one that the hub says again is looked at only while a commit waits for
it, for nobody else needs to know whether the hub is there. One that nobody signed who may is judged again when others
may: a new device hears it before its first commit has told whom to trust.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from metrica_agent.decisions.world import Saying
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.notary import Doubted
from metrica_agent.tasks.telling import Clock, Teller
from metrica_fleet import gate as gates
from metrica_fleet.errors import NotNow, Unusable
from metrica_fleet.retry import full_jitter
from metrica_fleet.signed import GATES, Signed

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_agent.decisions.world import Memory
    from metrica_agent.tasks.notary import Notary
    from metrica_agent.wake import Wake
    from metrica_fleet.gate import Gate
    from metrica_fleet.identity import FleetId

log = structlog.stdlib.get_logger(__name__)

AGAIN_BASE_S: Final = 1.0
AGAIN_CAP_S: Final = 60.0
TOLD_S: Final = 3600.0
"""A refusal is told at most so often for each reason: whoever publishes gates must not be able to fill the outbox."""


@dataclass(slots=True, kw_only=True)
class GateTask:
    """The loop that judges gates, and the newest that is good."""

    fleet: FleetId
    notary: Notary
    memory: Callable[[], Memory]
    ledger: Teller
    clock: Clock
    wake: Wake
    chance: Callable[[], float]
    on_heard: Callable[[], None]
    pulse: Pulse = field(default_factory=Pulse)
    heard: Gate | None = None
    heard_s: float | None = None
    _said: Gate | None = None
    """The last of all, those included that were said again."""
    _waiting: Signed | None = None
    """To be judged; the newest is enough."""
    _doubted: Doubted[Signed] = field(default_factory=Doubted[Signed])
    _told_s: dict[str, float] = field(default_factory=dict[str, float])

    def hear(self, signed: Signed) -> None:
        """Take a gate to be judged."""
        self._waiting = signed
        self.wake.nudge()

    def remembered(self) -> None:
        """Memory has changed: others may sign now. A newer gate that waits to be judged is enough."""
        signed = self._doubted.again(self.notary.signers(self.memory()))
        if signed is not None and self._waiting is None:
            self.hear(signed)

    async def run(self) -> None:
        """Judge until cancelled."""
        failures = 0
        while True:
            self.wake.clear()
            self.pulse.works()
            again_s = None
            signed, self._waiting = self._waiting, None
            try:
                if signed is not None:
                    await self._judge(signed)
                failures = 0
            except NotNow as error:
                self._waiting = self._waiting or signed
                failures += 1
                log.warning("gate_unjudged", reason=error.reason, error=error.message)
                again_s = self.clock.now_s() + full_jitter(failures, self.chance(), AGAIN_BASE_S, AGAIN_CAP_S)
            await self.wake.wait_until(again_s)

    async def _judge(self, signed: Signed) -> None:
        """Hand on a gate that is newer than all before and good; one said again is a sign of life."""
        memory = self.memory()
        try:
            gate = gates.read(signed.text)
            if not self._is_news(gate):
                return
            await self.notary.opened(signed, GATES, memory)
        except Unusable as error:
            self._doubted.refused(signed, error, self.notary.signers(memory))
            await self._refuse(error)
            self.remembered()  # it may have changed while this was judged
            return
        last = self._last()
        self._said, self.heard_s = gate, self.clock.now_s()
        if last is None or gate.number > last.number:
            self.heard = gate
        self.on_heard()

    def _is_news(self, gate: Gate) -> bool:
        """Whether it is worth finding out who signed it.

        Raises:
            Unusable: ``gate-of-another-fleet``, ``gate-outdated`` or ``gate-number-reused``.
        """
        if gate.fleet != self.fleet:
            message = f'it is a gate of the fleet "{gate.fleet}", and this is "{self.fleet}"'
            raise Unusable(message, reason="gate-of-another-fleet")
        last = self._last()
        if last is None or gate.number > last.number:
            return True
        if gate.number < last.number:
            message = f"gate {gate.number} is older than {last.number}, which is known"
            raise Unusable(message, reason="gate-outdated")
        if gates.says_again(gate, last):
            return self.memory().asking is not None
        if gate == last or gates.says_again(last, gate):
            return False
        message = f"gate {gate.number} was heard before, and said something else"
        raise Unusable(message, reason="gate-number-reused")

    def _last(self) -> Gate | None:
        """Return the newest gate that is known, as it was said last."""
        known = [gate for gate in (self._said, self.heard, self.memory().gate) if gate is not None]
        return max(known, key=lambda gate: (gate.number, gate.issued_at), default=None)

    async def _refuse(self, error: Unusable) -> None:
        now_s = self.clock.now_s()
        log.warning("gate_refused", reason=error.reason, error=error.message)
        told_s = self._told_s.get(error.reason)
        if told_s is not None and now_s < told_s + TOLD_S:
            return
        message = f"a rollout's gate changes nothing: {error.message}"[:1000]
        saying = Saying(kind="gate.refused", reason=error.reason, message=message)
        if await self.ledger.record(self.clock.stamp(), sayings=(saying,)) != ():
            self._told_s[error.reason] = now_s
