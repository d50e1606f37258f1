"""The fleet's certificate authority: its certificate, its key, and the list of what it took back, a file each.

It signs who a device is to the broker, and nothing else: no order, no gate, no commit. The key is read when it is used,
and kept by nobody.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from metrica_fleet.enrolment import renewal_text
from metrica_fleet.errors import NotNow
from metrica_hub.adapters.authority.files import put
from metrica_hub.decisions.identity import CRL_LASTS, Issued, life_of
from metrica_hub.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LASTS: Final = timedelta(days=7300)
"""Of the authority itself."""
BORROWED_FOR: Final = timedelta(minutes=10)
_CURVE: Final = ec.SECP256R1()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Files:
    """Where it is."""

    certificate: Path
    key: Path
    crl: Path


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(***)"


@dataclass(frozen=True, slots=True)
class InForce:
    """The list that the broker reads."""

    serials: Mapping[str, datetime]
    made_at: datetime | None
    """``None``: there is none, or none of this authority."""


class Authority:
    """The authority of one fleet. Whatever is wrong with its files is ``NotNow``: ``authority-unusable``."""

    def __init__(self, files: Files, fleet: str) -> None:
        self._files = files
        self._fleet = fleet

    async def make(self, now: datetime) -> bool:
        """Make key and certificate, where neither is there; return whether that was done."""
        return await self._aside(partial(self._make, now))

    async def certificate(self) -> str:
        """Return its certificate."""
        return (await self._aside(self._certificate)).public_bytes(Encoding.PEM).decode()

    async def fingerprint(self) -> str:
        """Return the SHA-256 of its certificate."""
        return (await self._aside(self._certificate)).fingerprint(hashes.SHA256()).hex()

    async def issue(self, name: str, csr: str, lasts: timedelta, now: datetime) -> Issued:
        """Sign a certificate that says of the key in ``csr`` whose it is.

        Raises:
            Invalid: there is none in it that can be signed.
        """
        key = _key_in(csr)
        made = await self._aside(partial(self._signed, name, key, life_of(now, lasts)))
        return Issued(
            serial=f"{made.serial_number:x}",
            spki=_digest_of(key),
            fingerprint=made.fingerprint(hashes.SHA256()).hex(),
            pem=made.public_bytes(Encoding.PEM).decode(),
            not_before=made.not_valid_before_utc,
            not_after=made.not_valid_after_utc,
        )

    async def lend(self, name: str, now: datetime) -> Pair:
        """Return a certificate of ``name`` with a key of our own, good for minutes: to take its connection over."""
        return await self._aside(partial(self._lent, name, life_of(now, BORROWED_FOR)))

    async def pair(self, name: str, lasts: timedelta, now: datetime) -> Pair:
        """Return a certificate of ``name`` with a key of its own: for the hub itself, or an operator."""
        return await self._aside(partial(self._lent, name, life_of(now, lasts)))

    async def prolonged(self, certificate: bytes, lasts: timedelta, now: datetime) -> bytes:
        """Return one, PEM, of the same name and key as ``certificate``, which this authority has signed.

        Raises:
            Invalid: it has not.
        """
        return await self._aside(partial(self._prolonged, certificate, life_of(now, lasts)))

    async def signed_this(self, certificate: bytes) -> bool:
        """Whether ``certificate``, PEM, is one that this authority has signed, whether or not it has ended."""
        return await self._aside(partial(self._signed_this, certificate))

    async def in_force(self) -> InForce:
        """Return what the list says that is there."""
        return await self._aside(self._in_force)

    async def publish(self, revoked: Mapping[str, datetime], now: datetime) -> None:
        """Write the list, in the old one's place by one rename."""
        await self._aside(partial(self._publish, revoked, now))

    def requested(self, csr: str) -> bytes:
        """Return the SHA-256 of the key that is to be signed. Whatever name the request has counts for nothing.

        Raises:
            Invalid: it is none, of another kind of key, or not signed by its own.
        """
        return _digest_of(_key_in(csr))

    def shown(self, certificate: str) -> str:
        """Return the fingerprint of a certificate that somebody shows.

        Raises:
            Invalid: it is none.
        """
        return _loaded(certificate).fingerprint(hashes.SHA256()).hex()

    def has_signed(self, certificate: str, csr: str, signature: str) -> bool:
        """Whether who has the key of ``certificate`` asks for ``csr``.

        Raises:
            Invalid: the certificate is none.
        """
        key = _loaded(certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        try:
            key.verify(base64.b64decode(signature, validate=True), renewal_text(csr), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True

    # In a thread

    async def _aside(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.to_thread(work)
        except FileNotFoundError as error:
            raise self._unusable(f"{error.filename}: it is not there; make it: metrica-hub authority") from error
        except OSError as error:
            raise self._unusable(f"{error.filename}: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._unusable(str(error)) from error

    def _make(self, now: datetime) -> bool:
        files = self._files
        if files.certificate.exists() and files.key.exists():
            return False
        if files.certificate.exists() or files.key.exists():
            raise ValueError("of certificate and key one is there, and one is not; put the missing one back")
        key = ec.generate_private_key(_CURVE)
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Metrica Fleet"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{self._fleet} authority"),
            ]
        )
        not_before, not_after = life_of(now, LASTS)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: a certificate without it would look like an authority that lost its key.
        put(files.key, _pem(key), 0o600)
        put(files.certificate, made.public_bytes(Encoding.PEM), 0o644)
        return True

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._files.certificate.read_bytes())

    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = load_pem_private_key(self._files.key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._files.key}: it is no key of an elliptic curve")
        return key

    def _signed(self, name: str, key: ec.EllipticCurvePublicKey, life: tuple[datetime, datetime]) -> x509.Certificate:
        own = self._certificate()
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self._fleet),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(own.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(life[0])
            .not_valid_after(life[1])
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            # A client and never a server: no device can pass for the broker.
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .add_extension(_issuer_of(own), critical=False)
            .sign(self._key(), hashes.SHA256())
        )

    def _lent(self, name: str, life: tuple[datetime, datetime]) -> Pair:
        key = ec.generate_private_key(_CURVE)
        return Pair(self._signed(name, key.public_key(), life).public_bytes(Encoding.PEM), _pem(key))

    def _prolonged(self, certificate: bytes, life: tuple[datetime, datetime]) -> bytes:
        present = _loaded(certificate.decode(errors="replace"))
        names, key = present.subject.get_attributes_for_oid(NameOID.COMMON_NAME), present.public_key()
        if not self._signed_this(certificate):
            raise Invalid("another authority has signed it", pointer="/certificate")
        if len(names) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
            raise Invalid("it has no one name, or its key is none of an elliptic curve", pointer="/certificate")
        return self._signed(str(names[0].value), key, life).public_bytes(Encoding.PEM)

    def _signed_this(self, certificate: bytes) -> bool:
        try:
            _loaded(certificate.decode(errors="replace")).verify_directly_issued_by(self._certificate())
        except (Invalid, ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _in_force(self) -> InForce:
        try:
            found = x509.load_pem_x509_crl(self._files.crl.read_bytes())
        except (FileNotFoundError, ValueError):
            return InForce({}, None)
        key = self._certificate().public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not found.is_signature_valid(key):
            return InForce({}, None)
        return InForce({f"{one.serial_number:x}": one.revocation_date_utc for one in found}, found.last_update_utc)

    def _publish(self, revoked: Mapping[str, datetime], now: datetime) -> None:
        own = self._certificate()
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(own.subject)
            .last_update(now)
            .next_update(now + CRL_LASTS)
            .add_extension(_issuer_of(own), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial, at in revoked.items():
            one = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(at)
            made = made.add_revoked_certificate(one.build())
        put(self._files.crl, made.sign(self._key(), hashes.SHA256()).public_bytes(Encoding.PEM), 0o644)

    def _unusable(self, why: str) -> NotNow:
        return NotNow(f"the fleet's authority can't be used: {why}", reason="authority-unusable")


def _key_in(csr: str) -> ec.EllipticCurvePublicKey:
    try:
        found = x509.load_pem_x509_csr(csr.encode())
        key = found.public_key()
        is_signed = found.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid(f"this is no signing request: {error}", pointer="/csr") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("the key has to be one of the curve P-256", pointer="/csr")
    if not is_signed:
        raise Invalid("the request is not signed by its own key", pointer="/csr")
    return key


def _loaded(certificate: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid(f"this is no certificate: {error}", pointer="/certificate") from error


def _digest_of(key: ec.EllipticCurvePublicKey) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_of(own: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = own.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("the authority's key is none of an elliptic curve") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
