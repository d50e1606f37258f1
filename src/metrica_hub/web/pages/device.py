"""The page of a device: how it is, what runs, what became of each release and why, what it was like, every event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from metrica_hub.decisions.access import reaches
from metrica_hub.errors import NotThere
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.cursors import NEWEST, device_of, only
from metrica_hub.web.pages.plots import HEIGHT, WIDTH, marks_of, plots_of
from metrica_hub.web.pages.timeline import timeline_of
from metrica_hub.web.routing import Route
from metrica_hub.web.views import Word, lamp_view, service_word, view_of
from metrica_hub.web.vitals import SPANS, span_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from metrica_hub.decisions.commands import CommandState
    from metrica_hub.decisions.fleet_state import DeviceState
    from metrica_hub.decisions.lamp import Lamp
    from metrica_hub.web.board import Board
    from metrica_hub.web.pages.frame import Frame
    from metrica_hub.web.pages.parts import PartStream
    from metrica_hub.web.reads import Reads
    from metrica_hub.web.vitals import Span, VitalsResource

_EVENTS: Final = 300
"""So many of the latest are looked at for the timeline; fewer are listed."""
_LISTED: Final = 50
_COMMANDS: Final = 10
COMMAND_WORDS: Final = {
    "queued": Word("◌", "queued", "off"),
    "sent": Word("◔", "sent", "busy"),
    "running": Word("◐", "running", "busy"),
    "done": Word("✔", "done", "good"),
    "failed": Word("✖", "failed", "bad"),
    "refused": Word("✖", "refused", "bad"),
    "expired": Word("○", "expired", "warn"),
    "cancelled": Word("·", "cancelled", "off"),
}


class Commands(Protocol):
    """What is asked of the database; may raise ``StoreAway``."""

    async def commands(self, *, device: str | None, state: str | None, before: int, limit: int) -> list[CommandState]:
        """Return commands before a number, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What devices told, what they were told, and what Prometheus tells of them."""

    reads: Reads
    commands: Commands
    lamp: Callable[[str], Lamp | None]


class DevicePage:
    """The page at ``/devices/{device}`` and its stream."""

    def __init__(self, frame: Frame, parts: PartStream, board: Board, told: Told, vitals: VitalsResource) -> None:
        self._frame = frame
        self._parts = parts
        self._board = board
        self._reads = told.reads
        self._commands = told.commands
        self._lamp = told.lamp
        self._vitals = vitals

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/devices/{device}", "getDevicePage", self._frame.humane(self.get), "One device, for people."),
            Route("GET", "/devices/{device}/live", "streamDevicePage", self.stream, "What changes on its page."),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page."""
        only(request, ("span",))
        name, span = device_of(request), span_of(request)
        made = await self._maker(request, name, span)()
        live = f"/devices/{name}/live?span={span.name}"
        return self._frame.page(request, "device.html", at="fleet", live=live, name=name, parts=made)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the parts of the page that change."""
        only(request, ("span",))
        return await self._parts.send(request, self._maker(request, device_of(request), span_of(request)))

    def _maker(self, request: web.Request, name: str, span: Span) -> Callable[[], Awaitable[Mapping[str, str]]]:
        """Return what makes the parts, most of them only after the device changed: whatever it says changes it.

        What Prometheus says of it does not, nor what becomes of commands, which those see who may give them.
        """
        change, made = -1, dict[str, str]()
        sees_commands = reaches(request[PRINCIPAL].role, "operator")

        async def make() -> Mapping[str, str]:
            nonlocal change, made
            device = self._device(name)
            if device.change != change:
                change, made = device.change, await self._made(device, span)
            now = {**self._head(device), **made}
            return {**now, **await self._given(name)} if sees_commands else now

        return make

    async def _given(self, name: str) -> dict[str, str]:
        found = await self._commands.commands(device=name, state=None, before=NEWEST, limit=_COMMANDS)
        return {"device-commands": self._frame.part("device-commands.html", commands=found, words=COMMAND_WORDS)}

    def _head(self, device: DeviceState) -> dict[str, str]:
        html = self._frame.part(
            "device-head.html",
            device=view_of(device),
            state=device,
            lamp=lamp_view(self._lamp(device.device)),
            grafana=self._frame.grafana,
        )
        return {"device-head": html}

    async def _made(self, device: DeviceState, span: Span) -> dict[str, str]:
        events = await self._reads.events(device=device.device, before=NEWEST, limit=_EVENTS)
        history = await self._vitals.of(device.device, span)
        running = await self._reads.running(device.device)
        services = [(one, service_word(one)) for one in running.services] if running is not None else []
        part = self._frame.part
        return {
            "device-timeline": part("device-timeline.html", entries=timeline_of(events[::-1])),
            "device-services": part("device-services.html", running=running, services=services),
            "device-vitals": part(
                "device-vitals.html",
                device=view_of(device),
                span=span,
                spans=SPANS,
                plots=plots_of(history),
                marks=marks_of(history, events),
                since=history.since,
                until=history.until,
                width=WIDTH,
                height=HEIGHT,
            ),
            "device-events": part("device-events.html", name=device.device, events=events[:_LISTED]),
        }

    def _device(self, name: str) -> DeviceState:
        device = self._board.device(name)
        if device is None:
            raise NotThere(f'No device "{name}" was ever heard of.')
        return device
