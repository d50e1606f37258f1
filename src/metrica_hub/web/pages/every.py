"""All pages of the dashboard, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from metrica_hub.web.pages.device import DevicePage, Told
from metrica_hub.web.pages.fleet import FleetPage
from metrica_hub.web.pages.happenings import EventsPage
from metrica_hub.web.pages.parts import PartStream
from metrica_hub.web.pages.rollouts import RolloutPages
from metrica_hub.web.pages.signing_in import SignInPage
from metrica_hub.web.pages.stop import StopPage
from metrica_hub.web.pages.trail import AuditPage
from metrica_hub.web.vitals import VitalsResource

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_hub.decisions.lamp import Lamp
    from metrica_hub.web.board import Board
    from metrica_hub.web.live import Live
    from metrica_hub.web.pages.device import Commands
    from metrica_hub.web.pages.fleet import Doubts
    from metrica_hub.web.pages.frame import Frame
    from metrica_hub.web.pages.rollouts import Rollouts
    from metrica_hub.web.pages.stop import Orders
    from metrica_hub.web.pages.trail import Trail
    from metrica_hub.web.reads import Reads
    from metrica_hub.web.routing import Route


class Resource(Protocol):
    """What has a part of the route table."""

    def routes(self) -> tuple[Route, ...]:
        """Return it."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where pages have from what they show."""

    reads: Reads
    trail: Trail
    orders: Orders
    rollouts: Rollouts
    commands: Commands
    doubts: Doubts
    """Why devices may not heed this hub."""
    lamp: Callable[[str], Lamp | None]
    """Whether Prometheus reaches a device, where it is asked."""


def dashboard(frame: Frame, board: Board, live: Live, sources: Sources, *, hub_key: str | None) -> tuple[Resource, ...]:
    """Return every page, and what only they brought along; ``hub_key``: the line of the hub's key for orders."""
    parts = PartStream(frame, board)
    vitals = VitalsResource(sources.reads, now=frame.now)
    return (
        frame,
        parts,
        vitals,
        SignInPage(frame),
        FleetPage(frame, board, live, sources.doubts),
        DevicePage(frame, parts, board, Told(sources.reads, sources.commands, sources.lamp), vitals),
        RolloutPages(frame, parts, sources.rollouts, sources.doubts),
        EventsPage(frame, board, live, sources.reads),
        StopPage(frame, parts, board, sources.orders, hub_key=hub_key),
        AuditPage(frame, sources.trail),
    )
