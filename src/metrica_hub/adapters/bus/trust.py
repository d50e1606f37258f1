"""TLS to the broker: what a connection is secured by, and what it means where that comes to nothing."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Final

from metrica_hub.errors import BusAway

REISSUE: Final = "metrica-hub authority --issue hub --into FOLDER"
"""What makes a certificate of the hub."""
_HANDSHAKE_S: Final = 10.0
_WORD_S: Final = 1.0
_REFUSAL: Final = re.compile("ALERT.*(CERTIFICATE|UNKNOWN_CA)")


def secured(authority: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Return what a connection is made with: TLS 1.3 and nothing older, by the files that ``[bus]`` names.

    Raises:
        BusAway: ``credentials``: a file can't be used; it is read again at the next connection.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:  # one of ssl's, too
        message = f"[bus] ca_file {authority}: the broker's authority can't be read ({_why(error)})"
        raise BusAway(f"{message}; mend its path or permissions", reason="credentials") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:
            message = f"[bus] certificate_file {certificate} and certificate_key_file {key} can't be used"
            raise BusAway(f"{message} ({_why(error)}); {REISSUE}", reason="credentials") from error
    return context


def unopened(where: str, error: Exception, *, by_tls: bool) -> BusAway:
    """Return what it means that no connection came to be."""
    match error:
        case ssl.SSLCertVerificationError():
            message = f"the broker at {where} shows a certificate that is not trusted ({error.verify_message})"
            way_out = "[bus] ca_file has to be the authority that signed it, and host a name in it"
            return BusAway(f"{message}; {way_out}", reason="untrusted")
        case ssl.SSLError() | ConnectionResetError() if by_tls:
            message = f"the broker at {where} does not speak TLS 1.3 with us ({_why(error)})"
            return BusAway(f"{message}; [bus] port has to be that of its listener by TLS", reason="untrusted")
        case _:
            return BusAway(f"no connection to the broker at {where}: {error or 'no answer'}")


def closed(error: Exception | None) -> BusAway:
    """Return what it means that the broker closed the connection. In TLS 1.3 it refuses a certificate only then."""
    if isinstance(error, ssl.SSLError) and _REFUSAL.search(error.reason or ""):
        message = (
            f"the broker refuses our certificate ({_why(error)}): it has ended, was revoked, or is of another fleet"
        )
        return BusAway(message, reason="refused")
    return BusAway(f"the broker closed the connection{f': {error}' if error else ''}")


async def refusal(host: str, port: int, context: ssl.SSLContext) -> BusAway | None:
    """Return why the broker refuses our certificate; ``None``: it does not, as far as it says.

    In TLS 1.3 it says so after the handshake, and whoever has spoken by then may hear of a reset instead. So nothing is
    said here: a broker that takes us waits for our greeting.
    """
    writer = None
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        async with asyncio.timeout(_WORD_S):
            await reader.read(1)
    except TimeoutError:
        return None
    except OSError as error:  # one of ssl's, too
        found = closed(error)
        return BusAway(f"{found.message}; {REISSUE}", reason="refused") if found.reason == "refused" else None
    finally:
        if writer is not None:
            writer.transport.abort()
    return None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
