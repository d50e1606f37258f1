"""The bus: MQTT 5 by aiomqtt, as CONVENTIONS 3.2 lays it down. Nothing else here knows aiomqtt and paho.

Their private names stand in this file alone, and a test fails when one vanishes (CONVENTIONS F3, F4):

aiomqtt   ``_client`` (paho's client), ``_client_connect``, ``_connected``, ``_disconnected``, ``_loop``,
          ``_on_disconnect``, ``_on_socket_register_write``, ``_queue``
paho      ``_create_socket``, ``_sock_close``

The socket is connected here and handed to paho, for paho connects in a thread that nothing can cancel: a
device whose network is gone would hang in it at every shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import ssl
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import aiomqtt
import msgspec
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from metrica_fleet.codec import MAX_PAYLOAD_BYTES, decode, encode
from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_fleet.topics import PRESENCE, Address, Channel, address_of, topic_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from paho.mqtt.client import Client as Paho
    from paho.mqtt.client import DisconnectFlags
    from paho.mqtt.reasoncodes import ReasonCode

    from metrica_fleet.identity import DeviceId, FleetId
    from metrica_fleet.messages import Message, Presence

WINDOW: Final = 20
"""Publications that may be on their way at once; aiomqtt's best, and paho's own."""

_FIRST_WORD_S: Final = 2.0
"""Longer than a round trip; without a ticket, which every TLS library sends, each connection would wait so long."""
UNTIMELY: Final = frozenset({9, 10})
"""OpenSSL's codes of a certificate that is not yet valid, and of one that has expired."""
_GARBAGE_TOLD: Final = 100
_TAKEN_OVER: Final = 0x8E
"""MQTT's reason code of a session that another client of the same name has taken."""
_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]

_QUIET: Final = logging.getLogger("metrica_agent.adapters.bus.mqtt")
_QUIET.setLevel(logging.CRITICAL)  # whatever goes wrong below is raised as well, and told once

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is, and who we are to it."""

    host: str
    port: int = 1883
    username: str | None = None
    password_file: Path | None = None
    """Read at each connection, so that a changed password needs no restart."""
    tls: Callable[[], ssl.SSLContext] | None = None
    """Makes the context at each connection; ``None``: no TLS."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long we wait for the network, and the broker for us."""

    connect_s: float = 10.0
    """For each of: name and connection, the broker's answer."""
    answer_s: float = 20.0
    """For the broker to take a publication or subscription."""
    leave_s: float = 0.8
    """For each of: the last word, and the end of the connection."""
    keep_alive_s: int = 30
    session_expiry_s: int = 60
    """Longer than the will's delay, short enough that the broker queues next to nothing for absent devices."""
    will_delay_s: int = 15
    """A link that is back in time tells nothing."""


class Incoming(msgspec.Struct, frozen=True):
    """A message of the bus, decoded."""

    channel: Channel
    message: Message
    retained: bool
    """It was said before we subscribed."""


class Bus:
    """The way to the broker. Holds no connection itself: ``session`` does, for as long as it lasts."""

    def __init__(self, broker: Broker, *, fleet: FleetId, device: DeviceId, patience: Patience | None = None) -> None:
        self._broker = broker
        self._fleet = fleet
        self._device = device
        self._patience = patience or Patience()
        self.garbage = 0
        """Messages that could not be decoded, so far."""
        self._garbage_told: set[str] = set()

    @contextlib.asynccontextmanager
    async def session(self, will: Presence) -> AsyncGenerator[Link]:
        """Connect; ``will`` is published when the connection ends in any way but through ``Link.leave``.

        Raises:
            NotNow: ``bus-unreachable``, ``bus-refused`` or ``bus-credentials``; ``bus-untimely``: the broker's
                certificate is not valid by this clock; ``bus-certificate-expired``, ``-revoked`` or ``-refused``: ours
                is not, to the broker; inside it ``bus-lost``, or ``bus-taken-over``: another machine goes by our name.
        """
        client = self._client(will, await self._password())
        sock = await self._dialled()
        link = Link(client, self, self._patience)
        try:
            await self._greeted(client, sock)
            yield link
        finally:
            await link.close()

    def _client(self, will: Presence, password: str | None) -> _Client:
        last_word_about = _about_json(PacketTypes.WILLMESSAGE)
        last_word_about.WillDelayInterval = self._patience.will_delay_s
        last_word = aiomqtt.Will(
            self.topic(PRESENCE),
            encode(will),
            qos=1,
            retain=True,
            properties=last_word_about,
        )
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._patience.session_expiry_s
        properties.MaximumPacketSize = 2 * MAX_PAYLOAD_BYTES
        client = _Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=password,
            identifier=f"metrica-{self._fleet}-{self._device}",
            protocol=aiomqtt.ProtocolVersion.V5,
            will=last_word,
            clean_start=False,
            properties=properties,
            keepalive=self._patience.keep_alive_s,
            timeout=self._patience.connect_s,
            logger=_QUIET,
        )
        client.pending_calls_threshold = 2 * WINDOW
        return client

    async def _password(self) -> str | None:
        path = self._broker.password_file
        if path is None:
            return None
        try:
            return (await asyncio.to_thread(path.read_text, encoding="utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotNow(f"{path}: the bus password can't be read: {error}", reason="bus-credentials") from error

    async def _dialled(self) -> socket.socket:
        host, port = self._broker.host, self._broker.port
        try:
            sock = await _connected(host, port, self._patience.connect_s)
            if self._broker.tls is None:
                return sock
            return await asyncio.to_thread(_wrapped, sock, self._broker.tls, host, self._patience.connect_s)
        except TimeoutError as error:
            raise NotNow(f"the broker {host}:{port} does not answer", reason="bus-unreachable") from error
        except OSError as error:
            if (untimely := _untimely(error, f"{host}:{port}")) is not None:
                raise untimely from error
            if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
                raise _refused(f"{host}:{port}", error.reason) from error
            raise NotNow(f"the broker {host}:{port} can't be reached: {error}", reason="bus-unreachable") from error

    async def _greeted(self, client: _Client, sock: socket.socket) -> None:
        try:
            client.use(sock)
            await asyncio.sleep(0)  # aiomqtt begins to read the socket in a callback
            await client.__aenter__()
            _heed_cancellation()
        except aiomqtt.MqttError as error:
            where = f"{self._broker.host}:{self._broker.port}"
            if alert := getattr(sock, "alert", ""):
                raise _refused(where, alert) from error
            if isinstance(error, aiomqtt.MqttCodeError):
                raise NotNow(f"the broker {where} refuses us: {error}", reason="bus-refused") from error
            raise NotNow(f"the broker {where} does not answer: {error}", reason="bus-unreachable") from error

    def topic(self, channel: Channel) -> str:
        """Return the topic of ``channel`` for this device."""
        return topic_of(Address(self._fleet, channel, self._device if channel.per_device else None))

    def understood(self, message: aiomqtt.Message) -> Incoming | None:
        """Return what ``message`` says; garbage is counted, logged once, and is ``None``."""
        topic = message.topic.value
        try:
            channel = address_of(topic).channel
            payload = message.payload
            return Incoming(channel, decode(channel, payload), bool(message.retain))
        except FleetError as error:
            self.garbage += 1
            if (told := f"{topic} {error.reason}") not in self._garbage_told and len(
                self._garbage_told
            ) < _GARBAGE_TOLD:
                self._garbage_told.add(told)
                log.warning("bus_garbage", topic=topic, reason=error.reason, error=error.message)
            return None


class Link:
    """One connection that stands."""

    def __init__(self, client: _Client, bus: Bus, patience: Patience) -> None:
        self._client = client
        self._bus = bus
        self._patience = patience
        self._left = False

    async def subscribe(self, *channels: Channel) -> None:
        """Ask for the messages of ``channels``, those that are retained included.

        Raises:
            Unusable: ``bus-denied``.
            NotNow: ``bus-lost``.
        """
        wanted = [(self._bus.topic(channel), SubscribeOptions(qos=channel.qos)) for channel in channels]
        try:
            answers = await self._client.subscribe(wanted, timeout=self._patience.answer_s)
        except aiomqtt.MqttError as error:
            raise self._lost(error) from error
        _heed_cancellation()
        for (topic, _), answer in zip(wanted, answers, strict=False):
            if not isinstance(answer, int) and answer.is_failure:
                raise Unusable(f"the broker refuses the subscription {topic}: {answer}", reason="bus-denied")

    async def publish(self, channel: Channel, message: Message) -> None:
        """Publish ``message`` and wait until the broker has it.

        Raises:
            Unusable: ``bus-denied``: the broker has it not, and says why.
            NotNow: ``bus-lost``.
        """
        topic = self._bus.topic(channel)
        try:
            answer = await self._client.published(
                topic, encode(message), retain=channel.retained, timeout_s=self._patience.answer_s
            )
        except (aiomqtt.MqttError, TimeoutError) as error:
            raise self._lost(error) from error
        if answer.is_failure:
            raise Unusable(f"the broker refuses what is published on {topic}: {answer}", reason="bus-denied")

    def received(self) -> list[Incoming]:
        """Return what has come so far and was not yet read."""
        found = [self._bus.understood(message) for message in self._client.waiting()]
        return [incoming for incoming in found if incoming is not None]

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes, until the connection is lost.

        Raises:
            NotNow: ``bus-lost``.
        """
        try:
            async for message in self._client.messages:
                if (incoming := self._bus.understood(message)) is not None:
                    yield incoming
        except aiomqtt.MqttError as error:
            raise self._lost(error) from error

    async def leave(self, last_word: Presence) -> None:
        """Say ``last_word`` in the will's place, so that ``close`` is clean; or leave it to the will."""
        try:
            async with asyncio.timeout(self._patience.leave_s):
                await self.publish(PRESENCE, last_word)
        except (FleetError, TimeoutError) as error:
            log.info("bus_left_to_the_will", error=str(error))
        else:
            self._left = True

    async def close(self) -> None:
        """End the connection: after ``leave`` with a DISCONNECT, else without, so that the will speaks."""
        try:
            if self._left:
                self._client.timeout = self._patience.leave_s
                await self._client.__aexit__(None, None, None)
        except aiomqtt.MqttError as error:
            log.info("bus_end_unanswered", error=str(error))
        finally:
            self._client.drop()

    def _lost(self, error: Exception) -> NotNow:
        if self._client.taken_over:
            return NotNow("another machine connected under this device's name", reason="bus-taken-over")
        return NotNow(f"the connection to the broker is lost: {error or 'no answer in time'}", reason="bus-lost")


class _Client(aiomqtt.Client):
    """aiomqtt's client, on a socket that is connected already, with the reason codes that it drops."""

    _socket: socket.socket

    def use(self, sock: socket.socket) -> None:
        """Begin MQTT on ``sock``, without waiting for the broker's answer: ``__aenter__`` does."""
        self._answers: dict[int, asyncio.Future[ReasonCode]] = {}
        self._paho.on_publish = self._on_answer
        self._paho._create_socket = lambda: sock  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        super()._client_connect()

    @property
    def _paho(self) -> Paho:
        return self._client

    def _client_connect(self) -> None:
        """Do nothing in aiomqtt's thread: ``use`` has connected."""

    async def published(self, topic: str, payload: bytes, *, retain: bool, timeout_s: float) -> ReasonCode:
        """Publish with QoS 1 and return the reason code of the broker's answer."""
        info = self._paho.publish(topic, payload, 1, retain, _about_json(PacketTypes.PUBLISH))
        if info.rc != 0:
            raise aiomqtt.MqttCodeError(info.rc, "Could not publish message")
        answer = asyncio.get_running_loop().create_future()
        self._answers[info.mid] = answer
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._answers.pop(info.mid, None)

    def _on_disconnect(
        self,
        client: Paho,
        userdata: object,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        """End the wait for the greeting as well, which aiomqtt lets go on until its time is over."""
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("it ended the connection before it greeted us"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_answer(
        self, _client: Paho, _userdata: object, mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(reason)

    def _on_socket_register_write(self, client: Paho, userdata: object, sock: socket.socket) -> None:
        """Write as soon as the socket can take more.

        aiomqtt asks for that a turn of the loop later. By then the socket may be closed, and its number another's: the
        loop would call us for that one for ever.
        """
        del client, userdata
        self._loop.add_writer(sock.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._paho.loop_write()
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is over: as aiomqtt has it
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    @property
    def taken_over(self) -> bool:
        """Whether the broker ended the connection because another client of our name came."""
        ended = self._disconnected
        error = ended.exception() if ended.done() and not ended.cancelled() else None
        return isinstance(error, aiomqtt.MqttCodeError) and getattr(error.rc, "value", None) == _TAKEN_OVER

    def waiting(self) -> list[aiomqtt.Message]:
        """Take the messages that have been received and not read."""
        return [self._queue.get_nowait() for _ in range(len(self.messages))]

    def drop(self) -> None:
        """Close the socket, if it is open, without a word."""
        self._paho._sock_close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        for one in (self._connected, self._disconnected):
            if one.done() and not one.cancelled():
                one.exception()  # seen: asyncio need not complain that nobody looked


def _heed_cancellation() -> None:
    """Raise what ``asyncio.wait_for``, which aiomqtt uses, swallows in Python 3.11 when the answer comes with it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _about_json(packet: int) -> Properties:
    properties = Properties(packet)
    properties.ContentType = "application/json"
    properties.PayloadFormatIndicator = 1
    return properties


def _untimely(error: OSError, where: str) -> NotNow | None:
    """Return what it means that the broker's certificate is not yet, or no more, valid; ``None``: it is not that."""
    if getattr(error, "verify_code", None) not in UNTIMELY:
        return None
    now = datetime.now(UTC).isoformat(timespec="minutes")
    message = (
        f"the certificate of the broker {where} is not valid by this device's clock, which says {now}:"
        " what runs goes on, and the bus waits until the clock is right"
    )
    return NotNow(message, reason="bus-untimely")


def _refused(where: str, alert: str) -> NotNow:
    """Return what the broker's last word before the greeting means."""
    why = next((one for one in ("expired", "revoked") if one.upper() in alert), "refused")
    return NotNow(f"the broker {where} refuses this device's certificate: {alert}", reason=f"bus-certificate-{why}")


async def _connected(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a socket connected to ``host``, to the first of its addresses that answers in time."""
    problem: OSError = OSError("the name has no address")
    async with asyncio.timeout(timeout_s):
        addresses = await _resolved(host, port)
    for family, kind, proto, _, address in addresses:
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)  # noqa: FBT003
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise problem


async def _resolved(host: str, port: int) -> list[_AddressInfo]:
    """Look ``host`` up in a thread of its own that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[_AddressInfo]] = loop.create_future()

    def tell(say: Callable[[Any], None], found: list[_AddressInfo] | OSError) -> None:
        if not answer.done():
            say(found)

    def ask() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                loop.call_soon_threadsafe(tell, answer.set_result, found)
            except OSError as error:
                loop.call_soon_threadsafe(tell, answer.set_exception, error)

    threading.Thread(target=ask, name="bus-resolver", daemon=True).start()
    return await answer


def _wrapped(sock: socket.socket, context: Callable[[], ssl.SSLContext], host: str, timeout_s: float) -> ssl.SSLSocket:
    try:
        sock.settimeout(timeout_s)
        wrapped = context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    try:
        if hasattr(wrapped, "alert"):
            _listen_for_a_refusal(wrapped)
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _listen_for_a_refusal(sock: ssl.SSLSocket) -> None:
    """Wait for the broker's first word on TLS: a ticket, or why it does not take our certificate.

    In TLS 1.3 that comes after our handshake, and what we sent meanwhile would have the system throw it away.
    """
    waiting = select.poll()
    waiting.register(sock.fileno(), select.POLLIN)
    if not waiting.poll(1000 * _FIRST_WORD_S):
        return
    timeout_s = sock.gettimeout()
    sock.setblocking(False)  # noqa: FBT003
    try:
        if not sock.recv(1):
            raise ConnectionResetError("it ended the connection after the handshake")
    except ssl.SSLWantReadError:
        pass  # a ticket
    sock.settimeout(timeout_s)
