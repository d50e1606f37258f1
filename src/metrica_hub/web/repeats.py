"""``Idempotency-Key``: a POST that comes again within a day is not done again, and answered as the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from metrica_hub.decisions.repeats import KEY, Answered, digest_of, fingerprint_of
from metrica_hub.errors import BadRequest, Conflict
from metrica_hub.web.auth import NOTED, PRINCIPAL
from metrica_hub.web.bodies import whole

if TYPE_CHECKING:
    from metrica_hub.web.routing import Handler, Route

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"


class Store(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def begin(self, digest: bytes, fingerprint: bytes) -> Answered | None:
        """Note that a request begins; return what is known of it if it came before."""
        ...

    async def end(self, digest: bytes, status: int, location: str | None, body: bytes | None) -> None:
        """Keep what was answered."""
        ...

    async def forget(self, digest: bytes) -> None:
        """Let a request that failed be tried again."""
        ...


class Repeats:
    """Stands between the gate and what makes something."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def once(self, route: Route) -> Handler:
        """Return the handler of ``route``, which does nothing twice for one key."""
        if route.method != "POST" or not route.path.startswith("/api/") or route.role is None:
            return route.handler

        async def handle(request: web.Request) -> web.StreamResponse:
            key = request.headers.get(HEADER)
            return await (route.handler(request) if key is None else self._once(request, route, key))

        return handle

    async def _once(self, request: web.Request, route: Route, key: str) -> web.StreamResponse:
        if not KEY.fullmatch(key):
            raise BadRequest(f"an {HEADER} has 1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-'", parameter=HEADER)
        digest = digest_of(request[PRINCIPAL].token or 0, request.path, key)
        fingerprint = fingerprint_of(request.query_string, await whole(request))
        known = await self._store.begin(digest, fingerprint)
        if known is not None:
            return _again(request, route, known, fingerprint)
        try:
            response = await route.handler(request)
        except BaseException:
            await self._store.forget(digest)
            raise
        body = response.body if isinstance(response, web.Response) and not route.shown_once else None
        kept = bytes(body) if isinstance(body, (bytes, bytearray)) else None
        await self._store.end(digest, response.status, response.headers.get("Location"), kept)
        return response


def _again(request: web.Request, route: Route, known: Answered, fingerprint: bytes) -> web.Response:
    if known.fingerprint != fingerprint:
        raise Conflict(f"This {HEADER} was used for another request.", reason="key-used")
    if known.status is None:
        raise Conflict("The first request goes on, or its hub ended in the middle: look what came of it.")
    if route.shown_once:
        raise Conflict("This was done; what it answered was shown once.")
    request[NOTED] = True  # the first time
    headers = {REPLAYED: "true"} | ({} if known.location is None else {"Location": known.location})
    response = web.Response(status=known.status, body=known.body, headers=headers)
    response.content_type = route.answers_as
    return response
