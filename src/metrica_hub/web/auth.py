"""Who asks, and whether they may: ``Authorization: Bearer mtr_…``, or the cookie of a browser that signed in.

Whoever shows nothing is nobody, or a viewer where ``[http] anonymous`` says so. What is shown and is not good is never
taken for nothing, but for the cookie of a session that ended: its browser signs in again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, urlsplit

import structlog
from aiohttp import web

from metrica_hub.decisions.access import (
    ANONYMOUS,
    Held,
    Principal,
    csrf_of,
    digest_of,
    is_loopback,
    is_token,
    reaches,
    same,
)
from metrica_hub.decisions.failures import Failures, remote_of
from metrica_hub.decisions.seats import Seats
from metrica_hub.errors import Forbidden, StoreAway, TooMany, Unknown
from metrica_hub.web.bodies import FORM, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from metrica_hub.web.routing import Handler, Route

PRINCIPAL: Final = web.RequestKey("principal", Principal)
CSRF: Final = web.RequestKey("csrf", str)
"""What forms and scripts of our pages send back; empty without a session, which needs none."""
NOTED: Final = web.RequestKey("noted", bool)
"""That the trail has it."""
REMOTE: Final = web.RequestKey("remote", str)
"""The address that the request came from."""

CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf"
COOKIE: Final = "__Host-metrica"
LOOPBACK_COOKIE: Final = "metrica"
"""On plain http of one's own machine: browsers keep the other one for https."""

_BEARER: Final = "bearer "
_FAILED: Final = 400
_COME_AGAIN_S: Final = 5.0
_PATIENCE_S: Final = 2.0
_KNOWN: Final = 1000
_STILL_KNOWN_S: Final = 600.0
"""For so long who was known may look on while the database is away: that is when one wants to."""

_log = structlog.get_logger()


class Access(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def of_token(self, digest: bytes) -> Held | None:
        """Return what a token stands for."""
        ...

    async def of_session(self, digest: bytes) -> Held | None:
        """Return what a session stands for."""
        ...


class Gate:
    """Stands before every route."""

    def __init__(
        self,
        access: Access,
        *,
        anonymous: bool = False,
        proxies: tuple[str, ...] = (),
        now_s: Callable[[], float] = time.monotonic,
        seats: Seats | None = None,
    ) -> None:
        """``anonymous``: who shows nothing may look; ``proxies``: whose word about addresses is taken."""
        self._access = access
        self._anonymous = anonymous
        self._proxies = proxies
        self._now_s = now_s
        self._failures = Failures()
        self._seats = Seats() if seats is None else seats
        self._known: OrderedDict[bytes, tuple[Held, float]] = OrderedDict()
        """What was good, by its digest, and when: it is asked about even where its address failed too often."""

    def guarded(self, route: Route) -> Handler:
        """Return the handler of ``route`` behind the gate."""

        async def handle(request: web.Request) -> web.StreamResponse:
            request[REMOTE] = remote_of(
                request.remote or "", ",".join(request.headers.getall("X-Forwarded-For", ())), self._proxies
            )
            request[CSRF] = ""
            if route.role is None:
                return await route.handler(request)
            try:
                principal = await self._principal(request)
            except Unknown:
                if not _is_for_people(request):
                    raise
                raise web.HTTPSeeOther(f"/login?next={quote(request.path_qs, safe='')}") from None
            if not reaches(principal.role, route.role):
                raise Forbidden(f"This takes the role {route.role}; {principal.name} is {principal.role}.")
            if route.changes and principal.via == "session":
                await _require_our_page(request)
            request[PRINCIPAL] = principal
            with self._seated(request, principal):
                response = await route.handler(request)
            if route.changes and not route.unnoted and NOTED not in request and response.status < _FAILED:
                _log.error("request.unnoted", route=route.name, error_kind="ours")
            return response

        return handle

    @contextmanager
    def _seated(self, request: web.Request, principal: Principal) -> Generator[None]:
        """Count a request while it is under way: by the token, or by the address of who shows none."""
        who = f"address {request[REMOTE]}" if principal.token is None else f"token {principal.token}"
        if not self._seats.take(who):
            raise TooMany(
                "Too many requests are under way at once; end some live views.",
                retry_after_s=_COME_AGAIN_S,
                reason="too-many-at-once",
            )
        try:
            yield
        finally:
            self._seats.leave(who)

    async def of_token(self, request: web.Request, text: str) -> Held:
        """Return what the token ``text`` stands for.

        Raises:
            Unknown: nothing, or nothing any more.
            TooMany: its address failed too often.
            StoreAway: the database can't be asked.
        """
        digest = digest_of(text)
        held = await self._asked(request, digest, self._access.of_token) if is_token(text) else None
        if held is None or not held.is_good:
            self._failures.note(request[REMOTE], self._now_s())
            why = "is not known" if held is None else "has expired or was revoked"
            raise Unknown(f"This token {why}.", given=True, reason="token-unknown" if held is None else "token-ended")
        return held

    def may_try(self, request: web.Request) -> None:
        """Let a secret of another kind be tried, unless too many wrong ones came from its address.

        Raises:
            TooMany: they did.
        """
        wait_s = self._failures.wait_s(request[REMOTE], self._now_s())
        if wait_s:
            raise TooMany("Too many wrong tokens came from this address; wait.", retry_after_s=wait_s)

    def failed(self, request: web.Request) -> None:
        """Count a wrong one."""
        self._failures.note(request[REMOTE], self._now_s())

    async def _principal(self, request: web.Request) -> Principal:
        said = request.headers.get("Authorization")
        if said is not None:
            if not said.lower().startswith(_BEARER):
                raise Unknown("Only bearer tokens are known: Authorization: Bearer mtr_…", given=True)
            held = await self.of_token(request, said[len(_BEARER) :].strip())
            return Principal(name=held.name, role=held.role, via="token", token=held.token)
        secret = session_of(request)
        held = await self._of_session(request, secret) if secret else None
        if held is not None:
            request[CSRF] = csrf_of(secret)
            return Principal(name=held.name, role=held.role, via="session", token=held.token)
        if self._anonymous:
            return ANONYMOUS
        raise Unknown("Sign in, or send a token: Authorization: Bearer mtr_…", given=False)

    async def _of_session(self, request: web.Request, secret: str) -> Held | None:
        held = await self._asked(request, digest_of(secret), self._access.of_session)
        if held is None:
            self._failures.note(request[REMOTE], self._now_s())
        return held if held is not None and held.is_good else None

    async def _asked(
        self, request: web.Request, digest: bytes, ask: Callable[[bytes], Awaitable[Held | None]]
    ) -> Held | None:
        """Ask the database; where it is away, and nothing is to be changed, what it said lately will do."""
        known = self._known.get(digest)
        now_s = self._now_s()
        wait_s = self._failures.wait_s(request[REMOTE], now_s)
        if wait_s and known is None:
            raise TooMany("Too many wrong tokens came from this address; wait.", retry_after_s=wait_s)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                held = await ask(digest)
        except (StoreAway, TimeoutError) as error:
            if known is not None and now_s - known[1] < _STILL_KNOWN_S and request.method in {"GET", "HEAD"}:
                return known[0]
            raise error if isinstance(error, StoreAway) else StoreAway("it did not answer in time") from error
        self._known.pop(digest, None)
        if held is not None and held.is_good:
            self._known[digest] = held, now_s
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return held


def cookie_name(request: web.Request) -> str:
    """Return by which name the browser keeps its session."""
    return LOOPBACK_COOKIE if is_loopback(request.headers.get("Host", "")) else COOKIE


def session_of(request: web.Request) -> str:
    """Return the secret of the browser's session; empty: it shows none."""
    return request.cookies.get(cookie_name(request), "")


def require_own_origin(request: web.Request) -> None:
    """Refuse what the page of another site sends; browsers say where it comes from.

    Raises:
        Forbidden: it is another site's.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:  # an older browser, or none
        origin = request.headers.get("Origin")
        site = "none" if origin is None or urlsplit(origin).netloc == request.host else "cross-site"
    if site not in {"same-origin", "none"}:
        raise Forbidden("This came from another site's page.", reason="other-origin")


async def _require_our_page(request: web.Request) -> None:
    require_own_origin(request)
    given = request.headers.get(CSRF_HEADER, "")
    if not given and request.content_type == FORM:
        await whole(request)
        given = str((await request.post()).get(CSRF_FIELD, ""))
    if not same(given, request[CSRF]):
        raise Forbidden(f"A change from a page needs its {CSRF_HEADER}; load the page again.", reason="csrf")


def _is_for_people(request: web.Request) -> bool:
    """Whether a browser asks for a page to show."""
    shown = "text/html" in request.headers.get("Accept", "")
    return shown and request.method == "GET" and not request.path.startswith("/api/")
