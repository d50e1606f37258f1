"""Enrolment tokens and certificates. Whether a token is still good is judged by the database's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from metrica_hub.adapters.store.pool import borrowed, transaction
from metrica_hub.decisions.expiry import Term
from metrica_hub.decisions.identity import Holding, Identity, Invitation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from metrica_fleet.identity import DeviceId
    from metrica_hub.adapters.store.pool import Connection, Pool, Row
    from metrica_hub.decisions.identity import Issued

_WITHDRAW: Final = """
UPDATE enrolments SET withdrawn_at = now() WHERE device = $1 AND used_at IS NULL AND withdrawn_at IS NULL
"""
_INVITE: Final = """
INSERT INTO enrolments (device, digest, created_by, expires_at) VALUES ($1, $2, $3, now() + $4::interval)
RETURNING expires_at
"""
_INVITED: Final = """
SELECT enrolments.id, enrolments.device, certificates.spki, certificates.pem,
       withdrawn_at IS NULL AND expires_at > now() AS is_good
FROM enrolments LEFT JOIN certificates ON certificates.enrolment = enrolments.id WHERE digest = $1
"""
_CLAIM: Final = """
UPDATE enrolments SET used_at = now()
WHERE id = $1 AND used_at IS NULL AND withdrawn_at IS NULL AND expires_at > now() RETURNING id
"""
_PUT: Final = """
INSERT INTO certificates (serial, device, spki, fingerprint, pem, recipient, not_before, not_after, enrolment, renews)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING number
"""
_REVOKE: Final = """
UPDATE certificates SET revoked_at = now(), revoked_for = $2
WHERE device = $1 AND revoked_at IS NULL AND ($3::text IS NULL OR serial <> $3) RETURNING serial
"""
_HELD: Final = """
SELECT held.*, held.revoked_at IS NOT NULL AS is_revoked,
       following.spki AS next_spki, following.pem AS next_certificate,
       NOT EXISTS (
           SELECT FROM certificates AS newer WHERE newer.device = held.device AND newer.number > held.number
       ) AS is_newest
FROM certificates AS held LEFT JOIN certificates AS following ON following.renews = held.serial
WHERE held.fingerprint = $1
"""
_NEWEST: Final = """
SELECT DISTINCT ON (device) *, revoked_at IS NOT NULL AS revoked, revoked_for AS reason FROM certificates
WHERE device > $1 ORDER BY device, number DESC LIMIT $2
"""
_TERMS: Final = """
SELECT device, not_before, not_after FROM (
    SELECT DISTINCT ON (device) * FROM certificates ORDER BY device, number DESC
) AS newest WHERE revoked_at IS NULL
"""
_ONE: Final = """
SELECT *, revoked_at IS NOT NULL AS revoked, revoked_for AS reason FROM certificates
WHERE device = $1 ORDER BY number DESC LIMIT 1
"""


class Identities:
    """Who devices are."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def invite(self, device: DeviceId, digest: bytes, *, created_by: str, lasts: timedelta) -> datetime:
        """Keep a token for ``device``, in the place of others that were not used; return when it expires.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(_WITHDRAW, device)
            return await connection.fetchval(_INVITE, device, digest, created_by, lasts)

    async def invitation(self, digest: bytes) -> Invitation | None:
        """Return what the token with this digest stands for; ``None``: it was never given out.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_INVITED, digest)
        if not rows:
            return None
        row = rows[0]
        return Invitation(
            number=row["id"],
            device=row["device"],
            is_good=row["is_good"],
            spki=row["spki"],
            certificate=row["pem"],
        )

    async def enrol(self, invitation: Invitation, issued: Issued, recipient: str) -> tuple[str, ...] | None:
        """Keep the first certificate of a card; return the serials that it revokes, of the cards before.

        ``None``: the token was used, has expired or was withdrawn meanwhile, and nothing is kept.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            if not await connection.fetch(_CLAIM, invitation.number):
                return None
            if not await _put(connection, invitation.device, issued, recipient, enrolment=invitation.number):
                return None
            rows = await connection.fetch(_REVOKE, invitation.device, "enrolled anew", issued.serial)
        return tuple(row["serial"] for row in rows)

    async def held(self, fingerprint: str) -> Holding | None:
        """Return what is known of the certificate with this fingerprint.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_HELD, fingerprint)
        return Holding(**{name: rows[0][name] for name in Holding.__struct_fields__}) if rows else None

    async def renew(self, held: Holding, issued: Issued) -> bool:
        """Keep the certificate that follows ``held``; false: another did, and nothing is kept.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            return await _put(connection, held.device, issued, held.recipient, renews=held.serial)

    async def revoke(self, device: DeviceId, reason: str) -> tuple[str, ...]:
        """Take back all certificates of ``device`` and its unused tokens; return the serials that it concerns.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(_WITHDRAW, device)
            rows = await connection.fetch(_REVOKE, device, reason, None)
        return tuple(row["serial"] for row in rows)

    async def revoked(self) -> dict[str, datetime]:
        """Return all serials that were taken back, and when.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch("SELECT serial, revoked_at FROM certificates WHERE revoked_at IS NOT NULL")
        return {row["serial"]: row["revoked_at"] for row in rows}

    async def identity(self, device: DeviceId) -> Identity | None:
        """Return the newest certificate of ``device``.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_ONE, device)
        return _identity(rows[0]) if rows else None

    async def identities(self, *, after: str, limit: int) -> Sequence[Identity]:
        """Return the newest certificates of up to ``limit`` devices whose names come behind ``after``.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_NEWEST, after, limit)
        return [_identity(row) for row in rows]

    async def terms(self) -> Sequence[Term]:
        """Return for how long each device's newest certificate is good, but for those that were revoked.

        Raises:
            StoreAway: Postgres can't do it now.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_TERMS)
        return [Term(row["device"], row["not_before"], row["not_after"]) for row in rows]


async def _put(
    connection: Connection,
    device: str,
    issued: Issued,
    recipient: str,
    *,
    enrolment: int | None = None,
    renews: str | None = None,
) -> bool:
    return bool(
        await connection.fetch(
            _PUT,
            issued.serial,
            device,
            issued.spki,
            issued.fingerprint,
            issued.pem,
            recipient,
            issued.not_before,
            issued.not_after,
            enrolment,
            renews,
        )
    )


def _identity(row: Row) -> Identity:
    return Identity(**{name: row[name] for name in Identity.__struct_fields__})
