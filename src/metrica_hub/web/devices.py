"""``/api/v1/devices``: the fleet as it is now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import structs

from metrica_fleet.identity import Name, RoleName
from metrica_fleet.records import Mode
from metrica_hub.decisions.day import HOURS, Day, Hour
from metrica_hub.decisions.fleet_state import DeviceState, DeviceWhole, Selection
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.answers import Page, json, page, versioned
from metrica_hub.web.cursors import AFTER, LIMIT, device_of, device_start_of, limit_of, only, part_of, text_of
from metrica_hub.web.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from aiohttp import web

    from metrica_hub.decisions.lamp import Lamp
    from metrica_hub.web.reads import Reads

_KIND: Final = "device"
_BEGINNING: Final = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{1,64}$(?!\n)")]
_FILTERS: Final = (
    Parameter("role", "of this role", RoleName),
    Parameter("tag", "with this tag", Name),
    Parameter("mode", "in this mode", Mode),
    Parameter("release", "whose confirmed release, or its commit, begins so", _BEGINNING),
    Parameter("offline", "true: offline or never seen; false: the others", bool),
    Parameter(
        "q",
        "with this in its name, its role or one of its tags",
        Annotated[str, msgspec.Meta(min_length=1, max_length=63)],
    ),
)
_TRUTHS: Final = {"true": True, "false": False}


class DayView(msgspec.Struct, frozen=True, kw_only=True):
    """A device's last 24 hours."""

    device: str
    hours: Annotated[tuple[Hour, ...], msgspec.Meta(min_length=HOURS, max_length=HOURS)]
    """The oldest first, the one that goes on last; ``troubled``: something failed there."""


class Devices:
    """The resource."""

    def __init__(
        self,
        reads: Reads,
        *,
        day: Callable[[str], Day | None],
        lamp: Callable[[str], Lamp | None],
        now: Callable[[], datetime],
    ) -> None:
        """Put it together.

        Args:
            reads: the database.
            day: what the last 24 hours of a device were like, as far as it is known.
            lamp: whether Prometheus reaches a device, where it is asked.
            now: by which ages are told.
        """
        self._reads = reads
        self._day = day
        self._lamp = lamp
        self._now = now

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/api/v1/devices",
                "listDevices",
                self.list_all,
                "Devices, by name: all, or those to which every filter applies.",
                query=(LIMIT, AFTER, *_FILTERS),
                answers=Page[DeviceState],
            ),
            Route(
                "GET",
                "/api/v1/devices/{device}",
                "getDevice",
                self.get,
                "One device as it is now, what runs on it, and whether Prometheus reaches it.",
                answers=DeviceWhole,
                versioned=True,
            ),
            Route(
                "GET",
                "/api/v1/devices/{device}/day",
                "getDeviceDay",
                self.get_day,
                "What a device's last 24 hours were like, hour by hour; counted every two minutes.",
                answers=DayView,
            ),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after", *(one.name for one in _FILTERS)))
        wanted = _wanted(request)
        limit = limit_of(request)
        after = device_start_of(request, _KIND)
        devices = await self._reads.devices(after=after, limit=limit + 1, wanted=wanted)
        found = [self._aged(device) for device in devices]
        return page(request, *part_of(_KIND, found, limit, lambda one: one.device))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one device."""
        only(request, ())
        device = await self._known(device_of(request))
        running = await self._reads.running(device.device)  # behind the device, so that its version is not too new
        runs = structs.asdict(running) if running is not None else {}
        lamp = self._lamp(device.device)
        whole = DeviceWhole(**structs.asdict(self._aged(device)), **runs, prometheus=lamp)
        return versioned(request, whole, str(device.change) if lamp is None else f"{device.change}-{lamp.state}")

    async def get_day(self, request: web.Request) -> web.StreamResponse:
        """Answer with its last 24 hours."""
        only(request, ())
        device = await self._known(device_of(request))
        day = self._day(device.device) or Day()
        return json(DayView(device=device.device, hours=day.hours()))

    async def _known(self, name: str) -> DeviceState:
        device = await self._reads.device(name)
        if device is None:
            raise NotThere(f'No device "{name}" was ever heard of.')
        return device

    def _aged(self, device: DeviceState) -> DeviceState:
        if device.last_seen_at is None:
            return device
        ago_s = max(0.0, (self._now() - device.last_seen_at).total_seconds())
        return structs.replace(device, last_heard_ago_s=round(ago_s, 1))


def _wanted(request: web.Request) -> Selection:
    """Return which devices are asked for.

    Raises:
        BadRequest: by a value that no device could have.
    """
    given: dict[str, Any] = {}
    for one in _FILTERS:
        text = text_of(request, one.name)
        if text is not None:
            try:
                given[one.name] = msgspec.convert(_TRUTHS.get(text, text) if one.kind is bool else text, one.kind)
            except msgspec.ValidationError as error:
                raise BadRequest(f'{one.name} can\'t be "{text[:80]}"', parameter=one.name) from error
    given["text"] = given.pop("q", None)
    return Selection(**given)
