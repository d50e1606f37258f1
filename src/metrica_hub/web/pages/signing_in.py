"""The page where a browser shows its token once; ``POST /login`` takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_hub.decisions.access import way_back
from metrica_hub.web.cursors import only
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.web.pages.frame import Frame

_WHY: Final = {
    "token-unknown": "This token is not known. It begins with mtr_ and has 47 characters.",
    "token-ended": "This token has expired or was revoked; ask for another one.",
    "too-many-failures": "Too many wrong tokens came from this address; wait a minute.",
}


class SignInPage:
    """The form."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (Route("GET", "/login", "getSignInPage", self._frame.humane(self.get), "The form.", role=None),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the form, and why it did not work."""
        only(request, ("next", "why"))
        return self._frame.page(
            request,
            "login.html",
            at="",
            live="",
            target=way_back(request.query.get("next", "/")),
            why=_WHY.get(request.query.get("why", ""), ""),
        )
