"""Settings -> who may ask, and what is written down of it: put together here, for ``assembling`` to build on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metrica_fleet import __version__
from metrica_hub.adapters.store.access import Access
from metrica_hub.adapters.store.repeats import Repeats as KeptAnswers
from metrica_hub.adapters.store.trail import Trail
from metrica_hub.web.audit import Audit
from metrica_hub.web.auth import Gate
from metrica_hub.web.openapi import OpenApi
from metrica_hub.web.repeats import Repeats
from metrica_hub.web.sessions import SignIn
from metrica_hub.web.tokens import TokenResource

if TYPE_CHECKING:
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.settings import Settings
    from metrica_hub.web.routing import Handler, Route


@dataclass(frozen=True, slots=True)
class Admission:
    """What stands before every route, and the routes that are about that."""

    gate: Gate
    repeats: Repeats
    audit: Audit
    openapi: OpenApi
    resources: tuple[SignIn | TokenResource | Audit | OpenApi, ...]

    def guarded(self, route: Route) -> Handler:
        """Return the handler of ``route``: for who may, and once for each key."""
        return self.gate.guarded(replace(route, handler=self.repeats.once(route)))


def admission(parts: Settings, pool: Pool) -> Admission:
    """Return it, with what it needs."""
    access = Access(pool)
    gate = Gate(access, anonymous=parts.http.anonymous == "viewer", proxies=parts.http.proxies)
    audit = Audit(Trail(pool))
    openapi = OpenApi(__version__)
    resources = (
        SignIn(access, gate, audit),
        TokenResource(access, audit, parts.fleet, __version__),
        audit,
        openapi,
    )
    return Admission(gate, Repeats(KeptAnswers(pool)), audit, openapi, resources)
