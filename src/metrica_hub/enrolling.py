"""Settings -> who is let in to the bus, the hub among them, and who is locked out: for ``assembling`` to build on."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from metrica_fleet.enrolment import BRANCH, BusAddress
from metrica_hub.adapters.authority.own import OwnCertificate
from metrica_hub.adapters.authority.signing import Authority, Files
from metrica_hub.adapters.bus.takeover import Listener, taken_over
from metrica_hub.adapters.store.identities import Identities
from metrica_hub.tasks.own_certificate import Keeper
from metrica_hub.tasks.revoke import Revoker
from metrica_hub.web.enrolments import EnrolmentResource, Terms
from metrica_hub.web.expiry import OwnExpiryFigures

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from metrica_fleet.identity import DeviceId
    from metrica_hub.adapters.store.pool import Pool
    from metrica_hub.settings import Settings
    from metrica_hub.web.audit import Audit
    from metrica_hub.web.auth import Gate

Loop = Callable[[], Coroutine[object, object, None]]


@dataclass(frozen=True, slots=True)
class Enrolling:
    """The routes, what makes a revocation count, and what keeps the hub's own certificate good."""

    resource: EnrolmentResource
    loops: tuple[Loop, ...]


def authority_of(parts: Settings) -> Authority | None:
    """Return the authority that the settings name."""
    named = parts.authority
    if named is None:
        return None
    return Authority(Files(Path(named.certificate_file), Path(named.key_file), Path(named.crl_file)), parts.fleet)


def enrolling(
    parts: Settings,
    pool: Pool,
    gate: Gate,
    audit: Audit,
    *,
    registry: CollectorRegistry,
    chance: Callable[[], float],
) -> Enrolling:
    """Return it, with what it needs."""
    identities, authority = Identities(pool), authority_of(parts)
    revoker = None
    if authority is not None and parts.authority is not None:
        named = parts.authority
        listener = Listener(named.broker_host or parts.bus.host, named.broker_port)
        revoker = _revoker(parts.fleet, listener, authority, identities, chance)
    terms = Terms(
        fleet=parts.fleet,
        bus=BusAddress(host=parts.enrolment.bus_host or parts.bus.host, port=parts.enrolment.bus_port),
        remotes=parts.enrolment.remotes,
        branch=BRANCH if parts.git is None else parts.git.branch,
        token=timedelta(hours=parts.enrolment.token_hours),
        certificate=timedelta(days=parts.enrolment.certificate_days),
    )
    resource = EnrolmentResource(identities, authority, revoker, terms, gate=gate, audit=audit, now=_now)
    loops: tuple[Loop, ...] = () if revoker is None else (revoker.run,)
    if parts.bus.certificate_file is not None:
        own = OwnCertificate(Path(parts.bus.certificate_file), authority)
        keeper = Keeper(own, OwnExpiryFigures(registry), lasts=terms.certificate, now=_now, chance=chance)
        loops = (*loops, keeper.run)
    return Enrolling(resource, loops)


def _revoker(
    fleet: str, listener: Listener, authority: Authority, identities: Identities, chance: Callable[[], float]
) -> Revoker:
    async def take_over(device: DeviceId, held_s: float) -> bool:
        pair = await authority.lend(device, _now())
        client_id = f"metrica-{fleet}-{device}"  # as the agent has it
        return await taken_over(listener, client_id, pair, await authority.certificate(), held_s)

    return Revoker(authority, identities, take_over, now=_now, now_s=time.monotonic, chance=chance)


def _now() -> datetime:
    return datetime.now(UTC)
