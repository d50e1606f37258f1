"""What every page has: its head, the way to the others, the search, the state of the live connection.

Everything a device says is hostile until it is escaped: Jinja's autoescape does that, for pages and for their parts.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from metrica_fleet.errors import FleetError, NotNow
from metrica_hub.decisions.access import ROLES, reaches
from metrica_hub.errors import BadRequest, NotThere
from metrica_hub.web.auth import CSRF, PRINCIPAL
from metrica_hub.web.routing import Route
from metrica_hub.web.views import counts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from metrica_hub.web.board import Board
    from metrica_hub.web.routing import Handler

_BADGE_AT_MOST: Final = 99
_SORRY: Final[Mapping[type[FleetError], tuple[HTTPStatus, str]]] = {
    NotThere: (HTTPStatus.NOT_FOUND, "There is no such thing"),
    BadRequest: (HTTPStatus.BAD_REQUEST, "That is not understood"),
    NotNow: (HTTPStatus.SERVICE_UNAVAILABLE, "Not now; try again soon"),
}


class Frame:
    """Makes pages of templates."""

    def __init__(
        self, fleet: str, version: str, board: Board, *, now: Callable[[], datetime], grafana: str | None = None
    ) -> None:
        """Put it together.

        Args:
            fleet: its name.
            version: of the hub.
            board: the fleet as last seen.
            now: by which browsers tell how long ago something was; their own clock may be wrong by hours.
            grafana: where its dashboards are, if there are any.
        """
        self.fleet = fleet
        self.grafana = grafana.rstrip("/") if grafana is not None else None
        self.now = now
        self._version = version
        self._board = board
        self._environment = Environment(
            loader=PackageLoader("metrica_hub.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # else the disk is asked for each part of a page whether its template changed
        )
        self._counted: tuple[int, Mapping[str, int]] | None = None
        self._badge = self._environment.get_template("badge.svg")

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (Route("GET", "/badge/{count}.svg", "getBadge", self.badge, "The mark, with a number.", role=None),)

    async def badge(self, request: web.Request) -> web.StreamResponse:
        """Answer with the icon of a page."""
        count = request.match_info["count"]
        if not (count.isascii() and count.isdigit() and len(count) <= len(str(_BADGE_AT_MOST))):
            raise NotThere(f"There is no badge at {request.path}.")
        body = self._badge.render(count=int(count))
        return web.Response(text=body, content_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})

    def page(self, request: web.Request, template: str, *, at: str, live: str, **more: object) -> web.Response:
        """Return the page of ``template``; ``at``: where in the navigation, ``live``: the stream that keeps it live."""
        principal = request.get(PRINCIPAL)  # nobody, where one signs in: to whom the fleet is no business
        html = self.part(
            template,
            at=at,
            live=live if principal else "",
            fleet=self.fleet,
            grafana=self.grafana,
            version=self._version,
            principal=principal,
            may={role for role in ROLES if principal is not None and reaches(principal.role, role)},
            csrf=request.get(CSRF, ""),
            **(self.summary() if principal else self._nothing()),
            **{"q": "", **more},
        )
        response = web.Response(text=html, content_type="text/html", headers={"Cache-Control": "no-store"})
        response.enable_compression()
        return response

    def humane(self, handler: Handler) -> Handler:
        """Return ``handler`` such that a browser is told in a page what is wrong, not in JSON."""

        async def answered(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except (BadRequest, NotThere, NotNow) as error:
                if "text/html" not in request.headers.get("Accept", ""):
                    raise
                return self._sorry(request, error)

        return answered

    def _sorry(self, request: web.Request, error: BadRequest | NotThere | NotNow) -> web.Response:
        status, title = next(answer for kind, answer in _SORRY.items() if isinstance(error, kind))
        page = self.page(request, "problem.html", at="", live="/summary/live", title=title, detail=error.message)
        page.set_status(status)
        return page

    def part(self, template: str, **more: object) -> str:
        """Return ``template`` with these values."""
        return self._environment.get_template(template).render(**more)

    def _nothing(self) -> dict[str, object]:
        return {"problems": 0, "stopped": 0, "badge": 0, "stale": False, "now": self.now().isoformat()}

    def summary(self) -> dict[str, object]:
        """Return what every page tells of the fleet as a whole, and tells anew when it changes."""
        counts = self.counts()
        return {
            "problems": counts["problems"],
            "stopped": counts["stopped"],
            "badge": min(counts["problems"], _BADGE_AT_MOST),
            "stale": self._board.is_stale,
            "now": self.now().isoformat(),
        }

    def counts(self) -> Mapping[str, int]:
        """Return the figures of the counters: counted once after a change, for whoever looks."""
        newest = self._board.latest.newest
        if self._counted is None or self._counted[0] != newest:
            self._counted = newest, counts_of(self._board.unsorted_devices())
        return self._counted[1]
