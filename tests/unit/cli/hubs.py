"""A hub for the command line to ask: the real REST API, over devices and events in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aiohttp import web

from metrica_cli.main import main
from metrica_fleet.records import Vitals
from metrica_hub.decisions.fleet_state import (
    ALL,
    DeviceState,
    EventRow,
    Refused,
    Running,
    Selection,
    VitalsPoint,
    selects,
)
from metrica_hub.decisions.lamp import Lamp
from metrica_hub.web.app import make_app, serving
from metrica_hub.web.devices import Devices
from metrica_hub.web.events import Events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

GOOD = "1f" * 20
BAD = "bad0" * 10


def device(name: str, **changes: object) -> DeviceState:
    """Return a device that is where it should be."""
    now = datetime.now(UTC)
    state: dict[str, object] = {
        "device": name,
        "connection": "online",
        "connection_reason": "connected",
        "connection_at": now,
        "flapping_since": None,
        "claimed_since": None,
        "claimants": (),
        "role": "camera",
        "tags": ("north", "canary"),
        "mode": "steady",
        "commit": GOOD,
        "release": "2e" * 32,
        "wanted_commit": GOOD,
        "phase": "confirmed",
        "reason": None,
        "message": "",
        "refused": None,
        "agent_version": "0.1.0",
        "boot_id": "b",
        "uptime_s": 5.0,
        "vitals": Vitals(disk_free_bytes=3 * 1024**3, temperature_celsius=51.6),
        "status_at": now,
        "first_seen_at": now,
        "last_seen_at": now - timedelta(seconds=90),
        "heartbeat_s": 60.0,
        "change": 1,
    }
    return DeviceState(**(state | changes))  # type: ignore[arg-type]


def refusing(name: str) -> DeviceState:
    """Return a device that refused a commit."""
    return device(
        name,
        wanted_commit=BAD,
        phase="refused",
        refused=Refused(commit=BAD, reason="unhealthy-in-soak", message='service "web" turned unhealthy'),
    )


def event(number: int, name: str, kind: str = "release.confirmed") -> EventRow:
    """Return an event of a device."""
    now = datetime.now(UTC)
    return EventRow(
        cursor=number,
        device=name,
        stream="0" * 32,
        seq=number,
        received_at=now,
        at=now - timedelta(hours=30, minutes=5),
        uptime_s=5.0,
        boot_id="b",
        kind=kind,
        reason=None,
        message=f"number {number}\nand \x1b[31mred",
        commit=GOOD,
        release=None,
        detail={},
    )


@dataclass
class Store:
    """What the hub's database would hold."""

    states: list[DeviceState] = field(default_factory=list[DeviceState])
    rows: list[EventRow] = field(default_factory=list[EventRow])
    runs: dict[str, Running] = field(default_factory=dict[str, Running])
    lamps: dict[str, Lamp] = field(default_factory=dict[str, Lamp])

    async def answers(self) -> None:
        """It always does."""

    async def devices(self, *, after: str, limit: int, wanted: Selection = ALL) -> list[DeviceState]:
        found = (one for one in self.states if one.device > after and selects(wanted, one))
        return sorted(found, key=lambda one: one.device)[:limit]

    async def device(self, device: str) -> DeviceState | None:
        return next((one for one in self.states if one.device == device), None)

    async def running(self, device: str) -> Running | None:
        return self.runs.get(device)

    async def events(self, *, device: str | None, before: int, limit: int, kind: str | None = None) -> list[EventRow]:
        found = [one for one in self.rows if one.cursor < before and device in {None, one.device}]
        found = [one for one in found if kind is None or one.kind.startswith(kind)]
        return sorted(found, key=lambda one: -one.cursor)[:limit]

    async def changed_devices(self, *, after: int, limit: int) -> list[DeviceState]:
        return [one for one in self.states if one.change > after][:limit]

    async def new_events(self, *, after: int, limit: int) -> list[EventRow]:
        return [one for one in self.rows if one.cursor > after][:limit]

    async def vitals(self, device: str, *, since: datetime, width: timedelta) -> list[VitalsPoint]:
        del device, since, width
        return []


@asynccontextmanager
async def hub_with(store: Store) -> AsyncGenerator[str]:
    """Serve ``store`` by the real API; yield its address."""
    devices = Devices(store, day=lambda _: None, lamp=store.lamps.get, now=lambda: datetime.now(UTC))
    routes = [*devices.routes(), *Events(store).routes()]
    async with serving(make_app(routes, lambda route: route.handler), "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def hub_that_says(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncGenerator[str]:
    """Serve one answer to everything; yield its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serving(app, "127.0.0.1", 0) as port:
        yield f"http://127.0.0.1:{port}"


async def metrica(*arguments: str) -> int:
    """Run ``metrica`` as an operator does; return its exit code."""
    return await asyncio.to_thread(main, arguments)
