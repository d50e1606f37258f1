"""The trail of who did what: written before it is done, so that nothing is done that can't be written down."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import msgspec
import structlog

from metrica_hub.decisions.access import Role, Via
from metrica_hub.decisions.trail import BEGINNING, Broken, Deed, Seal, detail_of, verified
from metrica_hub.errors import BadRequest
from metrica_hub.web.answers import Page, json, page
from metrica_hub.web.auth import NOTED, PRINCIPAL, REMOTE
from metrica_hub.web.cursors import AFTER, LIMIT, NEWEST, limit_of, only, part_of, start_of, text_of
from metrica_hub.web.problem import request_id_of
from metrica_hub.web.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from metrica_hub.decisions.access import Principal
    from metrica_hub.decisions.trail import Entry

_KIND: Final = "entry"
_PART: Final = 1000
_MOST_DETAIL: Final = 16 * 1024

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_FILTERS: Final = (
    Parameter("actor", "by whom, exactly", _Text),
    Parameter("action", "such as token.create, exactly", _Text),
    Parameter("subject", "such as token/7, exactly", _Text),
)
_SEAL: Final = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")
_EARLIER: Final = (
    Parameter(
        "seal",
        "one that was told earlier, and noted elsewhere",
        Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,17}:[0-9a-f]{64}$(?!\n)")],
    ),
)

_log = structlog.get_logger()


class Trail(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def append(self, deed: Deed) -> Entry:
        """Write something down."""
        ...

    async def before(
        self, number: int, *, limit: int, actor: str | None, action: str | None, subject: str | None
    ) -> list[Entry]:
        """Return entries before a number, newest first."""
        ...

    async def behind(self, number: int, *, limit: int) -> list[Entry]:
        """Return entries behind a number, oldest first."""
        ...


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """An entry, as it is shown."""

    number: int
    at: datetime
    actor: str
    role: Role
    via: Via
    token: int | None
    remote: str
    action: str
    subject: str
    detail: dict[str, Any]
    request_id: str
    seal: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the trail is as it was written."""

    holds: bool
    entries: int
    """So many of them, from the first on."""
    seal: str
    """Of the last entry: keep it elsewhere, and ask with it later. Empty where the trail is broken."""
    broken_at: int | None = None
    why: str | None = None


class Audit:
    """The resource, and what every other one notes its changes with."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._verifying = asyncio.Lock()

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        return (
            Route(
                "GET",
                "/api/v1/audit",
                "listAudit",
                self.list_all,
                "Who did what, newest first.",
                role="operator",
                query=(LIMIT, AFTER, *_FILTERS),
                answers=Page[Written],
            ),
            Route(
                "GET",
                "/api/v1/audit/verify",
                "verifyAudit",
                self.verify,
                "Whether nothing of it was changed, left out or, where an earlier seal is named, cut off.",
                role="operator",
                query=_EARLIER,
                answers=Verdict,
            ),
        )

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the trail."""
        only(request, ("limit", "after", *(one.name for one in _FILTERS)))
        limit = limit_of(request)
        before = start_of(request, _KIND, NEWEST)
        wanted = {one.name: text_of(request, one.name) for one in _FILTERS}
        found = await self._trail.before(before, limit=limit + 1, **wanted)
        shown, more = part_of(_KIND, found, limit, lambda entry: entry.number)
        return page(request, [_shown(entry) for entry in shown], more)

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Answer whether the trail holds."""
        only(request, ("seal",))
        kept = _earlier(request)
        async with self._verifying:  # each reads all of it
            return json(await self._verdict(kept))

    async def _verdict(self, kept: Seal | None) -> Verdict:
        last = BEGINNING
        missed = kept
        while entries := await self._trail.behind(last.number, limit=_PART):
            found = verified(entries, last)
            if isinstance(found, Broken):
                return Verdict(holds=False, entries=found.number - 1, seal="", broken_at=found.number, why=found.why)
            if missed is not None and any((one.number, one.seal) == (missed.number, missed.value) for one in entries):
                missed = None
            last = found
        if missed is not None:
            why = f"entry {missed.number} is missing, or has another seal than the one that was noted"
            return Verdict(holds=False, entries=last.number, seal=_told(last), broken_at=missed.number, why=why)
        return Verdict(holds=True, entries=last.number, seal=_told(last))

    async def note(
        self, request: web.Request, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Write down that who asks is about to do ``action`` (``rollout.pause``) to ``subject`` (``rollout/12``).

        Call it when all is checked that can be, right before the change.

        Raises:
            StoreAway: it can't be written down; do not go on.
        """
        await self.note_of(request, request[PRINCIPAL], action, subject, detail)

    async def note_of(
        self,
        request: web.Request,
        principal: Principal,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Do the same for somebody whom the gate did not see.

        Raises:
            StoreAway: it can't be written down; do not go on.
        """
        facts = detail_of(detail or {})
        if len(facts) > _MOST_DETAIL:
            facts = detail_of({"cut": facts[: _MOST_DETAIL // 2]})
        entry = await self._trail.append(
            Deed(
                actor=principal.name,
                role=principal.role,
                via=principal.via,
                token=principal.token,
                remote=request[REMOTE],
                action=action,
                subject=subject,
                detail=facts,
                request_id=request_id_of(request),
            )
        )
        request[NOTED] = True
        # The log is kept elsewhere, too: by a seal in it the end of a trail that was cut off is missed.
        seal = _told(Seal(number=entry.number, value=entry.seal))
        _log.info("trail.written", seal=seal, actor=principal.name, action=action)


def _shown(entry: Entry) -> Written:
    deed = entry.deed
    return Written(
        number=entry.number,
        at=entry.at,
        actor=deed.actor,
        role=deed.role,
        via=deed.via,
        token=deed.token,
        remote=deed.remote,
        action=deed.action,
        subject=deed.subject,
        detail=msgspec.json.decode(deed.detail, type=dict[str, Any]),
        request_id=deed.request_id,
        seal=_told(Seal(number=entry.number, value=entry.seal)),
    )


def _earlier(request: web.Request) -> Seal | None:
    given = request.query.get("seal")
    if given is None:
        return None
    found = _SEAL.fullmatch(given)
    if found is None:
        raise BadRequest("a seal is a number, a colon and 64 hexadecimal digits", parameter="seal")
    return Seal(number=int(found[1]), value=bytes.fromhex(found[2]))


def _told(seal: Seal) -> str:
    return f"{seal.number}:{seal.value.hex()}"
