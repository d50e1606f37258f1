"""``/api/v1/tokens``: who may ask; ``/api/v1/whoami``: who asks."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec
from aiohttp import web

from metrica_hub.decisions.access import (
    SECRET_BYTES,
    Days,
    Principal,
    Role,
    Token,
    TokenName,
    digest_of,
    token_of,
)
from metrica_hub.errors import Conflict, NotThere
from metrica_hub.web.answers import Page, created, json, page
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.bodies import body_of
from metrica_hub.web.cursors import AFTER, LIMIT, id_of, limit_of, only, part_of, start_of
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from metrica_hub.web.audit import Audit

_KIND: Final = "token"


class Tokens(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def add_token(
        self, name: str, role: Role, digest: bytes, *, created_by: str, lasts: timedelta | None
    ) -> Token:
        """Keep a token."""
        ...

    async def tokens(self, *, after: int, limit: int) -> list[Token]:
        """Return those that were not revoked."""
        ...

    async def token(self, number: int) -> Token | None:
        """Return one of them."""
        ...

    async def revoke(self, number: int) -> bool:
        """Let one be good for nothing; false: there is none."""
        ...


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token that is asked for."""

    name: TokenName
    role: Role
    days: Days | None = None
    """Until it expires; ``None``: it does not."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was made, with its text: it is shown this once."""

    token: str
    known: Token

    def __repr__(self) -> str:
        return f"Given({self.known!r})"


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, of which fleet's hub."""

    fleet: str
    version: Annotated[str, msgspec.Meta(description="of the hub")]
    principal: Principal


class TokenResource:
    """The resource."""

    def __init__(self, tokens: Tokens, audit: Audit, fleet: str, version: str) -> None:
        self._tokens = tokens
        self._audit = audit
        self._fleet = fleet
        self._version = version

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        path = "/api/v1/tokens"
        one = f"{path}/{{id}}"
        return (
            Route(
                "GET",
                path,
                "listTokens",
                self.list_all,
                "Tokens that were not revoked, not their text.",
                role="admin",
                query=(LIMIT, AFTER),
                answers=Page[Token],
            ),
            Route(
                "POST",
                path,
                "createToken",
                self.create,
                "Makes a token, and shows it once.",
                role="admin",
                takes=NewToken,
                answers=Given,
                status=201,
                problems=(409,),
                shown_once=True,
            ),
            Route("GET", one, "getToken", self.get, "One token, not its text.", role="admin", answers=Token),
            Route(
                "DELETE",
                one,
                "revokeToken",
                self.revoke,
                "Lets a token be good for nothing, and the sessions that began with it.",
                role="admin",
                status=204,
                problems=(409,),
            ),
            Route("GET", "/api/v1/whoami", "whoAmI", self.tell, "Who asks.", answers=WhoAmI),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after"))
        limit = limit_of(request)
        after = start_of(request, _KIND, 0)
        found = await self._tokens.tokens(after=after, limit=limit + 1)
        return page(request, *part_of(_KIND, found, limit, lambda one: one.id))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make a token."""
        only(request, ())
        new = await body_of(request, NewToken)
        text = token_of(secrets.token_bytes(SECRET_BYTES))
        facts = {"role": new.role, "days": new.days}
        await self._audit.note(request, "token.create", f"token/{new.name}", facts)
        lasts = None if new.days is None else timedelta(days=new.days)
        by = request[PRINCIPAL].name
        known = await self._tokens.add_token(new.name, new.role, digest_of(text), created_by=by, lasts=lasts)
        return created(f"/api/v1/tokens/{known.id}", Given(token=text, known=known))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one token."""
        only(request, ())
        return json(await self._there(request))

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Revoke one."""
        only(request, ())
        token = await self._there(request)
        if token.id == request[PRINCIPAL].token:
            raise Conflict("This is the token that you use; revoke it with another.")
        await self._audit.note(request, "token.revoke", f"token/{token.id}", {"name": token.name})
        await self._tokens.revoke(token.id)
        return web.Response(status=204)

    async def tell(self, request: web.Request) -> web.StreamResponse:
        """Answer who asks."""
        only(request, ())
        return json(WhoAmI(fleet=self._fleet, version=self._version, principal=request[PRINCIPAL]))

    async def _there(self, request: web.Request) -> Token:
        wanted = id_of(request)
        token = await self._tokens.token(wanted)
        if token is None:
            raise NotThere(f"There is no token {wanted}, or it was revoked.")
        return token
