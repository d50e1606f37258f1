"""The connection kept, the queue of what was delivered, and the brake."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import mqtt5
import structlog

from metrica_fleet.retry import full_jitter
from metrica_fleet.topics import ANSWERS, RECORDS
from metrica_hub.adapters import aside
from metrica_hub.adapters.bus.link import MAX_PACKET_BYTES, Link
from metrica_hub.adapters.bus.sayings import Saying, Sayings
from metrica_hub.adapters.bus.trust import refusal, unopened
from metrica_hub.decisions.flow import Load, Marks, Pace, Talkers, rest_s, should_pause
from metrica_hub.errors import BusAway

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from metrica_hub.decisions.intake import Delivery

SESSION_EXPIRY_S: Final = 7 * 24 * 3600
RECEIVE_MAXIMUM: Final = Marks().messages
"""As many as may wait here (``decisions/flow.py``): with fewer, a broker that keeps to it would rest in each commit."""
KEEP_ALIVE_S: Final = 30
_CONNECT_TIMEOUT_S: Final = 10.0
_RETRY_BASE_S: Final = 1.0
_RETRY_CAP_S: Final = 30.0
_SUSPICIOUS: Final = 3
"""From so many short-lived connections in a row on, another hub with our client id is a likely reason."""
_PATIENT: Final = 8
"""As many failures as it takes to wait for up to the cap: for what another try will hardly mend."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Account:
    """How the hub makes itself known to the broker."""

    username: str
    password: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, who we are to it, and what we want to hear."""

    host: str
    port: int
    client_id: str
    filters: tuple[str, ...]
    account: Account | None = None
    figures: tuple[str, ...] = ()
    """Topics of the broker's own figures; a broker may have none, or refuse them."""
    asides: tuple[str, ...] = ()
    """Topics whose messages go their own way, as the figures do: retained, so that none need be kept for us."""
    answers: tuple[str, ...] = ()
    """What is taken at most once, so that however much it is, the records are not held up."""
    forsaken: tuple[str, ...] = ()
    """What our session may still be subscribed to, from a time when we wanted it."""
    tls: Callable[[], ssl.SSLContext] | None = None
    """Makes what the connection is secured by, at each one; ``None``: no TLS."""
    lasting: bool = True
    """Whether the broker keeps our session, and collects for it, while we are away."""
    keep_alive_s: int = KEEP_ALIVE_S
    """After half as long again without a word from us the broker takes us for gone."""


class Bus:
    """What tasks use of the broker."""

    def __init__(
        self,
        broker: Broker,
        *,
        chance: Callable[[], float],
        on_connected: Callable[[], object],
        on_figure: Callable[[str, bytes], object] = lambda topic, payload: None,  # noqa: ARG005
        on_answer: Callable[[str, bytes], object] = lambda topic, payload: None,  # noqa: ARG005
        marks: Marks | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._broker = broker
        self._chance = chance
        self._on_connected = on_connected
        self._on_figure = on_figure
        self._on_answer = on_answer
        self._marks = marks or Marks()
        self._pace = pace or Pace()
        self._came = 0
        """Records in this read."""
        self._read_at = 0.0
        self._talkers = Talkers()
        self._waited = False
        self._rest_s = 0.0
        self._resting: asyncio.TimerHandle | None = None
        self._braked = False
        self._queue: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._may_connect = asyncio.Event()
        self._messages = 0
        self._bytes = 0
        self._received = 0
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()
        self.acknowledged_batches = 0
        """Rises with each call of ``acknowledge``: who takes gets on with it."""
        self._sayings = Sayings()
        self._window = 0
        self._link: Link | None = None
        self._links = 0
        self._welcomed_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether the broker has welcomed us."""
        return self._link is not None

    @property
    def unacknowledged(self) -> int:
        """How many messages were received and not yet acknowledged."""
        return self._messages

    @property
    def braked(self) -> bool:
        """Whether nothing is read for now, because too much waits."""
        return self._braked

    def let_connect(self) -> None:
        """Open a connection, and another when it is lost. Until this is called there is none."""
        self._may_connect.set()

    def let_no_more_connect(self) -> None:
        """Keep the connection that stands; open no other."""
        self._may_connect.clear()

    def hang_up(self, why: str = "another hub leads") -> None:
        """End the connection and open no other."""
        self._may_connect.clear()
        if self._link is not None:
            self._link.fail(BusAway(why, reason="hung-up"))

    async def withdraw(self) -> None:
        """Ask for nothing more; return when all that was on its way to us is acknowledged, and all that we say is said.

        Whoever takes and acknowledges must go on meanwhile. Returns at once without a connection, or when it is lost.
        """
        self._may_connect.clear()
        link = self._link
        if link is None:
            return
        link.unsubscribe(self._sayings.fresh_id(), self._broker.filters)
        is_over = False
        while not is_over and not link.ended.done():
            await self._all_acknowledged.wait()
            before = self._received
            # The broker sends what it held back when we acknowledge; it answers the ping behind that.
            await link.ping()
            is_over = self._received == before and not self._sayings.topics()

    async def run(self) -> None:
        """Keep a connection while there may be one, for ever."""
        attempt = short_lived = 0
        while True:
            await self._may_connect.wait()
            try:
                await self._connection()
            except BusAway as error:
                # One that did not even live for the longest pause counts as a failure: two hubs of one client id
                # push each other out for ever, and would do so every second.
                lived_s = self._lived_s()
                short_lived = short_lived + 1 if 0 < lived_s < _RETRY_CAP_S else 0
                attempt = 1 if lived_s >= _RETRY_CAP_S else attempt + 1
                if error.reason in {"taken-over", "refused", "subscription-refused"}:
                    attempt = _PATIENT
                hint = "; is another hub running?" if short_lived >= _SUSPICIOUS else ""
                _log.warning(
                    "bus.lost",
                    error_kind=error.reason,
                    error=error.message + hint,
                    broker=self._broker.host,
                    client=self._broker.client_id,
                )
            finally:
                self._link = None
                self._sayings.connection_lost()
            await asyncio.sleep(full_jitter(attempt, self._chance(), _RETRY_BASE_S, _RETRY_CAP_S))

    async def take(self, limit: int) -> list[Delivery]:
        """Wait until something was delivered; return up to ``limit`` in the order of arrival."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the broker that ``deliveries`` (as taken, in order) need not be delivered again."""
        self.acknowledged_batches += 1
        self._messages -= len(deliveries)
        self._bytes -= sum(len(delivery.payload) for delivery in deliveries)
        link = self._link
        if link is not None:
            link.acknowledge(
                delivery.packet_id
                for delivery in deliveries
                if delivery.link == link.number and delivery.packet_id is not None
            )
        if self._messages == 0:
            self._all_acknowledged.set()
        self._regulate()

    def say(self, topic: str, payload: bytes) -> None:
        """Publish ``payload``, retained, at least once, as soon as the broker can take it."""
        self.say_all([(topic, payload)])

    def say_all(self, sayings: Iterable[tuple[str, bytes]]) -> None:
        """The same for several topics and their payloads, sent together."""
        for topic, payload in sayings:
            self._sayings.add(Saying(topic, payload))
        self._send_sayings()

    def unsaid(self) -> set[str]:
        """Return the topics on which the broker does not yet have what we said last."""
        return self._sayings.topics()

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish ``payload``, not retained; without a connection, or when that is lost, it is forgotten."""
        if self._link is not None:
            self._sayings.add(Saying(topic, payload, is_retained=False))
            self._send_sayings()

    # What a link tells

    def delivered(self, delivery: Delivery) -> None:
        """Queue a message; what the broker says of itself, and what is said aside, goes its own way."""
        if delivery.topic.startswith("$") or delivery.topic in self._broker.asides:
            self._on_figure(delivery.topic, delivery.payload)
            return
        if delivery.packet_id is None and delivery.topic.endswith(ANSWERS.name):
            self._on_answer(delivery.topic, delivery.payload)
            return
        self._queue.append(delivery)
        self._all_acknowledged.clear()
        self._received += 1
        self._messages += 1
        if delivery.topic.endswith(RECORDS.name):
            self._came += 1
            self._waited = self._talkers.waits(delivery.topic, delivery.payload, time.monotonic()) or self._waited
        self._bytes += len(delivery.payload)

    def read_some(self) -> None:
        """Wake whoever takes; rest, or brake when there is too much."""
        if self._queue:
            self._arrived.set()
        # Half a window at a time: one saying for each acknowledgement would be a write for each read.
        if self._sayings.awaited <= self._window // 2:
            self._send_sayings()
        self._rest()
        self._regulate()

    def acknowledged(self, packet_id: int, refusal: str | None) -> None:
        """Make room in the window."""
        saying = self._sayings.acknowledged(packet_id)
        if refusal is not None and saying is not None:
            _log.error("bus.denied", topic=saying.topic, error=refusal)

    # One connection

    def _lived_s(self) -> float:
        """Return for how long the broker had welcomed us; 0 when it did not."""
        if self._link is None:
            return 0.0
        return max(asyncio.get_running_loop().time() - self._welcomed_at, 0.001)

    async def _connection(self) -> None:
        link = await self._open()
        try:
            welcome = await self._greet(link)
            self._link = link
            self._welcomed_at = asyncio.get_running_loop().time()
            self._window = welcome.receive_max
            self._subscribe(link)
            _log.info(
                "bus.connected",
                broker=self._broker.host,
                client=self._broker.client_id,
                session_kept=welcome.session_present,
            )
            self._on_connected()
            self._send_sayings()
            self._regulate()
            await self._stay(link, welcome.server_keep_alive or self._broker.keep_alive_s)
        finally:
            link.leave()

    async def _open(self) -> Link:
        self._links += 1
        number = self._links
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                return await self._linked(number)
        except (OSError, TimeoutError) as error:
            where, by_tls = f"{self._broker.host}:{self._broker.port}", self._broker.tls is not None
            raise unopened(where, error, by_tls=by_tls) from error

    async def _linked(self, number: int) -> Link:
        # A resolver that is silent holds its thread for longer than we wait, and then ends by its own timeout.
        host, port = self._broker.host, self._broker.port
        found, _ = aside(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), "resolver")
        failure = OSError("the name has no address")
        tls = self._broker.tls
        context = None if tls is None else await asyncio.to_thread(tls)
        name = None if context is None else host
        for *_, address in await found:
            try:
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(number, self),
                    _numeric(address),
                    port,
                    ssl=context,
                    server_hostname=name,
                )
            except OSError as error:
                failure = error
            else:
                return link
        raise failure

    async def _greet(self, link: Link) -> mqtt5.ConnAckPacket:
        account = self._broker.account
        connect = mqtt5.ConnectPacket(
            self._broker.client_id,
            username=account.username if account else None,
            password=account.password if account else None,
            clean_start=not self._broker.lasting,
            keep_alive=self._broker.keep_alive_s,
            session_expiry_interval=SESSION_EXPIRY_S if self._broker.lasting else 0,
            receive_max=RECEIVE_MAXIMUM,
            max_packet_size=MAX_PACKET_BYTES,
        )
        link.send([connect.write()])
        await asyncio.wait([link.welcomed], timeout=_CONNECT_TIMEOUT_S)
        if link.ended.done():
            if self._broker.tls is not None and (refused := await self._refusal(self._broker.tls)) is not None:
                raise refused
            await link.ended
        if not link.welcomed.done():
            raise BusAway("the broker does not answer our greeting")
        welcome = link.welcomed.result()
        if welcome.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise BusAway(f"the broker refused us: {welcome.reason_code.name.lower()}", reason="refused")
        return welcome

    async def _refusal(self, tls: Callable[[], ssl.SSLContext]) -> BusAway | None:
        return await refusal(self._broker.host, self._broker.port, await asyncio.to_thread(tls))

    def _subscribe(self, link: Link) -> None:
        if self._broker.forsaken:
            link.unsubscribe(self._sayings.fresh_id(), self._broker.forsaken)
        # retain_as_published=False: the retain flag then means "from memory", not "published with it".
        filters = [
            mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS.AT_LEAST_ONCE, retain_as_published=False)
            for pattern in self._broker.filters
        ]
        link.needed = len(filters)
        seldom = (*self._broker.asides, *self._broker.answers, *self._broker.figures)
        filters += [mqtt5.TopicFilter(topic, max_qos=mqtt5.QoS.AT_MOST_ONCE) for topic in seldom]
        link.send([mqtt5.SubscribePacket(self._sayings.fresh_id(), filters).write()])

    async def _stay(self, link: Link, keep_alive_s: int) -> None:
        while True:
            await asyncio.wait([link.ended], timeout=keep_alive_s / 3)
            if link.ended.done():
                await link.ended
            if link.silent_s() > keep_alive_s:
                link.fail(BusAway(f"the broker was silent for {keep_alive_s} s"))
            link.ping()

    def _send_sayings(self) -> None:
        link = self._link
        if link is None:
            return
        packets = [
            mqtt5.PublishPacket(
                saying.topic,
                saying.payload,
                qos=mqtt5.QoS.AT_LEAST_ONCE,
                retain=saying.is_retained,
                packet_id=packet_id,
                payload_format_indicator=1,
                content_type="application/json",
            ).write()
            for packet_id, saying in self._sayings.next_up_to(self._window)
        ]
        if packets:
            link.send(packets)

    def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        if self._came:
            now = loop.time()
            # What is to be said goes on when acknowledgements are read.
            waited = self._waited or self._sayings.unsent > 0
            self._rest_s = rest_s(self._came, now - self._read_at, self._pace, waited=waited)
            self._read_at, self._came, self._waited = now, 0, False
        if self._rest_s and self._resting is None:
            self._resting = loop.call_later(self._rest_s, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._regulate()

    def _regulate(self) -> None:
        self._braked = should_pause(Load(self._messages, self._bytes), self._marks, paused=self._braked)
        link = self._link
        if link is None:
            return
        if self._braked or self._resting is not None:
            link.pause()
        else:
            link.resume()


def _numeric(address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Return an address of ``getaddrinfo`` as text that needs no resolver, with the scope of a link-local one."""
    scope = address[3] if len(address) > 3 else 0  # noqa: PLR2004 - the place that the socket module gives it
    return f"{address[0]}%{scope}" if scope else str(address[0])
