"""Edges: one module a counterpart. An adapter does not know another one.

bus          the broker, MQTT 5 by the ``mqtt5`` codec
store        Postgres
mirror       the Git repository whose branch the fleet follows
post         who is told of events by HTTP
prometheus   who scrapes the devices, and knows which it reaches
key          the hub's own key, and the one for orders that it may be given, by ssh-keygen
signatures   whose signature an order carries, by ssh-keygen
authority    who devices and the hub are to the broker, by cryptography

Here itself is what several of them need: work that blocks and can't be interrupted, in a thread that does not keep the
process from ending. Not asyncio's executor, nor libuv's pool: both are joined at the end, so one server that says
nothing would hold SIGTERM for as long as it is silent.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def aside(work: Callable[[], T], name: str) -> tuple[asyncio.Future[T], threading.Thread]:
    """Begin ``work``; return what will hold its outcome, and its thread, which may outlive whoever waits."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            deliver = partial(_failed, answer, error)
        else:
            deliver = partial(_settled, answer, outcome)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(deliver)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return answer, thread


class Resolver(AbstractResolver):
    """Finds the addresses of a host for an HTTP client, in a thread called ``name``."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``. Raises OSError."""
        asked, _ = aside(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM), self._name)
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=0, flags=flags)
            for kind, _, _, _, address in await asked
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def _settled(answer: asyncio.Future[T], outcome: T) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _failed(answer: asyncio.Future[T], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
