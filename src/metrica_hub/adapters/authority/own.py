"""The hub's own certificate for the broker (``[bus] certificate_file``): read, and signed anew for the key it has.

The key stays. So one rename is all, and there is no moment at which the two do not fit together, not even for two hubs
that share the files. A new key would guard against nothing: who can read this one can read the authority's beside it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from metrica_fleet.errors import NotNow
from metrica_hub.adapters.authority.files import put
from metrica_hub.decisions.own_certificate import Own
from metrica_hub.errors import Invalid

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from metrica_hub.adapters.authority.signing import Authority


class OwnCertificate:
    """The file. Whatever is wrong with it is ``NotNow``: ``certificate-unusable``."""

    def __init__(self, file: Path, authority: Authority | None) -> None:
        """``authority``: the one that is held here; none: it is read, and renewed by somebody else."""
        self._file = file
        self._authority = authority

    async def held(self) -> Own:
        """Return what is in the file."""
        certificate = await asyncio.to_thread(self._read)
        return Own(
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            is_renewable=self._authority is not None and await self._authority.signed_this(_pem(certificate)),
        )

    async def renew(self, lasts: timedelta, now: datetime) -> Own:
        """Put one for the same name and key in its place; return that one.

        Raises:
            NotNow: ``certificate-unusable``, or ``authority-unusable``; the file is as it was.
        """
        if self._authority is None:
            raise self._unusable("the authority that signed it is not held here")
        certificate = await asyncio.to_thread(self._read)
        try:
            new = await self._authority.prolonged(_pem(certificate), lasts, now)
        except Invalid as error:
            raise self._unusable(error.message) from error
        await asyncio.to_thread(self._written, new)
        return await self.held()

    def _read(self) -> x509.Certificate:
        try:
            content = self._file.read_bytes()
            found = x509.load_pem_x509_certificates(content)
        except OSError as error:
            raise self._unusable(str(error.strerror)) from error
        except ValueError as error:
            raise self._unusable(str(error)) from error
        if len(found) != 1 or b"PRIVATE KEY" in content:
            raise self._unusable("more is in it than one certificate; put its key, or other certificates, elsewhere")
        return found[0]

    def _written(self, new: bytes) -> None:
        try:
            put(self._file.resolve(), new, 0o644)
        except OSError as error:
            raise self._unusable(f"it can't be written ({error.strerror}); let the hub write its folder") from error

    def _unusable(self, why: str) -> NotNow:
        return NotNow(f"[bus] certificate_file {self._file}: {why}", reason="certificate-unusable")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
