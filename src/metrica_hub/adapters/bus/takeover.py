"""Ends the connection of a device that was revoked: the hub connects in its name, and the broker drops the other.

Mosquitto reads its list of revoked certificates again when it is told to, and holds it against who connects from then
on; who is connected stays. MQTT has one way to end somebody else's connection: to take its session over.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import mqtt5

from metrica_hub.adapters.bus.link import MAX_PACKET_BYTES, Link
from metrica_hub.errors import BusAway

if TYPE_CHECKING:
    from metrica_hub.decisions.intake import Delivery

_CONNECT_S: Final = 10.0
_KEEP_ALIVE_S: Final = 60


class Pair(Protocol):
    """A certificate and its key, PEM."""

    @property
    def certificate(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Listener:
    """The broker's listener that devices use."""

    host: str
    port: int


async def taken_over(listener: Listener, client_id: str, pair: Pair, authority: str, held_s: float) -> bool:
    """Connect as whom ``pair`` says, and stay for ``held_s``; false: who was there before, or another, came back.

    The broker is to give a client the name that its certificate has (``use_username_as_clientid``); where it does not,
    ``client_id`` is the one that the device has.

    Raises:
        BusAway: the broker can't be reached, or refuses us.
    """
    where = f"{listener.host}:{listener.port}"
    context = await asyncio.to_thread(_context, pair, authority)
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, link = await asyncio.get_running_loop().create_connection(
                lambda: Link(0, _Deaf()), listener.host, listener.port, ssl=context
            )
            await _greeted(link, client_id)
    except (OSError, TimeoutError) as error:  # one of ssl's, too
        message = f"no connection to the broker's listener for devices at {where}: {error or 'no answer'}"
        raise BusAway(message) from error
    try:
        await asyncio.wait([link.ended], timeout=held_s)
        if not link.ended.done():
            return True
        ended = link.ended.exception()
        if isinstance(ended, BusAway) and ended.reason == "taken-over":
            return False
        raise BusAway(f"the broker's listener for devices at {where} ended our connection: {ended}")
    finally:
        link.leave()


async def _greeted(link: Link, client_id: str) -> None:
    # A clean start: what the broker holds for the device goes, and its last will is published.
    connect = mqtt5.ConnectPacket(
        client_id,
        clean_start=True,
        keep_alive=_KEEP_ALIVE_S,
        session_expiry_interval=0,
        max_packet_size=MAX_PACKET_BYTES,
    )
    link.send([connect.write()])
    await asyncio.wait([link.welcomed, link.ended], return_when=asyncio.FIRST_COMPLETED)
    if link.ended.done():
        await link.ended
    code = link.welcomed.result().reason_code
    if code != mqtt5.ConnAckReasonCode.SUCCESS:
        raise BusAway(f"the broker's listener for devices refused us: {code.name.lower()}", reason="refused")


def _context(pair: Pair, authority: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory(prefix="metrica-") as folder:  # ssl reads certificates from files only
        file = Path(folder) / "pair"
        file.touch(0o600)
        file.write_bytes(pair.key + pair.certificate)
        context.load_cert_chain(file)
    return context


class _Deaf:
    """Who wants to hear nothing."""

    def delivered(self, delivery: Delivery) -> None:
        """Forget it: nothing was subscribed to."""

    def read_some(self) -> None:
        """Go on."""

    def acknowledged(self, packet_id: int, refusal: str | None) -> None:
        """Forget it: nothing was sent."""
