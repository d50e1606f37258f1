"""The aiohttp application: the route table, the headers that every answer has, start and end."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from metrica_hub.errors import Misconfigured
from metrica_hub.web.bodies import MAX_BODY
from metrica_hub.web.problem import REQUEST_ID, problems, request_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from metrica_hub.web.routing import Handler, Route

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_UNUSED: Final = (
    *("accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen", "geolocation"),
    *("gyroscope", "magnetometer", "microphone", "midi", "payment", "publickey-credentials-get", "usb"),
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # none at all makes browsers hide whence a form comes from us, too
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SHUTDOWN_S: Final = 1.0
_IDLE_S: Final = 75.0
"""For the head of a request to come, and between two requests."""
_LINGERS_S: Final = 2.0
"""For the rest of a body that is not wanted: who sends it reads the answer when it is sent."""


def make_app(routes: Iterable[Route], guarded: Callable[[Route], Handler]) -> web.Application:
    """Return the application that answers to ``routes``, each ``guarded``."""
    app = web.Application(middlewares=[problems], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_put_headers)
    # Fixed paths first: "/devices/stream" is not a device of that name.
    for route in sorted(routes, key=lambda route: ("{" in route.path, route.path)):
        handler = guarded(route)
        app.router.add_route(route.method, route.path, handler)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, handler)
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, *, idle_s: float = _IDLE_S) -> AsyncGenerator[int]:
    """Serve while inside; yields the port. A connection on which no whole request comes for ``idle_s`` is closed.

    Raises:
        Misconfigured: the address can't be used.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_SHUTDOWN_S,
        keepalive_timeout=idle_s,
        lingering_time=_LINGERS_S,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            what = os.strerror(error.errno) if error.errno else str(error)
            raise Misconfigured(
                f"{host}:{port} can't be listened on ({what.lower()}); choose another [http] port, or stop what uses it"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _put_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[REQUEST_ID] = request_id_of(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
