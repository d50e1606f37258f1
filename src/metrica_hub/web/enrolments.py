"""``/api/v1/enrolments``, ``renewals`` and the identity of a device: who is let in to the bus, and who no more."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec

from metrica_fleet.definition import RESERVED_DEVICES
from metrica_fleet.enrolment import ENROLMENTS, RENEWALS, BusAddress, Enrolled, Enrolment, Fingerprint, Renewal, Renewed
from metrica_fleet.identity import DeviceId, DeviceName
from metrica_hub.decisions.access import SECRET_BYTES, Principal
from metrica_hub.decisions.identity import (
    Identity,
    Refusal,
    digest_of,
    enrolment_token,
    judged_invitation,
    judged_renewal,
)
from metrica_hub.errors import Conflict, Forbidden, NotThere
from metrica_hub.web.answers import Page, created, json, page
from metrica_hub.web.auth import PRINCIPAL
from metrica_hub.web.bodies import body_of
from metrica_hub.web.cursors import AFTER, LIMIT, device_of, device_start_of, limit_of, only, part_of
from metrica_hub.web.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from metrica_hub.decisions.identity import Holding, Invitation, Issued
    from metrica_hub.web.audit import Audit
    from metrica_hub.web.auth import Gate

_KIND: Final = "identity"
_REASON: Final = 200


class Authority(Protocol):
    """Who signs. Each may raise ``NotNow``: its files can't be used."""

    def requested(self, csr: str) -> bytes:
        """Return the digest of the key that is to be signed; ``Invalid``."""
        ...

    def shown(self, certificate: str) -> str:
        """Return the fingerprint of what is shown; ``Invalid``."""
        ...

    def has_signed(self, certificate: str, csr: str, signature: str) -> bool:
        """Whether who has the certificate's key asks for this."""
        ...

    async def certificate(self) -> str: ...

    async def fingerprint(self) -> str: ...

    async def issue(self, name: str, csr: str, lasts: timedelta, now: datetime) -> Issued: ...


class Identities(Protocol):
    """What is asked of the database; each may raise ``StoreAway``."""

    async def invite(self, device: DeviceId, digest: bytes, *, created_by: str, lasts: timedelta) -> datetime: ...

    async def invitation(self, digest: bytes) -> Invitation | None: ...

    async def enrol(self, invitation: Invitation, issued: Issued, recipient: str) -> tuple[str, ...] | None: ...

    async def held(self, fingerprint: str) -> Holding | None: ...

    async def renew(self, held: Holding, issued: Issued) -> bool: ...

    async def revoke(self, device: DeviceId, reason: str) -> tuple[str, ...]: ...

    async def identity(self, device: DeviceId) -> Identity | None: ...

    async def identities(self, *, after: str, limit: int) -> Sequence[Identity]: ...


class Revoker(Protocol):
    """Who makes a revocation count."""

    async def publish(self) -> None:
        """Write the list that the broker reads; ``NotNow``."""
        ...

    def cut_off(self, device: DeviceId) -> None:
        """End the connection of a device, as soon as may be."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What a device is told, and for how long its papers are good."""

    fleet: str
    bus: BusAddress
    remotes: tuple[str, ...]
    branch: str
    token: timedelta
    certificate: timedelta


class NewEnrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token that is asked for."""

    hours: Annotated[float, msgspec.Meta(gt=0, le=24 * 365)] | None = None
    """Until it expires; ``None``: as the hub's settings say."""


class Invited(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was made; it is shown this once."""

    device: DeviceName
    token: str
    expires_at: datetime
    authority: Fingerprint
    """Of the fleet's authority."""

    def __repr__(self) -> str:
        return f"Invited({self.device!r})"


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a device is to be locked out."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=_REASON, pattern=r"^[^\x00]*$(?!\n)")]


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken back."""

    device: DeviceName
    serials: tuple[str, ...]
    """Of the certificates that were good until now; none where only a token was withdrawn."""


class EnrolmentResource:
    """The resource."""

    def __init__(
        self,
        identities: Identities,
        authority: Authority | None,
        revoker: Revoker | None,
        terms: Terms,
        *,
        gate: Gate,
        audit: Audit,
        now: Callable[[], datetime],
    ) -> None:
        """``authority`` and ``revoker``: none where the hub's settings name no authority."""
        self._identities = identities
        self._authority = authority
        self._revoker = revoker
        self._terms = terms
        self._gate = gate
        self._audit = audit
        self._now = now

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        device = "/api/v1/devices/{device}"
        return (
            Route(
                "POST",
                f"{device}/enrolment",
                "createEnrolment",
                self.invite,
                "Makes a token by which a device enrols, once, in the place of one that was not used; shows it once.",
                role="operator",
                takes=NewEnrolment,
                answers=Invited,
                status=201,
                problems=(409,),
                shown_once=True,
            ),
            Route(
                "POST",
                ENROLMENTS,
                "enrolDevice",
                self.enrol,
                "Signs the certificate of a device that shows such a token; for the same key again, the same one.",
                role=None,
                takes=Enrolment,
                answers=Enrolled,
                problems=(403, 409, 429),
            ),
            Route(
                "POST",
                RENEWALS,
                "renewCertificate",
                self.renew,
                "Signs the certificate that follows one, asked for by a signature of that one's key.",
                role=None,
                takes=Renewal,
                answers=Renewed,
                problems=(403, 409, 429),
            ),
            Route(
                "GET",
                f"{device}/identity",
                "getIdentity",
                self.get,
                "The newest certificate of a device, and the key that its secrets are encrypted to.",
                answers=Identity,
            ),
            Route(
                "GET",
                "/api/v1/identities",
                "listIdentities",
                self.list_all,
                "The newest certificate of each device, by the devices' names.",
                query=(LIMIT, AFTER),
                answers=Page[Identity],
            ),
            Route(
                "POST",
                f"{device}/revocation",
                "revokeDevice",
                self.revoke,
                "Takes back a device's certificates and unused tokens, and ends its connection.",
                role="operator",
                takes=Revocation,
                answers=Revoked,
                problems=(409,),
            ),
        )

    async def invite(self, request: web.Request) -> web.StreamResponse:
        """Make a token."""
        only(request, ())
        device = DeviceId(device_of(request))
        new = await body_of(request, NewEnrolment)
        authority = self._there()
        if device in RESERVED_DEVICES:
            raise Conflict(f'"{device}" means something else to the broker or the hub; name the device otherwise')
        fingerprint = await authority.fingerprint()
        lasts = self._terms.token if new.hours is None else timedelta(hours=new.hours)
        text = enrolment_token(secrets.token_bytes(SECRET_BYTES))
        await self._audit.note(request, "enrolment.create", f"device/{device}", {"hours": lasts.total_seconds() / 3600})
        by = request[PRINCIPAL].name
        expires_at = await self._identities.invite(device, digest_of(text), created_by=by, lasts=lasts)
        made = Invited(device=device, token=text, expires_at=expires_at, authority=fingerprint)
        return created(f"/api/v1/devices/{device}/identity", made)

    async def enrol(self, request: web.Request) -> web.StreamResponse:
        """Let a device in."""
        only(request, ())
        self._gate.may_try(request)
        asked_for = await body_of(request, Enrolment)
        authority = self._there()
        found = await self._identities.invitation(digest_of(asked_for.token))
        if found is None:
            self._gate.failed(request)
            raise Forbidden("This enrolment token is not known.", reason="token-unknown")
        spki = authority.requested(asked_for.csr)
        verdict = judged_invitation(found, spki)
        certificate = found.certificate or ""
        if verdict == "issue":
            issued = await authority.issue(found.device, asked_for.csr, self._terms.certificate, self._now())
            principal = Principal(name=found.device, role="viewer", via="enrolment")
            facts = {"serial": issued.serial, "recipient": asked_for.recipient, "boot": asked_for.boot}
            await self._audit.note_of(request, principal, "device.enrol", f"device/{found.device}", facts)
            certificate = issued.pem
            before = await self._identities.enrol(found, issued, asked_for.recipient)
            if before is None:  # another request was quicker, of this key or another
                now_found = await self._identities.invitation(digest_of(asked_for.token))
                verdict = judged_invitation(now_found, spki)
                certificate = (now_found.certificate if now_found is not None else None) or ""
            elif before and self._revoker is not None:
                await self._revoker.publish()
        if isinstance(verdict, Refusal):
            raise Conflict(verdict.message, reason=verdict.reason)
        terms = self._terms
        return json(
            Enrolled(
                fleet=terms.fleet,
                device=found.device,
                certificate=certificate,
                authority=await authority.certificate(),
                bus=terms.bus,
                remotes=terms.remotes,
                branch=terms.branch,
            )
        )

    async def renew(self, request: web.Request) -> web.StreamResponse:
        """Let a device go on."""
        only(request, ())
        self._gate.may_try(request)
        asked_for = await body_of(request, Renewal)
        authority = self._there()
        held = await self._identities.held(authority.shown(asked_for.certificate))
        if held is None or not authority.has_signed(asked_for.certificate, asked_for.csr, asked_for.signature):
            self._gate.failed(request)
            message = "This certificate is none of this hub's, or the request is not signed by its key."
            raise Forbidden(message, reason="certificate-unknown")
        spki = authority.requested(asked_for.csr)
        verdict = judged_renewal(held, spki, self._now())
        if isinstance(verdict, Refusal):
            raise Conflict(verdict.message, reason=verdict.reason)
        if verdict == "again":
            return json(Renewed(certificate=held.next_certificate or ""))
        issued = await authority.issue(held.device, asked_for.csr, self._terms.certificate, self._now())
        principal = Principal(name=held.device, role="viewer", via="certificate")
        facts = {"serial": issued.serial, "renews": held.serial}
        await self._audit.note_of(request, principal, "device.renew", f"device/{held.device}", facts)
        if not await self._identities.renew(held, issued):
            raise Conflict("Another request for this was quicker: ask again.", reason="raced")
        return json(Renewed(certificate=issued.pem))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer who a device is."""
        only(request, ())
        device = DeviceId(device_of(request))
        found = await self._identities.identity(device)
        if found is None:
            raise NotThere(f"{device} was never enrolled.")
        return json(found)

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """Answer with a part of the list."""
        only(request, ("limit", "after"))
        limit = limit_of(request)
        found = await self._identities.identities(after=device_start_of(request, _KIND), limit=limit + 1)
        return page(request, *part_of(_KIND, found, limit, lambda one: one.device))

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Lock a device out."""
        only(request, ())
        device = DeviceId(device_of(request))
        asked_for = await body_of(request, Revocation)
        self._there()
        await self._audit.note(request, "device.revoke", f"device/{device}", {"reason": asked_for.reason})
        serials = await self._identities.revoke(device, asked_for.reason)
        if self._revoker is not None:
            await self._revoker.publish()
            self._revoker.cut_off(device)
        return json(Revoked(device=device, serials=serials))

    def _there(self) -> Authority:
        if self._authority is None:
            message = "This hub has no authority: write [authority] into its settings, then metrica-hub authority."
            raise Conflict(message, reason="no-authority")
        return self._authority
