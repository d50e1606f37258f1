"""One connection to the broker: packets in, packets out. Knows nothing of the connection before or after it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, cast

import mqtt5

from metrica_hub.adapters.bus.trust import closed
from metrica_hub.decisions.intake import Delivery
from metrica_hub.errors import BusAway

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_PACKET_BYTES: Final = 256 * 1024
"""Announced to the broker. Larger than any message we read (64 KiB), so that a too large one becomes a dead letter."""

_REFUSED: Final = 0x80
"""Reason codes from here on are refusals. (The codec's codes equal numbers, but do not compare with them.)"""


class Listener(Protocol):
    """Who is told what comes in."""

    def delivered(self, delivery: Delivery) -> None:
        """Take a message."""
        ...

    def read_some(self) -> None:
        """Look after the queue: all packets of one read were handed over."""
        ...

    def acknowledged(self, packet_id: int, refusal: str | None) -> None:
        """Note that the broker took what was sent as ``packet_id``, or refused it."""
        ...


class Link(asyncio.Protocol):
    """A connection, from its socket to its end. ``ended`` always ends with a ``BusAway``."""

    def __init__(self, number: int, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.paused = False
        self.needed = 0
        """How many of the subscriptions, from the first on, must be granted."""
        self.welcomed: asyncio.Future[mqtt5.ConnAckPacket] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._listener = listener
        self._pings: deque[asyncio.Future[None]] = deque()
        self._unsubscriptions = 0
        self._loop = loop
        self._heard_at = loop.time()
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in every whole packet; a broken one ends the connection."""
        if self.ended.done():
            return
        self._heard_at = self._loop.time()
        try:
            self._rest = self._packets(self._rest + data if self._rest else data)
        except BusAway as error:
            self.fail(error)
        self._listener.read_some()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self.fail(closed(exc))

    # What the session calls

    def send(self, packets: Iterable[bytes]) -> None:
        """Write ``packets`` in one go."""
        if self._transport is not None and not self.ended.done():
            self._transport.write(b"".join(packets))

    def acknowledge(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge deliveries of this connection, in this order."""
        self.send(mqtt5.PubAckPacket(packet_id).write() for packet_id in packet_ids)

    def ping(self) -> asyncio.Future[None]:
        """Ask for an answer; it comes behind all that the broker had to send. A connection that ends is one too."""
        answer: asyncio.Future[None] = self._loop.create_future()
        if self.ended.done():
            answer.set_result(None)
        else:
            self._pings.append(answer)
            self.send([mqtt5.PingReqPacket().write()])
        return answer

    def unsubscribe(self, packet_id: int, filters: Sequence[str]) -> None:
        """Ask for no more messages of ``filters``; those that wait for us come all the same."""
        self._unsubscriptions += 1
        self.send([mqtt5.UnsubscribePacket(packet_id, list(filters)).write()])

    def pause(self) -> None:
        """Stop reading; the broker keeps what it has."""
        if self._transport is not None and not self.paused and not self.ended.done():
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and self.paused and not self.ended.done():
            self.paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def silent_s(self) -> float:
        """Return for how long nothing was heard although we listened."""
        return 0.0 if self.paused else self._loop.time() - self._heard_at

    def fail(self, error: BusAway) -> None:
        """End the connection because of ``error``; the first reason stays."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # it is told by whoever awaits the end; nobody may be left to
        if not self.welcomed.done():
            self.welcomed.cancel()
        while self._pings:
            self._answered_ping()
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """Say good-bye; the broker keeps the session."""
        if self._transport is not None and not self.ended.done():
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._transport.close()

    # Packets

    def _packets(self, data: bytes) -> bytes:
        view = memoryview(data)
        done = 0
        while done < len(data):
            try:
                packet, size = mqtt5.read(view[done:])
            except IndexError:
                break
            except BaseException as error:  # the codec panics (pyo3) on a topic that is not UTF-8
                if isinstance(error, KeyboardInterrupt | SystemExit | asyncio.CancelledError):
                    raise
                raise BusAway(f"the broker sent a broken packet: {error}", reason="broken-packet") from error
            done += size
            self._packet(packet)
        rest = data[done:]
        if len(rest) > MAX_PACKET_BYTES:
            raise BusAway(f"the broker sent a packet larger than {MAX_PACKET_BYTES} bytes", reason="broken-packet")
        return rest

    def _packet(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PublishPacket():
                self._published(packet)
            case mqtt5.PubAckPacket(packet_id=packet_id, reason_code=code):
                self._listener.acknowledged(packet_id, code.name.lower() if int(code) >= _REFUSED else None)
            case mqtt5.PingRespPacket():
                self._answered_ping()
            case mqtt5.UnsubAckPacket() if self._unsubscriptions:
                self._unsubscriptions -= 1
            case mqtt5.ConnAckPacket() if not self.welcomed.done():
                self.welcomed.set_result(packet)
            case mqtt5.SubAckPacket(reason_codes=codes):
                if refused := [code.name.lower() for code in codes[: self.needed] if int(code) >= _REFUSED]:
                    raise BusAway(f"the broker refused our subscriptions: {refused[0]}", reason="subscription-refused")
            case mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER):
                raise BusAway("another hub of this fleet took the session over", reason="taken-over")
            case mqtt5.DisconnectPacket(reason_code=code):
                raise BusAway(f"the broker ended the connection: {code.name.lower()}", reason="broker-disconnected")
            case _:
                raise BusAway(f"the broker sent a {type(packet).__name__} out of turn", reason="broken-packet")

    def _answered_ping(self) -> None:
        if self._pings and not (answer := self._pings.popleft()).done():
            answer.set_result(None)

    def _published(self, packet: mqtt5.PublishPacket) -> None:
        if packet.qos == mqtt5.QoS.EXACTLY_ONCE or not packet.topic:
            raise BusAway("the broker sent a message as we did not ask for it", reason="broken-packet")
        self._listener.delivered(Delivery(packet.topic, packet.payload, packet.retain, packet.packet_id, self.number))
