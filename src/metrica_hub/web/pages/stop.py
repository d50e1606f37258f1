"""The page of the emergency stop: what is stopped and who has obeyed, and an order prepared for an operator's own key.

The page shows the text and the commands, and takes what comes of them. Where the hub was given a key for orders, a
button has it sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

import msgspec

from metrica_fleet.identity import DeviceId, RoleId
from metrica_fleet.stop import WHOLE_FLEET, Level, Stop, Whom, applies
from metrica_hub.decisions.stop import counted
from metrica_hub.web.cursors import only
from metrica_hub.web.routing import Route
from metrica_hub.web.views import Word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from metrica_hub.decisions.fleet_state import DeviceState
    from metrica_hub.decisions.stop import Kept
    from metrica_hub.web.board import Board
    from metrica_hub.web.pages.frame import Frame
    from metrica_hub.web.pages.parts import PartStream

LEVELS: Final = {
    Level.FREEZE: (Word("▮", "freeze", "warn"), "no step is begun any more; what runs goes on"),
    Level.SAFE: (Word("■", "safe", "bad"), "the safe-mode stack runs, and nothing else"),
    Level.HALT: (Word("■", "halt", "bad"), "no workload runs"),
}
_SHOWN: Final = 200


class Orders(Protocol):
    """What is asked of the database; may raise ``StoreAway``."""

    async def newest(self) -> Kept | None:
        """Return the order in force."""
        ...


class StopPage:
    """The page at ``/stop`` and its stream."""

    def __init__(self, frame: Frame, parts: PartStream, board: Board, orders: Orders, *, hub_key: str | None) -> None:
        """``hub_key``: the line of ``allowed_signers`` of the hub's key for orders; ``None``: it has none."""
        self._frame = frame
        self._parts = parts
        self._board = board
        self._orders = orders
        self._hub_key = hub_key

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route("GET", "/stop", "getStopPage", self._frame.humane(self.get), "The emergency stop, for people."),
            Route("GET", "/stop/live", "streamStopPage", self.stream, "Who has obeyed, as they do."),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page."""
        only(request, ("level", "scope", "reason"))
        stop, slip = _chosen(request)
        devices = self._board.unsorted_devices()
        kept = await self._orders.newest()
        return self._frame.page(
            request,
            "stop.html",
            at="stop",
            live="/stop/live?" + urlencode(dict(request.query)),
            parts=await self._made(request),
            levels=LEVELS,
            level=request.query.get("level", ""),
            scope=request.query.get("scope", WHOLE_FLEET),
            reason=request.query.get("reason", ""),
            slip=slip,
            stop=stop,
            scopes=_scopes(devices),
            stops=kept.order.stops if kept is not None else (),
            hub_key=self._hub_key,
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the parts of the page that change."""
        only(request, ("level", "scope", "reason"))
        return await self._parts.send(request, lambda: self._made(request))

    async def _made(self, request: web.Request) -> Mapping[str, str]:
        kept = await self._orders.newest()
        devices = self._board.unsorted_devices()
        figures, to_come = counted(kept, devices)
        stop, _ = _chosen(request)
        part = self._frame.part
        now = part(
            "stop-now.html",
            kept=kept,
            figures=figures,
            to_come=to_come[:_SHOWN],
            are_more=len(to_come) - _SHOWN,
            levels=LEVELS,
        )
        touched = [device for device in devices if stop is not None and applies(stop, _whom(device))]
        online = sum(device.connection == "online" for device in touched)
        means = None if stop is None else LEVELS[stop.level][1]
        effect = part("stop-effect.html", stop=stop, means=means, touched=len(touched), online=online)
        return {"stop-now": now, "stop-effect": effect}


def _chosen(request: web.Request) -> tuple[Stop | None, str]:
    """Return what is to be stopped, and what is wrong with what was said of it."""
    level, scope, reason = (request.query.get(name, "").strip() for name in ("level", "scope", "reason"))
    if not level:
        return None, ""
    said = {"level": level, "scope": scope or WHOLE_FLEET, "reason": reason[:500]}
    try:
        return msgspec.convert(said, Stop), ""
    except msgspec.ValidationError:
        return None, f"“{scope[:80]}” is no scope; it is fleet, role:NAME, tag:NAME or device:NAME"


def _whom(device: DeviceState) -> Whom:
    role = RoleId(device.role) if device.role else None
    return Whom(device=DeviceId(device.device), role=role, tags=device.tags)


def _scopes(devices: list[DeviceState]) -> list[str]:
    roles = sorted({f"role:{device.role}" for device in devices if device.role})
    tags = sorted({f"tag:{tag}" for device in devices for tag in device.tags})
    return [WHOLE_FLEET, *roles, *tags]
