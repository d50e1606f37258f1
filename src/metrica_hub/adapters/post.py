"""Tells somebody something over HTTP: bounded in time and size, no redirects, and only where it may go.

A name is resolved here, and what it resolves to is checked, so that a name that means another address the next
moment leads nowhere else.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp

from metrica_hub.adapters import Resolver
from metrica_hub.decisions.webhooks import may_reach, objection
from metrica_hub.errors import NotTaken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from aiohttp.abc import ResolveResult

WITHIN_S: Final = 10.0
_READ_BYTES: Final = 4096
_OK: Final = range(200, 300)
_GONE: Final = 410


class Post:
    """One client for all."""

    def __init__(self, session: aiohttp.ClientSession, *, private: bool) -> None:
        self._session = session
        self._private = private

    async def tell(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send ``body``; it was taken when this returns.

        Raises:
            NotTaken: it was not, for whatever reason.
        """
        why = objection(url, private=self._private)
        if why is not None:
            raise NotTaken(f"nothing is sent there: {why}")
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                await answer.content.read(_READ_BYTES)  # so that the connection can be used again, if that was all
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotTaken(f"it can't be reached ({str(error) or type(error).__name__})"[:300]) from error
        if status not in _OK:
            raise NotTaken(f"it answered {status}", is_gone=status == _GONE)


@asynccontextmanager
async def posting(*, private: bool) -> AsyncGenerator[Post]:
    """Yield a client; ``private``: it may reach this machine and private networks."""
    connector = aiohttp.TCPConnector(resolver=_Resolver(private=private), limit_per_host=2, ttl_dns_cache=10)
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    agent = {"User-Agent": "metrica-hub"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=agent, trust_env=False) as session:
        yield Post(session, private=private)


class _Resolver(Resolver):
    def __init__(self, *, private: bool) -> None:
        super().__init__("webhook-address")
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of ``host`` that may be reached.

        Raises:
            OSError: there is none.
        """
        found = await super().resolve(host, port, family)
        good = [one for one in found if may_reach(one["host"], private=self._private)]
        if not good:
            raise OSError(None, "its address is of this machine or of a private network ([webhooks] private)")
        return good
