"""Asks Prometheus whom it reaches: one question for the whole fleet, bounded in time and size.

Whatever stands at that address instead of Prometheus (a proxy's page, a server that says nothing) is one error with a
reason, and costs no more than that.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal

import aiohttp
import msgspec

from metrica_hub.adapters import Resolver
from metrica_hub.decisions.lamp import ANSWERS_WITHIN_S, Sample
from metrica_hub.errors import PrometheusAway

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

QUERY: Final = 'max by (device) (timestamp(up{job="netdata"}) * (2 * up{job="netdata"} - 1))'
"""When each device was last scraped, in seconds since 1970: negative, where that failed. Of a device with two targets
the better one. The job and its label are those of stack/vps/prometheus/prometheus.yml."""
LARGEST_BYTES: Final = 4 * 1024 * 1024
"""A device takes some 80 bytes: room for 50,000."""
_OK: Final = 200


class _Series(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    value: tuple[float, str]
    """When it was evaluated, and to what."""


class _Vector(msgspec.Struct, frozen=True):
    result_type: Literal["vector"] = msgspec.field(name="resultType")
    result: list[_Series]


class _Answer(msgspec.Struct, frozen=True):
    status: Literal["success"]
    data: _Vector


_DECODER: Final = msgspec.json.Decoder(_Answer)


class Prometheus:
    """One client."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/api/v1/query"

    async def samples(self) -> dict[str, Sample]:
        """Return the newest sample of each device that is scraped.

        Raises:
            PrometheusAway: it can't be asked now, or that is no Prometheus.
        """
        try:
            async with self._session.get(self._url, params={"query": QUERY}, allow_redirects=False) as answer:
                if answer.status != _OK:
                    raise PrometheusAway(f"it answered {answer.status}", reason="refused")
                body = await _whole(answer.content)
        except TimeoutError as error:
            raise PrometheusAway(f"no answer within {ANSWERS_WITHIN_S:g} s", reason="too-slow") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"it can't be reached ({str(error) or type(error).__name__})"[:300]
            raise PrometheusAway(message, reason="unreachable") from error
        return _read(body)


@asynccontextmanager
async def asking(url: str) -> AsyncGenerator[Prometheus]:
    """Yield a client for the Prometheus at ``url``."""
    connector = aiohttp.TCPConnector(resolver=Resolver("prometheus-address"), limit=1, ttl_dns_cache=10)
    timeout = aiohttp.ClientTimeout(total=ANSWERS_WITHIN_S)
    # What is not packed can't unpack to more than it is.
    headers = {"User-Agent": "metrica-hub", "Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, trust_env=False, auto_decompress=False
    ) as session:
        yield Prometheus(session, url)


async def _whole(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for part in content.iter_any():
        body += part
        if len(body) > LARGEST_BYTES:
            raise PrometheusAway(f"its answer is larger than {LARGEST_BYTES} bytes", reason="too-large")
    return bytes(body)


def _read(body: bytes) -> dict[str, Sample]:
    try:
        series = _DECODER.decode(body).data.result
        return {one.metric["device"]: _sample(*one.value) for one in series if "device" in one.metric}
    except ValueError as error:  # msgspec's own are of that family
        raise PrometheusAway(f"its answer is none of Prometheus' ({error})"[:300], reason="unreadable") from error


def _sample(evaluated_s: float, value: str) -> Sample:
    scraped_s = float(value)
    if not math.isfinite(scraped_s):
        raise ValueError(f"no time of a scrape: {value[:40]}")
    return Sample(up=scraped_s > 0, age_s=max(0.0, evaluated_s - abs(scraped_s)))
