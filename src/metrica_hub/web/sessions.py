"""``/login`` and ``/logout``: a browser shows its token once and keeps a session, which ends with the token."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

from aiohttp import web

from metrica_hub.decisions.access import SECRET_BYTES, Principal, digest_of, way_back
from metrica_hub.errors import TooMany, Unknown
from metrica_hub.web.auth import COOKIE, PRINCIPAL, cookie_name, require_own_origin, session_of
from metrica_hub.web.bodies import FORM, raw_body_of
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from metrica_hub.web.audit import Audit
    from metrica_hub.web.auth import Gate

_LASTS_S: Final = 7 * 86_400


class Sessions(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def begin_session(self, digest: bytes, token: int) -> None:
        """Keep a session."""
        ...

    async def end_session(self, digest: bytes) -> None:
        """Forget a session."""
        ...


class SignIn:
    """The resource."""

    def __init__(self, sessions: Sessions, gate: Gate, audit: Audit) -> None:
        self._sessions = sessions
        self._gate = gate
        self._audit = audit

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "Signs a browser in by the form field token; next is where it goes then."
        return (
            Route("POST", "/login", "signIn", self.begin, about, role=None, takes_as=FORM, status=303),
            Route(
                "POST",
                "/logout",
                "signOut",
                self.end,
                "Ends the browser's session, if it has one.",
                takes_as=FORM,
                status=303,
                unnoted=True,
            ),
        )

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """Begin a session, or lead back to the form, which says why not."""
        require_own_origin(request)
        await raw_body_of(request, (FORM,))
        form = await request.post()
        target = way_back(str(form.get("next", "/")))
        try:
            held = await self._gate.of_token(request, str(form.get("token", "")).strip())
        except (TooMany, Unknown) as error:
            raise web.HTTPSeeOther(f"/login?{urlencode({'why': error.reason, 'next': target})}") from error
        principal = Principal(name=held.name, role=held.role, via="session", token=held.token)
        await self._audit.note_of(request, principal, "session.begin", f"token/{held.token}")
        if before := session_of(request):
            await self._sessions.end_session(digest_of(before))
        secret = secrets.token_urlsafe(SECRET_BYTES)
        await self._sessions.begin_session(digest_of(secret), held.token)
        return _kept(request, target, secret, _LASTS_S)

    async def end(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        principal = request[PRINCIPAL]
        if principal.via == "session":
            await self._audit.note(request, "session.end", f"token/{principal.token}")
            await self._sessions.end_session(digest_of(session_of(request)))
        return _kept(request, "/login", "", 0)


def _kept(request: web.Request, target: str, secret: str, max_age_s: int) -> web.Response:
    response = web.Response(status=303, headers={"Location": target, "Cache-Control": "no-store"})
    name = cookie_name(request)
    response.set_cookie(
        name, secret, max_age=max_age_s, path="/", httponly=True, secure=name == COOKIE, samesite="Strict"
    )
    return response
