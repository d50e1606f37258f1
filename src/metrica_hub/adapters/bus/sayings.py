"""What the hub has to say: the newest payload of each topic until the broker has it, and passing words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKET_IDS: Final = 65535


class Saying(NamedTuple):
    """A message of the hub."""

    topic: str
    payload: bytes
    is_retained: bool = True
    """One that is not is said once, beside others of its topic, and is lost with the connection."""


class Sayings:
    """Bounded by the number of topics: a new payload replaces one that was not sent yet, but for passing words."""

    def __init__(self) -> None:
        self._unsent: dict[str, Saying] = {}
        self._passing = 0
        self._sent: dict[int, Saying] = {}
        self._last_id = 0

    @property
    def awaited(self) -> int:
        """How many were sent and are not acknowledged."""
        return len(self._sent)

    @property
    def unsent(self) -> int:
        """How many could not be sent yet, because so many others are not acknowledged."""
        return len(self._unsent)

    def add(self, saying: Saying) -> None:
        """Say this next, in place of what was to be said on its topic."""
        self._passing += not saying.is_retained
        key = saying.topic if saying.is_retained else f"{saying.topic}#{self._passing}"
        self._unsent[key] = saying

    def next_up_to(self, window: int) -> Iterator[tuple[int, Saying]]:
        """Yield what may be sent now, with its packet id, while fewer than ``window`` await acknowledgement."""
        while self._unsent and len(self._sent) < window:
            saying = self._unsent.pop(next(iter(self._unsent)))
            packet_id = self.fresh_id()
            self._sent[packet_id] = saying
            yield packet_id, saying

    def acknowledged(self, packet_id: int) -> Saying | None:
        """Forget what was sent as ``packet_id``; return it, ``None`` when nothing was."""
        return self._sent.pop(packet_id, None)

    def topics(self) -> set[str]:
        """Return where something is still to be said, or not yet acknowledged."""
        return {saying.topic for saying in (*self._unsent.values(), *self._sent.values())}

    def connection_lost(self) -> None:
        """Take back what was not acknowledged, unless something newer is to be said there; and no passing word."""
        returned = {saying.topic: saying for saying in self._sent.values() if saying.is_retained}
        self._sent.clear()
        self._unsent = returned | {key: saying for key, saying in self._unsent.items() if saying.is_retained}

    def fresh_id(self) -> int:
        """Return a packet id that is not in use."""
        while True:
            self._last_id = self._last_id % _PACKET_IDS + 1
            if self._last_id not in self._sent:
                return self._last_id
