"""The page of the audit trail: who did what, newest first; for those who may steer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

import msgspec

from metrica_hub.web.cursors import NEWEST, only, part_of, start_of
from metrica_hub.web.pages.parts import SUMMARY
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from aiohttp import web

    from metrica_hub.decisions.trail import Entry
    from metrica_hub.web.pages.frame import Frame

_KIND: Final = "entry"
_PAGE: Final = 100
_FILTERS: Final = ("actor", "action", "subject")


class Trail(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def before(
        self, number: int, *, limit: int, actor: str | None, action: str | None, subject: str | None
    ) -> list[Entry]:
        """Return entries before a number, newest first."""
        ...


class AuditPage:
    """The page at ``/audit``."""

    def __init__(self, frame: Frame, trail: Trail) -> None:
        self._frame = frame
        self._trail = trail

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "Who did what, for people."
        return (Route("GET", "/audit", "getAuditPage", self._frame.humane(self.get), about, role="operator"),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page."""
        only(request, ("after", *_FILTERS))
        before = start_of(request, _KIND, NEWEST)
        chosen = {name: request.query.get(name, "").strip()[:200] for name in _FILTERS}
        actor, action, subject = (value or None for value in chosen.values())
        found = await self._trail.before(before, limit=_PAGE + 1, actor=actor, action=action, subject=subject)
        kept = {name: value for name, value in chosen.items() if value}
        entries, following = part_of(_KIND, found, _PAGE, lambda entry: entry.number)
        return self._frame.page(
            request,
            "audit.html",
            at="audit",
            live=SUMMARY,
            chosen=chosen,
            entries=[(entry, _detail(entry)) for entry in entries],
            is_first=before == NEWEST,
            older=following and "/audit?" + urlencode({**kept, "after": following}),
            export="/api/v1/audit?" + urlencode({"limit": 1000, **kept}),
        )


def _detail(entry: Entry) -> list[tuple[str, str]]:
    facts = msgspec.json.decode(entry.deed.detail, type=dict[str, object])
    return [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        for name, value in facts.items()
    ]
