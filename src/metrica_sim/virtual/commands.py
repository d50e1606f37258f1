"""The commands of a world: what the hub has sent to whom, until each has its last word; and what others pretend.

What stands here is in the hub's database: it outlives the hub, which sends each command again until it is answered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from metrica_fleet.codec import decode, encode
from metrica_fleet.commands import (
    Command,
    Reboot,
    Redeploy,
    Restart,
    SafeMode,
    arguments_of,
    timeout_of,
    written,
)
from metrica_fleet.messages import Answer
from metrica_fleet.signed import COMMANDS as FOR_COMMANDS
from metrica_fleet.signed import ORDERS
from metrica_fleet.topics import ANSWERS, COMMANDS, Address, topic_of
from metrica_hub.errors import BusAway
from metrica_sim.virtual import pens
from metrica_sim.virtual.hub import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_fleet.commands import AnyTask
    from metrica_fleet.identity import DeviceId, FleetId
    from metrica_sim.virtual.bus import SimulatedBroker
    from metrica_sim.virtual.story import Story

TASKS: Final[tuple[AnyTask, ...]] = (
    Restart(service="web"),
    Restart(service="recorder"),
    Redeploy(),
    Reboot(),
    SafeMode(on=True, reason="simulated"),
)
"""What a device may be told to do here."""
FORGERIES: Final = ("by-a-stranger", "by-an-operator", "of-another-fleet", "of-another-device")
AGAIN_S: Final = 60.0
"""Until a command that has no last word is sent again."""
GOOD_FOR: Final = timedelta(days=30)
BEYOND: Final = 1_000_000
"""Numbers that the hub never gives here begin so much higher."""


@dataclass(slots=True)
class Sent:
    """A command that the hub has given."""

    device: DeviceId
    verb: str
    text: str
    last_word: Answer | None = None


@dataclass(slots=True)
class Commands:
    """All commands of a world, by their numbers."""

    fleet: FleetId
    broker: SimulatedBroker
    story: Story
    now_s: Callable[[], float]
    hub_is_up: Callable[[], bool]
    sent: dict[int, Sent] = field(default_factory=dict[int, Sent])

    # --- the hub ------------------------------------------------------------------------------------------------

    def give(self, device: DeviceId, task: AnyTask) -> None:
        """Have the hub send a command; until it is answered, again and again."""
        number = len(self.sent) + 1
        verb = str(task.__struct_config__.tag)
        self.sent[number] = Sent(device, verb, self._text(device, task, number))
        self.story.tell("hub", f"command {number} to {device}: {verb} {arguments_of(task) or ''}".rstrip())
        self._send(self.sent[number])

    async def send_again(self) -> None:
        """Send what has no last word, until cancelled."""
        while True:
            await asyncio.sleep(AGAIN_S)
            for sent in self.sent.values():
                if sent.last_word is None:
                    self._send(sent)

    def answered(self, topic: str, payload: bytes) -> None:
        """Hear an answer; without a hub nobody does."""
        answer = decode(ANSWERS, payload)
        if not self.hub_is_up() or not isinstance(answer, Answer) or answer.state == "running":
            return
        sent = self.sent.get(answer.number)
        if sent is None or topic != topic_of(Address(self.fleet, ANSWERS, sent.device)):
            return
        if sent.last_word is None:
            sent.last_word = answer
            self.story.tell("hub", f"command {answer.number} is {answer.state} {answer.reason or ''}".rstrip())
        elif (sent.last_word.state, sent.last_word.reason) != (answer.state, answer.reason):
            self.story.breach("hub", f"command {answer.number} was {sent.last_word.state}, and is {answer.state} now")

    def unanswered(self, device: DeviceId) -> int | None:
        """Return the number of a command that has no last word yet."""
        return next((n for n, one in self.sent.items() if one.device == device and one.last_word is None), None)

    # --- others -------------------------------------------------------------------------------------------------

    def pretend(self, device: DeviceId, how: str) -> None:
        """Send what nobody may, or what was for somebody else."""
        number = BEYOND + len(self.sent) + 1
        text = self._text(device, Reboot(), number)
        match how:
            case "by-a-stranger":
                signed = pens.signed(text, FOR_COMMANDS, "mallory")
            case "by-an-operator":
                signed = pens.signed(text, ORDERS, "alice")
            case "of-another-fleet":
                signed = pens.signed(self._text(device, Reboot(), number, "elsewhere"), FOR_COMMANDS, "hub")
            case _:
                other = next((one for one in self.sent.values() if one.device != device), None)
                signed = pens.signed(text if other is None else other.text, FOR_COMMANDS, "hub" if other else "mallory")
        with suppress(BusAway):
            self.broker.tell(topic_of(Address(self.fleet, COMMANDS, device)), encode(signed))

    # --- how it is done -----------------------------------------------------------------------------------------

    def _send(self, sent: Sent) -> None:
        if not self.hub_is_up():
            return
        signed = pens.signed(sent.text, FOR_COMMANDS, "hub")
        with suppress(BusAway):  # it is sent again
            self.broker.tell(topic_of(Address(self.fleet, COMMANDS, sent.device)), encode(signed))

    def _text(self, device: DeviceId, task: AnyTask, number: int, fleet: str | None = None) -> str:
        at = EPOCH + timedelta(seconds=self.now_s())
        command = Command(
            fleet=fleet or self.fleet,
            device=device,
            number=number,
            issued_at=at,
            expires_at=at + GOOD_FOR,
            verb=str(task.__struct_config__.tag),
            arguments=arguments_of(task),
            timeout_s=timeout_of(task),
        )
        return written(command)
