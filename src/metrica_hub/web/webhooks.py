"""``/api/v1/webhooks``: who is told of events by HTTP."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from aiohttp import web

from metrica_hub.decisions.webhooks import Kinds, Url, Webhook, headers_of, objection, secret_of, trial_event
from metrica_hub.errors import Invalid, NotTaken, NotThere
from metrica_hub.web.answers import Page, created, json, page
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.bodies import body_of
from metrica_hub.web.cursors import AFTER, LIMIT, id_of, limit_of, only, part_of, start_of
from metrica_hub.web.problem import request_id_of
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from metrica_hub.web.audit import Audit

_KIND: Final = "webhook"
_SECRET_BYTES: Final = 32


class Webhooks(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def add(self, url: str, kinds: tuple[str, ...], secret: str, *, created_by: str) -> Webhook:
        """Tell somebody of events."""
        ...

    async def webhooks(self, *, after: int, limit: int) -> list[Webhook]:
        """Return who is told."""
        ...

    async def webhook(self, number: int) -> Webhook | None:
        """Return one of them."""
        ...

    async def secret(self, number: int) -> str | None:
        """Return what the messages of one are signed with."""
        ...

    async def remove(self, number: int) -> None:
        """Tell one no more."""
        ...


class Post(Protocol):
    """The way out."""

    async def tell(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send something; raises ``NotTaken``."""
        ...


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook that is asked for."""

    url: Url
    kinds: Kinds
    """Of events, as docs/reference/events.md names them; ``release.*`` is all that begin so, ``*`` all."""


class Agreed(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook that was made, with the secret that its messages are signed with: it is shown this once."""

    secret: str
    known: Webhook

    def __repr__(self) -> str:
        return f"Agreed({self.known!r})"


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a message that was sent to try a webhook."""

    taken: bool
    why: str | None
    """Why not."""


class WebhookResource:
    """The resource."""

    def __init__(
        self,
        fleet: str,
        webhooks: Webhooks,
        audit: Audit,
        posting: Callable[[], AbstractAsyncContextManager[Post]],
        *,
        private: bool,
        now: Callable[[], datetime],
    ) -> None:
        """``private``: receivers may be on this machine or in a private network."""
        self._fleet = fleet
        self._webhooks = webhooks
        self._audit = audit
        self._posting = posting
        self._private = private
        self._now = now

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        path = "/api/v1/webhooks"
        one = f"{path}/{{id}}"
        return (
            Route(
                "GET",
                path,
                "listWebhooks",
                self.list_all,
                "Who is told of events.",
                role="admin",
                query=(LIMIT, AFTER),
                answers=Page[Webhook],
            ),
            Route(
                "POST",
                path,
                "createWebhook",
                self.create,
                "Tells somebody of the events that come from now on; shows the secret once.",
                role="admin",
                takes=NewWebhook,
                answers=Agreed,
                status=201,
                problems=(409,),
                shown_once=True,
            ),
            Route("GET", one, "getWebhook", self.get, "Who is told, and how that goes.", role="admin", answers=Webhook),
            Route(
                "POST",
                f"{one}/test",
                "testWebhook",
                self.test,
                "Sends it a signed message that is no event, now and once, and says whether it was taken.",
                role="admin",
                answers=Tried,
            ),
            Route("DELETE", one, "removeWebhook", self.remove, "Tells it no more.", role="admin", status=204),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after"))
        limit = limit_of(request)
        after = start_of(request, _KIND, 0)
        found = await self._webhooks.webhooks(after=after, limit=limit + 1)
        return page(request, *part_of(_KIND, found, limit, lambda one: one.id))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make one."""
        only(request, ())
        new = await body_of(request, NewWebhook)
        why = objection(new.url, private=self._private)
        if why is not None:
            raise Invalid(f"nothing is sent to this url: {why}", pointer="/url")
        secret = secret_of(secrets.token_bytes(_SECRET_BYTES))
        await self._audit.note(request, "webhook.create", "webhook", {"url": new.url, "kinds": new.kinds})
        known = await self._webhooks.add(new.url, new.kinds, secret, created_by=request[PRINCIPAL].name)
        return created(f"/api/v1/webhooks/{known.id}", Agreed(secret=secret, known=known))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with one."""
        only(request, ())
        return json(await self._there(request))

    async def test(self, request: web.Request) -> web.StreamResponse:
        """Send one a message; whatever comes of it, it is told of events as before, a disabled one of none."""
        only(request, ())
        known = await self._there(request)
        secret = await self._webhooks.secret(known.id)
        if secret is None:
            raise _nothing(known.id)
        await self._audit.note(request, "webhook.test", f"webhook/{known.id}", {"url": known.url})
        at, message = self._now(), f"test:{request_id_of(request)}"
        body = trial_event(self._fleet, known.id, message, at)
        headers = headers_of(secret, message, int(at.timestamp()), body)
        try:
            async with self._posting() as post:
                await post.tell(known.url, headers, body)
        except NotTaken as error:
            return json(Tried(taken=False, why=error.message))
        return json(Tried(taken=True, why=None))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        """Remove one."""
        only(request, ())
        known = await self._there(request)
        await self._audit.note(request, "webhook.remove", f"webhook/{known.id}", {"url": known.url})
        await self._webhooks.remove(known.id)
        return web.Response(status=204)

    async def _there(self, request: web.Request) -> Webhook:
        wanted = id_of(request)
        found = await self._webhooks.webhook(wanted)
        if found is None:
            raise _nothing(wanted)
        return found


def _nothing(wanted: int) -> NotThere:
    return NotThere(f"There is no webhook {wanted}.")
