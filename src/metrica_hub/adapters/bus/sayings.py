"""What the hub has to say: the newest payload of each topic, until the broker has acknowledged it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKET_IDS: Final = 65535


class Saying(NamedTuple):
    """A retained message of the hub."""

    topic: str
    payload: bytes


class Sayings:
    """Bounded by the number of topics: a new payload replaces one that was not sent yet."""

    def __init__(self) -> None:
        self._unsent: dict[str, bytes] = {}
        self._sent: dict[int, Saying] = {}
        self._last_id = 0

    def add(self, saying: Saying) -> None:
        """Say this next, in place of what was to be said on its topic."""
        self._unsent[saying.topic] = saying.payload

    def next_up_to(self, window: int) -> Iterator[tuple[int, Saying]]:
        """Yield what may be sent now, with its packet id, while fewer than ``window`` await acknowledgement."""
        while self._unsent and len(self._sent) < window:
            topic = next(iter(self._unsent))
            saying = Saying(topic, self._unsent.pop(topic))
            packet_id = self.fresh_id()
            self._sent[packet_id] = saying
            yield packet_id, saying

    def acknowledged(self, packet_id: int) -> Saying | None:
        """Forget what was sent as ``packet_id``; return it, ``None`` when nothing was."""
        return self._sent.pop(packet_id, None)

    def connection_lost(self) -> None:
        """Take back what was not acknowledged, unless something newer is to be said there."""
        returned = {saying.topic: saying.payload for saying in self._sent.values()}
        self._sent.clear()
        self._unsent = returned | self._unsent

    def fresh_id(self) -> int:
        """Return a packet id that is not in use."""
        while True:
            self._last_id = self._last_id % _PACKET_IDS + 1
            if self._last_id not in self._sent:
                return self._last_id
