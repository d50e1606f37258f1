"""The emergency stops of a world: what operators have ordered, as they know it, and what others pretend."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

from metrica_fleet.codec import encode
from metrica_fleet.identity import FleetId
from metrica_fleet.signed import COMMANDS, ORDERS, Signed
from metrica_fleet.stop import Level, Stop, StopOrder, next_number, resumed, stopped, written
from metrica_fleet.topics import STOP, Address, topic_of
from metrica_hub.errors import BusAway
from metrica_sim.virtual import pens
from metrica_sim.virtual.hub import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_sim.virtual.bus import SimulatedBroker
    from metrica_sim.virtual.story import Story

FORGERIES: Final = ("by-a-stranger", "changed", "replayed", "of-another-fleet", "by-the-hub")
AGAIN_S: Final = 1.0
"""After something else was retained the hub says again what is in force."""


@dataclass(slots=True)
class Stops:
    """What operators have stopped by orders; each says all of it."""

    fleet: FleetId
    broker: SimulatedBroker
    story: Story
    now_s: Callable[[], float]
    given: dict[int, tuple[Stop, ...]] = field(default_factory=dict[int, tuple[Stop, ...]])
    """Every order that was given, by its number."""
    given_s: float = 0.0
    number: int = 0
    _signed: list[Signed] = field(default_factory=list[Signed])

    @property
    def stops(self) -> tuple[Stop, ...]:
        """All that is stopped by order."""
        return self.given.get(self.number, ())

    def stop(self, level: Level, scope: str) -> None:
        """Stop something besides what is."""
        self._order(stopped(self.stops, Stop(level=level, scope=scope, reason="simulated")))

    def resume(self, scope: str) -> None:
        """Let something go on."""
        self._order(resumed(self.stops, scope))

    def pretend(self, how: str) -> None:
        """Publish what nobody may, retained: over what is in force, until the hub says that again."""
        halt = (Stop(level=Level.HALT, reason="forged"),)
        text = self._text(self.number + 1000, halt)
        match how:
            case "by-a-stranger":
                forged = pens.signed(text, ORDERS, "mallory")
            case "changed":
                forged = Signed(text, pens.signed(self._text(self.number + 1000, ()), ORDERS, "alice").signature)
            case "replayed" if self._signed:
                forged = self._signed[0]
            case "of-another-fleet":
                forged = pens.signed(self._text(self.number + 1000, halt, "elsewhere"), ORDERS, "alice")
            case _:
                forged = pens.signed(text, COMMANDS, "alice")
        self._publish(forged)

    def say_again(self) -> None:
        """Publish what is in force, as the hub does on each connection and over whatever else is retained."""
        if self._signed:
            self._publish(self._signed[-1])

    def _order(self, stops: tuple[Stop, ...]) -> None:
        self.number = next_number(self.number, self._unix_s())
        self.given[self.number] = stops
        self.given_s = self.now_s()
        self._signed.append(pens.signed(self._text(self.number, stops), ORDERS, "alice"))
        said = ", ".join(f"{one.level} {one.scope}" for one in stops) or "nothing"
        self.story.tell("operator", f"orders by number {self.number} that is stopped: {said}")
        self._publish(self._signed[-1])

    def _publish(self, signed: Signed) -> None:
        try:
            self.broker.say_all([(topic_of(Address(self.fleet, STOP)), encode(signed))])
        except BusAway:
            return  # said again when the broker is back

    def _text(self, number: int, stops: tuple[Stop, ...], fleet: str | None = None) -> str:
        at = EPOCH.astimezone(UTC) + timedelta(seconds=self.now_s())
        return written(StopOrder(fleet=fleet or self.fleet, number=number, issued_at=at, stops=stops))

    def _unix_s(self) -> float:
        return EPOCH.timestamp() + self.now_s()
