"""``/api/v1/devices/{device}/vitals``: what a device was like in the last hour, day or week."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from metrica_hub.decisions.fleet_state import VitalsPoint
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.answers import json
from metrica_hub.web.cursors import device_of, only
from metrica_hub.web.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from metrica_hub.web.reads import Reads


@dataclass(frozen=True, slots=True)
class Span:
    """How far back, in steps of which width."""

    name: str
    length: timedelta
    width: timedelta


SPANS: Final = {
    span.name: span
    for span in (
        Span("1h", timedelta(hours=1), timedelta(minutes=1)),
        Span("24h", timedelta(hours=24), timedelta(minutes=5)),
        Span("7d", timedelta(days=7), timedelta(hours=1)),
    )
}


_SPAN: Final = Parameter("span", "how far back; an hour by default", Literal["1h", "24h", "7d"])


class VitalsHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. A step in which nothing was heard has no point."""

    device: str
    span: str
    step_s: float
    since: datetime
    until: datetime
    memory_total_bytes: int | None
    disk_total_bytes: int | None
    points: list[VitalsPoint]


class VitalsResource:
    """The resource; the page of a device shows the same."""

    def __init__(self, reads: Reads, *, now: Callable[[], datetime]) -> None:
        self._reads = reads
        self._now = now

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/api/v1/devices/{device}/vitals",
                "getDeviceVitals",
                self.get,
                "What a device was like in the last hour, day or week.",
                query=(_SPAN,),
                answers=VitalsHistory,
            ),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the points of a span."""
        only(request, ("span",))
        return json(await self.of(device_of(request), span_of(request)))

    async def of(self, name: str, span: Span) -> VitalsHistory:
        """Return the history of ``name``.

        Raises:
            NotThere: no such device was ever heard of.
        """
        device = await self._reads.device(name)
        if device is None:
            raise NotThere(f'No device "{name}" was ever heard of.')
        now = self._now()
        since = now - span.length
        return VitalsHistory(
            device=name,
            span=span.name,
            step_s=span.width.total_seconds(),
            since=since,
            until=now,
            memory_total_bytes=device.vitals.memory_total_bytes,
            disk_total_bytes=device.vitals.disk_total_bytes,
            points=await self._reads.vitals(name, since=since, width=span.width),
        )


def span_of(request: web.Request) -> Span:
    """Return the span asked for.

    Raises:
        BadRequest: it is none.
    """
    name = request.query.get("span", "1h")
    span = SPANS.get(name)
    if span is None:
        raise BadRequest(f'"{name[:40]}" is no span; known are {", ".join(SPANS)}', parameter="span")
    return span
