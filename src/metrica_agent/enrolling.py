"""``metrica-agent enrol`` and ``renew``: a key of the device's own, and a certificate of it from the hub.

Each is a short process. A power cut anywhere leaves what a repetition finishes: the key is on the disk before the hub
hears of it, and the hub answers the same key with the same certificate.

Whom we talk to: at the enrolment the hub, by the system's authorities or by the fingerprint in the pasted line, for a
token is shown to it, and its word is taken for who the fleet's authority is. At a renewal nobody's word is taken: what
is sent is public and signed by the present key, and what is answered is good only if the fleet's authority, which is
known here, signed it for the new key. So TLS is not verified there: the hub's certificate may have expired, or not be
valid by the device's clock, and the device comes back all the same.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from metrica_agent.adapters.clock import kernel_boot_id
from metrica_agent.adapters.papers import (
    AGE,
    AUTHORITY,
    CERTIFICATE,
    HUB,
    KEY,
    NEXT,
    PAIRS,
    Hub,
    Outcome,
    promote,
)
from metrica_agent.durable import Disk
from metrica_fleet.enrolment import (
    ENROLMENTS,
    FINGERPRINT_PATTERN,
    RENEWALS,
    WORD_PATTERN,
    Enrolled,
    Enrolment,
    Renewal,
    Renewed,
    renewal_text,
)
from metrica_fleet.errors import FleetError, NotNow, Unusable

if TYPE_CHECKING:
    import argparse

VARIABLE: Final = "METRICA_ENROLMENT_TOKEN"
"""Where the token is looked for that is not on the command line, which everybody on the machine can read."""
_PATIENCE_S: Final = 30.0
_MOST_BYTES: Final = 64 * 1024
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_OK: Final = 200
_SECRET: Final = 0o600
_T = TypeVar("_T")


def enrol(asked: argparse.Namespace) -> int:
    """Enrol this device, and say who it is."""
    token = asked.token or os.environ.get(VARIABLE) or sys.stdin.readline()
    hub = Address.of(asked.url, pin=asked.pin, plain=asked.plain)
    found = enrolled(asked.identity_dir, hub, token.strip())
    if asked.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(f"this device is {found.device} of fleet {found.fleet}; its identity is in {asked.identity_dir}")
    return 0


def renew(asked: argparse.Namespace) -> int:
    """Get the next certificate; the agent connects with it, and keeps the present one until then."""
    try:
        renewed(asked.identity_dir)
    except FleetError as error:
        if not asked.json:
            raise
        kind = "unusable" if isinstance(error, Unusable) else "not-now"
        print(msgspec.json.encode(Outcome(error=kind, reason=error.reason, message=error.message)).decode())
        return 1
    print(msgspec.json.encode(Outcome()).decode() if asked.json else "the next certificate is here")
    return 0


# --- the two of them --------------------------------------------------------------------------------------------


def enrolled(folder: Path, hub: Address, token: str, disk: Disk | None = None) -> Hub:
    """Make a key, have the hub sign for it, and keep both in ``folder``; the same again for the same token.

    Raises:
        Unusable: ``token-…``, or what the hub says; ``foreign-certificate``: what it answers is not for us.
        NotNow: the hub can't be reached, or openssl can't be run; ask again.
    """
    if not _matches(WORD_PATTERN, token):
        raise Unusable("that is no enrolment token: one begins with mte_ and has 47 characters", reason="token-unknown")
    disk = disk or Disk()
    _folder(folder, disk)
    recipient = _age_key(folder, disk)
    # Of this token: whoever comes again with it comes with the same key.
    name = hashlib.sha256(token.encode()).hexdigest()[:16]
    pair = folder / PAIRS / name
    key = _key(pair, disk)
    body = Enrolment(token=token, csr=_request(key), recipient=recipient, boot=kernel_boot_id())
    answer = _asked(hub, ENROLMENTS, body, Enrolled)
    _require_ours(answer.certificate, answer.authority, key)
    disk.replace("enrol", pair / CERTIFICATE, answer.certificate.encode())
    disk.replace("enrol", folder / AUTHORITY, answer.authority.encode())
    known = Hub(
        url=hub.url,
        fleet=answer.fleet,
        device=answer.device,
        bus=answer.bus,
        remotes=answer.remotes,
        branch=answer.branch,
    )
    disk.replace("enrol", folder / HUB, msgspec.json.encode(known))
    disk.point("enrol", folder / NEXT, f"{PAIRS}/{name}")
    promote(folder, disk)
    return known


def renewed(folder: Path, disk: Disk | None = None) -> None:
    """Have the hub sign for a new key, by a signature of the present one; keep both as the next pair.

    Raises:
        Unusable: ``not-enrolled``, or what the hub says: ``too-early``, ``certificate-revoked`` …
        NotNow: the hub can't be reached, or openssl can't be run; ask again.
    """
    disk = disk or Disk()
    try:
        known = msgspec.json.decode((folder / HUB).read_bytes(), type=Hub)
        authority = (folder / AUTHORITY).read_text(encoding="ascii")
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise Unusable(
            f"{folder}: this device was never enrolled: metrica-agent enrol", reason="not-enrolled"
        ) from error
    if (folder / NEXT / CERTIFICATE).is_file():
        promote(folder, disk)  # to the hub that is the present one, whatever the broker said of it
    present, pair = folder / KEY, folder / NEXT
    if not pair.is_dir():
        name = secrets.token_hex(8)
        _key(folder / PAIRS / name, disk)
        disk.point("renew", pair, f"{PAIRS}/{name}")
    key = _key(folder / pair.readlink(), disk)
    csr = _request(key)
    signature = _openssl("dgst", "-sha256", "-sign", str(present), said=renewal_text(csr))
    body = Renewal(
        certificate=(folder / CERTIFICATE).read_text(encoding="ascii"),
        csr=csr,
        signature=base64.b64encode(signature).decode(),
    )
    answer = _asked(Address.of(known.url, pin=None, plain=True), RENEWALS, body, Renewed, is_verified=False)
    _require_ours(answer.certificate, authority, key)
    disk.replace("renew", folder / pair.readlink() / CERTIFICATE, answer.certificate.encode())


# --- keys and certificates, by openssl --------------------------------------------------------------------------


def _folder(folder: Path, disk: Disk) -> None:
    try:
        disk.directory(folder, 0o700)
        folder.chmod(0o700)
    except OSError as error:
        message = f"{folder}: {error.strerror}; enrol as root, or name another folder (--identity-dir)"
        raise Unusable(message, reason="identity-dir") from error


def _key(pair: Path, disk: Disk) -> Path:
    key = pair / KEY
    if not key.is_file():
        disk.directory(pair, 0o700)
        made = _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        disk.replace("key", key, made, _SECRET)
    return key


def _request(key: Path) -> str:
    return _openssl("req", "-new", "-key", str(key), "-subj", "/CN=device").decode("ascii")


def _age_key(folder: Path, disk: Disk) -> str:
    """Return the public half of the device's age key; made once, and kept by every enrolment after that."""
    import pyrage  # noqa: PLC0415 - renewing does without

    file = folder / AGE
    if not file.is_file():
        disk.replace("age", file, f"{pyrage.x25519.Identity.generate()}\n".encode(), _SECRET)
    try:
        return str(pyrage.x25519.Identity.from_str(file.read_text(encoding="ascii").strip()).to_public())
    except Exception as error:  # pyrage has a class of its own for each way to be wrong
        raise Unusable(f"{file}: it is no age key; move it away, and enrol again", reason="age-key") from error


def _require_ours(certificate: str, authority: str, key: Path) -> None:
    """Make sure that what was answered is a certificate of our key, by the fleet's authority."""
    of_key = _openssl("pkey", "-in", str(key), "-pubout")
    of_certificate = _openssl("x509", "-noout", "-pubkey", said=certificate.encode())
    if of_key != of_certificate:
        raise Unusable("the hub answered with a certificate of another key", reason="foreign-certificate")
    file = key.with_name(".authority")
    file.write_text(authority, encoding="ascii")
    try:
        # The time is not looked at: our clock may be wrong, and the broker's is the one that counts.
        arguments = ("-no_check_time", "-purpose", "sslclient", "-CAfile", str(file), "-no-CApath", "-no-CAstore")
        _openssl("verify", *arguments, said=certificate.encode())
    except NotNow as error:
        message = "the hub answered with a certificate that is not of the fleet's authority"
        raise Unusable(message, reason="foreign-certificate") from error
    finally:
        file.unlink(missing_ok=True)


def _openssl(*arguments: str, said: bytes | None = None) -> bytes:
    if shutil.which("openssl") is None:
        raise NotNow("openssl is missing: apt-get install openssl", reason="openssl")
    try:
        done = subprocess.run(
            ("openssl", *arguments),
            input=said,
            stdin=subprocess.DEVNULL if said is None else None,
            capture_output=True,
            check=False,
            timeout=_PATIENCE_S,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/nonexistent"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotNow(f"openssl {arguments[0]} can't be run: {error}", reason="openssl") from error
    if done.returncode:
        said_last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
        raise NotNow(f"openssl {arguments[0]} failed: {said_last[0]}", reason="openssl")
    return done.stdout


# --- the hub ------------------------------------------------------------------------------------------------------


class _Problem(msgspec.Struct, frozen=True):
    """What a hub says that refuses."""

    type: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the hub is, and how it is known."""

    url: str
    host: str
    port: int | None
    path: str
    is_tls: bool
    pin: str | None

    @classmethod
    def of(cls, url: str, *, pin: str | None, plain: bool) -> Address:
        """Return what ``url`` says; ``plain``: even if that is http, over a network that is trusted.

        Raises:
            Unusable: ``bad-address``.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise Unusable(f"{url} is no address of a hub: {error}", reason="bad-address") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
            raise Unusable(f"{url} is no address of a hub; it is like https://hub.example.org", reason="bad-address")
        if parts.scheme == "http" and not plain and parts.hostname not in _LOOPBACK:
            message = f"{url} is plain http: whoever listens has the token; say --plain on a network that you trust"
            raise Unusable(message, reason="bad-address")
        digest = None if pin is None else pin.removeprefix("sha256:").replace(":", "").lower()
        if digest is not None and (not _matches(FINGERPRINT_PATTERN, digest) or parts.scheme == "http"):
            message = f"--pin {pin} is no fingerprint of an https certificate: sha256: and 64 hexadecimal digits"
            raise Unusable(message, reason="bad-address")
        return cls(url, parts.hostname, port, parts.path.rstrip("/"), parts.scheme == "https", digest)


def _asked(hub: Address, path: str, body: Enrolment | Renewal, kind: type[_T], *, is_verified: bool = True) -> _T:
    """Return what the hub answers.

    Raises:
        Unusable: it refuses, by the reason that it says.
        NotNow: it can't be reached, or not now.
    """
    connection = _connected(hub, is_verified=is_verified)
    try:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request("POST", hub.path + path, msgspec.json.encode(body), headers)
        response = connection.getresponse()
        status, content = response.status, response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise NotNow(f"{hub.url} does not answer: {error or type(error).__name__}", reason="hub-unreachable") from error
    finally:
        connection.close()
    if status != _OK:
        raise _refusal(hub, status, content)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unusable(f"{hub.url} is no hub that enrols devices: {error}", reason="no-hub") from error


def _connected(hub: Address, *, is_verified: bool) -> http.client.HTTPConnection:
    if not hub.is_tls:
        connection = http.client.HTTPConnection(hub.host, hub.port, timeout=_PATIENCE_S)
    else:
        context = ssl.create_default_context()
        if is_verified:  # a renewal says nothing that is secret, and must not depend on what stands before the hub
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        if hub.pin is not None or not is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(hub.host, hub.port, timeout=_PATIENCE_S, context=context)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        message = f"{hub.url}: its certificate is not one that this machine trusts: {error.verify_message}"
        raise NotNow(f"{message}; the clock may be wrong, or say --pin sha256:…", reason="hub-untrusted") from error
    except ssl.SSLError as error:
        message = f"{hub.url} can't be reached: {error.reason or error}; it has to speak TLS 1.3"
        raise NotNow(message, reason="hub-unreachable") from error
    except OSError as error:
        raise NotNow(f"{hub.url} can't be reached: {error}", reason="hub-unreachable") from error
    if hub.pin is not None:
        _require_pinned(hub, connection)
    return connection


def _require_pinned(hub: Address, connection: http.client.HTTPConnection) -> None:
    """Make sure, before a word is said, that it is the hub of the pasted line."""
    sock = connection.sock
    shown = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    digest = "none" if shown is None else hashlib.sha256(shown).hexdigest()
    if not secrets.compare_digest(digest, hub.pin or ""):
        connection.close()
        message = f"{hub.url} shows another certificate than the pasted line says (sha256:{digest})"
        raise Unusable(f"{message}: it is renewed since, or somebody is in between", reason="hub-untrusted")


def _refusal(hub: Address, status: int, content: bytes) -> FleetError:
    said = _Problem()
    with suppress(ValueError, msgspec.MsgspecError):
        said = msgspec.json.decode(content, type=_Problem)
    message = f"{hub.url}: {said.detail or f'it answered {status}'}"
    reason = said.type.rpartition("/")[2] or f"http-{status}"
    if status in _AGAIN:
        return NotNow(message, reason=reason)
    return Unusable(message, reason=reason)


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
