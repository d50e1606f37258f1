"""``/api/v1/stop`` and ``/api/v1/orders``: the emergency stop in force, the next order to sign, and where to bring it.

No operator's key is here: what is prepared is text for it. A hub that was given a key for orders, at its owner's risk,
signs for operators as well (docs/decisions/0040).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol, TypeVar

import msgspec
from aiohttp import web

from metrica_fleet.errors import Unusable
from metrica_fleet.signed import ORDERS, Signed, joined
from metrica_fleet.stop import SCOPE_PATTERN, Level, Reason, Scope, Stop, written
from metrica_hub.decisions.stop import Figures, Kept, ToCome, counted, following, taken, with_one_less, with_one_more
from metrica_hub.errors import BadRequest, Conflict, Invalid
from metrica_hub.web.answers import json
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.bodies import body_of, raw_body_of
from metrica_hub.web.cursors import only, whole_number
from metrica_hub.web.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from metrica_fleet.identity import FleetId
    from metrica_hub.web.audit import Audit
    from metrica_hub.web.board import Board
    from metrica_hub.web.witness import Witness, Witnessed

TEXT: Final = "text/plain"
AFTER: Final = Parameter(
    "after",
    "the number of the order in force when it was prepared, 0 for none; if it is another one meanwhile, which it would"
    " lift, nothing is kept",
    Annotated[int, msgspec.Meta(ge=0)],
)
_Resumed = Annotated[
    str, msgspec.Meta(pattern=SCOPE_PATTERN.replace("(fleet$", r"(all$(?!\n)|fleet$", 1), max_length=80)
]
_MOST_TO_COME: Final = 1000
_NO_KEY: Final = (
    "this hub has no key for orders: sign with your own (metrica stop, POST /api/v1/orders), or give it one"
    " ([stop] key_file in hub.toml)"
)


class Orders(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def newest(self) -> Kept | None:
        """Return the order in force."""
        ...

    async def add(self, kept: Kept) -> bool:
        """Keep an order that is newer than all; return whether it was."""
        ...

    async def add_after(self, kept: Kept, number: int) -> bool:
        """Keep an order if the one in force has this number, 0 for none; return whether it had."""
        ...


class OrderKey(Protocol):
    """The key for orders that this hub was given."""

    @property
    def line(self) -> str:
        """Return its line of ``allowed_signers``."""
        ...

    async def sign(self, text: bytes) -> bytes:
        """Return the armoured signature. Raises NotNow: ``key-unusable``."""
        ...


class GivenOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The order in force."""

    number: int
    issued_at: datetime
    received_at: datetime | None
    via: Literal["api", "bus"]
    given_by: str | None
    """Whose token brought it; whose key signed it, each device judges."""
    stops: tuple[Stop, ...]
    text: str
    signature: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The emergency stop: what is in force, who has obeyed, who is to come."""

    order: GivenOrder | None
    counts: Figures
    to_come: tuple[ToCome, ...]
    """By name, at most a thousand."""
    hub_key: str | None
    """The line of ``allowed_signers`` of the key that this hub signs orders with; null: it has none."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be stopped besides what is, or ``resume``: which scope is not to be any more, or ``all``."""

    level: Level | None = None
    scope: Scope = "fleet"
    reason: Reason = ""
    resume: _Resumed | None = None


class WantedByHub(Wanted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, to be signed by the hub upon the order that who asks has seen."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    """The number of the order in force, 0 for none; if it is another one meanwhile, nothing is signed."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The text of the next order: to be signed, byte for byte, and brought back with the signature behind it."""

    number: int
    text: str
    namespace: str = ORDERS
    stops: tuple[Stop, ...]
    after: int
    """The number of the order in force, upon which it was prepared; 0: there is none."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An order that is kept, and on its way; each device judges its signature by itself."""

    number: Annotated[int, msgspec.Meta(ge=1)]
    signed_by: str | None
    """By ``allowed_signers`` of the fleet repository; null: that was not found out here."""
    unjudged: str | None
    """Why not."""


class EmergencyStop:
    """The resource."""

    def __init__(
        self,
        fleet: FleetId,
        orders: Orders,
        board: Board,
        audit: Audit,
        *,
        now: Callable[[], datetime],
        on_given: Callable[[], object],
        witness: Witness,
        key: OrderKey | None,
    ) -> None:
        """``on_given`` is called when an order was written down: it is to be published at once.

        ``key``: of this hub, for orders; ``None``: it was given none.
        """
        self._fleet = fleet
        self._orders = orders
        self._board = board
        self._audit = audit
        self._now = now
        self._on_given = on_given
        self._witness = witness
        self._key = key

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/api/v1/stop",
                "getStop",
                self.get,
                "The emergency stop in force, how many have obeyed it, and who is to come.",
                answers=Standing,
            ),
            Route(
                "POST",
                "/api/v1/stop/prepare",
                "prepareStop",
                self.prepare,
                "The text of the next order, to be signed by an operator's own key; nothing is stopped by it.",
                role="operator",
                takes=Wanted,
                unnoted=True,
                answers=Prepared,
            ),
            Route(
                "POST",
                "/api/v1/orders",
                "giveOrder",
                self.give,
                "A signed order, as it travels: the text, and OpenSSH's signature behind it.",
                role="operator",
                query=(AFTER,),
                takes=str,
                takes_as=TEXT,
                answers=Accepted,
                status=202,
                problems=(409,),
            ),
            Route(
                "POST",
                "/api/v1/stop/sign",
                "signStop",
                self.sign,
                "The next order, signed with the key for orders that this hub was given, and given.",
                role="operator",
                takes=WantedByHub,
                answers=Accepted,
                status=202,
                problems=(409,),
            ),
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with what is in force."""
        only(request, ())
        kept = await self._orders.newest()
        figures, to_come = counted(kept, self._board.unsorted_devices())
        line = None if self._key is None else self._key.line
        return json(Standing(order=_given(kept), counts=figures, to_come=to_come[:_MOST_TO_COME], hub_key=line))

    async def prepare(self, request: web.Request) -> web.StreamResponse:
        """Answer with the next order's text."""
        only(request, ())
        wanted = _meant(await body_of(request, Wanted))
        kept = await self._orders.newest()
        order = following(kept, self._fleet, self._now(), _stops(kept, wanted))
        return json(Prepared(number=order.number, text=written(order), stops=order.stops, after=_number(kept)))

    async def give(self, request: web.Request) -> web.StreamResponse:
        """Keep an order, and have it published; not one of which it can be told that nobody signed it who may."""
        only(request, (AFTER.name,))
        after = _after(request)
        payload = await raw_body_of(request, (TEXT,))
        kept = self._taken(request, payload)
        newest = await self._orders.newest()
        if newest is not None and newest.order.number >= kept.order.number:
            raise _outdated(kept, newest)
        if after is not None and after != _number(newest):
            raise _overtaken(after, newest)
        found = await self._witness.witnessed(kept.signed)
        await self._noted(request, kept, found)
        if after is not None and not await self._orders.add_after(kept, after):
            raise _overtaken(after, await self._orders.newest())
        if after is None and not await self._orders.add(kept):
            raise _outdated(kept, await self._orders.newest() or kept)
        return self._accepted(kept, found)

    async def sign(self, request: web.Request) -> web.StreamResponse:
        """Make the next order, sign it with the hub's key for orders, and do with it as with one that is given."""
        only(request, ())
        wanted = _meant(await body_of(request, WantedByHub))
        if self._key is None:
            raise Conflict(_NO_KEY, reason="hub-key-none")
        newest = await self._orders.newest()
        if _number(newest) != wanted.after:
            raise _overtaken(wanted.after, newest)
        text = written(following(newest, self._fleet, self._now(), _stops(newest, wanted)))
        signature = (await self._key.sign(text.encode())).decode()
        kept = self._taken(request, joined(Signed(text, signature)))
        found = await self._witness.witnessed(kept.signed, line=self._key.line)
        await self._noted(request, kept, found, by_hub_key=True, reason=wanted.reason)
        if not await self._orders.add_after(kept, wanted.after):
            raise _overtaken(wanted.after, await self._orders.newest())
        return self._accepted(kept, found)

    def _taken(self, request: web.Request, payload: bytes) -> Kept:
        given_by = request[PRINCIPAL].name
        try:
            return taken(payload, self._fleet, unix_s=self._now().timestamp(), via="api", given_by=given_by)
        except Unusable as error:
            raise Invalid(error.message) from error

    async def _noted(self, request: web.Request, kept: Kept, found: Witnessed, **more: object) -> None:
        detail = {
            "number": kept.order.number,
            "stops": [f"{one.level} {one.scope}" for one in kept.order.stops],
            "signed_by": found.signed_by,
            **more,
        }
        await self._audit.note(request, "stop.order", f"order/{kept.order.number}", detail)

    def _accepted(self, kept: Kept, found: Witnessed) -> web.StreamResponse:
        self._on_given()
        response = json(Accepted(number=kept.order.number, signed_by=found.signed_by, unjudged=found.unjudged))
        response.set_status(202)
        return response


_Asked = TypeVar("_Asked", bound=Wanted)


def _meant(wanted: _Asked) -> _Asked:
    """Return what can be meant: one of stopping and going on. Raises Invalid."""
    if (wanted.level is None) == (wanted.resume is None):
        raise Invalid('say "level", to stop, or "resume", to go on', pointer="/level")
    return wanted


def _stops(kept: Kept | None, wanted: Wanted) -> tuple[Stop, ...]:
    """Return all that is to be stopped."""
    if wanted.level is not None:
        return with_one_more(kept, Stop(level=wanted.level, scope=wanted.scope, reason=wanted.reason))
    return with_one_less(kept, None if wanted.resume == "all" else wanted.resume)


def _number(kept: Kept | None) -> int:
    return 0 if kept is None else kept.order.number


def _after(request: web.Request) -> int | None:
    given = request.query.get(AFTER.name)
    after = None if given is None else whole_number(given)
    if given is not None and after is None:
        raise BadRequest(f'"{given[:40]}" is no number of an order', parameter=AFTER.name)
    return after


def _given(kept: Kept | None) -> GivenOrder | None:
    if kept is None:
        return None
    order = kept.order
    return GivenOrder(
        number=order.number,
        issued_at=order.issued_at,
        received_at=kept.received_at,
        via=kept.via,
        given_by=kept.given_by,
        stops=order.stops,
        text=kept.signed.text,
        signature=kept.signed.signature,
    )


def _outdated(kept: Kept, newest: Kept) -> Conflict:
    message = f"order {kept.order.number} is not newer than {newest.order.number}; prepare it again, and sign that"
    return Conflict(message, reason="order-outdated")


def _overtaken(after: int, newest: Kept | None) -> Conflict:
    message = f"order {_number(newest)} is in force, and not {after}; look what it stops, and prepare this again"
    return Conflict(message, reason="order-outdated")
