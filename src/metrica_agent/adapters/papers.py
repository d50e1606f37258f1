"""The device's identity on its disk: a key and its certificate, the next pair while it is tried, the fleet's authority.

    identity/               mode 0700
        device.key -> current/device.key        EC P-256
        device.crt -> current/device.crt
        current -> pairs/…                      switched by one rename: key and certificate always fit
        next -> pairs/…                         asked for, and not yet taken by the broker
        pairs/…/device.key, device.crt
        ca.crt              the fleet's authority
        device.age          the age key that this device's secrets are encrypted to
        hub.json            where the hub is

Who writes it is ``metrica-agent enrol`` and ``renew`` (``metrica_agent.enrolling``); here it is read, and ``next`` made
``current`` once the broker took it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from metrica_agent.decisions.renewing import Papers
from metrica_agent.durable import Disk, in_thread
from metrica_fleet.enrolment import BRANCH, BusAddress
from metrica_fleet.errors import NotNow, Unusable

KEY: Final = "device.key"
CERTIFICATE: Final = "device.crt"
AUTHORITY: Final = "ca.crt"
AGE: Final = "device.age"
HUB: Final = "hub.json"
CURRENT: Final = "current"
NEXT: Final = "next"
PAIRS: Final = "pairs"
_ANSWER_S: Final = 10.0
_RENEWED_S: Final = 100.0
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Hub(msgspec.Struct, frozen=True, kw_only=True):
    """``hub.json``: what the hub said at the enrolment."""

    url: str
    fleet: str
    device: str
    bus: BusAddress
    remotes: tuple[str, ...] = ()
    branch: str = BRANCH


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ``metrica-agent renew --json`` prints."""

    error: Literal["", "unusable", "not-now"] = ""
    reason: str = ""
    message: str = ""


class Identity:
    """The folder, for an agent that runs."""

    def __init__(self, folder: Path, authority: str | None, disk: Disk | None = None) -> None:
        """``authority``: the file of the authority that the broker's certificate is of."""
        self._folder = folder
        self._authority = authority
        self._disk = disk or Disk()
        self._shown = CURRENT
        """Which pair the last connection was begun with."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    def context(self) -> ssl.SSLContext:
        """Return what a connection to the broker is made with: the next pair and the present one in turns.

        Raises:
            NotNow: ``bus-credentials``: something can't be read.
        """
        turn = NEXT if self._shown == CURRENT and self.has_next() else CURRENT
        self._shown = turn
        return mutual(self._authority, self._folder / turn / CERTIFICATE, self._folder / turn / KEY)

    def has_next(self) -> bool:
        """Whether there is a pair that the broker has not seen yet."""
        return (self._folder / NEXT / CERTIFICATE).is_file()

    async def taken(self) -> bool:
        """Note that the broker took what was shown last; true when that makes the next pair the present one.

        Raises:
            NotNow: the disk.
        """
        if self._shown != NEXT or not self.has_next():
            return False
        await in_thread(self._promote)
        self._shown = CURRENT
        return True

    async def ask(self) -> None:
        """Get the next certificate, by a process of its own: what that takes of memory is given back with it.

        Raises:
            NotNow: the hub can't be reached, or not now.
            Unusable: the hub refuses.
        """
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "metrica_agent", "renew", "--json", "--identity-dir", str(self._folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_RENEWED_S):
                said, _ = await child.communicate()
        except TimeoutError as error:
            raise NotNow("the hub gave no certificate in time", reason="renewal-timeout") from error
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        try:
            outcome = msgspec.json.decode(said, type=Outcome)
        except msgspec.DecodeError as error:
            message = f"metrica-agent renew ended with {child.returncode} and said nothing that can be read"
            raise NotNow(message, reason="renewal-failed") from error
        match outcome.error:
            case "":
                return
            case "unusable":
                raise Unusable(outcome.message, reason=outcome.reason)
            case _:
                raise NotNow(outcome.message, reason=outcome.reason)

    def _promote(self) -> None:
        promote(self._folder, self._disk)

    async def papers(self) -> Papers | None:
        """Return the present certificate; ``None``: there is none that openssl can read."""
        file = self._folder / CERTIFICATE
        if not file.is_file():
            return None
        return await papers_of(file)


def promote(folder: Path, disk: Disk) -> None:
    """Make the next pair the present one, by one rename, and clear away the others."""
    pair = (folder / NEXT).readlink()
    disk.point("promote", folder / CURRENT, str(pair))
    disk.unlink("promote", folder / NEXT)
    for name in (KEY, CERTIFICATE):
        if not (folder / name).is_symlink():
            disk.point("promote", folder / name, f"{CURRENT}/{name}")
    for other in (folder / PAIRS).iterdir():
        if Path(PAIRS, other.name) != pair:
            disk.remove("promote", other)


def mutual(authority: str | None, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a connection on which both sides show a certificate: TLS 1.3 and nothing older.

    Raises:
        NotNow: ``bus-credentials``: a file can't be read.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.sslsocket_class = Telling
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # one of ssl's, too
        message = f"{certificate}: the device's certificate can't be used: {getattr(error, 'strerror', None) or error}"
        raise NotNow(f"{message}; metrica-agent enrol", reason="bus-credentials") from error
    return context


class Telling(ssl.SSLSocket):
    """A TLS connection that remembers what the other side said last: in TLS 1.3 a refusal comes after the handshake."""

    alert: str = ""
    """OpenSSL's name of it; empty: nothing was said."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read, as ever."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.alert = error.reason or str(error)
            raise


async def papers_of(file: Path) -> Papers | None:
    """Return what is in a certificate; ``None``: openssl can't read it."""
    child = await asyncio.create_subprocess_exec(
        *("openssl", "x509", "-in", str(file), "-noout", "-serial", "-startdate", "-enddate"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    )
    try:
        async with asyncio.timeout(_ANSWER_S):
            said, _ = await child.communicate()
    except TimeoutError:
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return read_papers(said.decode("ascii", "replace")) if child.returncode == 0 else None


def read_papers(said: str) -> Papers | None:
    """Return what openssl printed of a certificate: ``serial=``, ``notBefore=`` and ``notAfter=``."""
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    try:
        return Papers(
            serial=found["serial"].lower(),
            not_before=_date(found["notBefore"]),
            not_after=_date(found["notAfter"]),
        )
    except (KeyError, ValueError):
        return None


def _date(text: str) -> datetime:
    """Return ``Nov 29 23:45:37 2026 GMT`` as a time: without ``strptime``, which takes 0.4 MiB for good."""
    month, day, clock, year, zone = text.split()
    if zone != "GMT":
        raise ValueError(text)
    hour, minute, second = (int(part) for part in clock.split(":"))
    return datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC)
