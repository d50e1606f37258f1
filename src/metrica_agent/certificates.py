"""Whom this device trusts in TLS: the system's certificate authorities, in one context for everything that asks.

They are read as they are asked for, where the system has them in a folder by their hash, as Debian's
update-ca-certificates does. Its file holds all of them: 2.4 MB for as long as the agent lives.
"""

from __future__ import annotations

import re
import ssl
from functools import cache
from pathlib import Path
from typing import Final

_BY_HASH: Final = re.compile(r"[0-9a-f]{8}\.\d+")
_BEGINNING: Final = b"-----BEGIN CERTIFICATE-----"


@cache
def trust(ca_file: str | None, *, newest: bool = False) -> ssl.SSLContext:
    """Return the one context of all that trust ``ca_file``, or the system where there is none.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` stand in the place of the system's. With ``newest`` nothing older than
    TLS 1.3 is spoken: to what is the fleet's own. Git hosts and workloads are others', and may know no more than 1.2.
    """
    if ca_file is not None:
        context = ssl.create_default_context(cafile=ca_file)
    else:
        context = ssl.create_default_context(capath=sufficient_folder(ssl.get_default_verify_paths()))
    if newest:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def sufficient_folder(places: ssl.DefaultVerifyPaths) -> str | None:
    """Return the folder where it makes the file unnecessary: it has as many, and nobody named another file."""
    file, folder = places.cafile, places.capath
    if not folder or (file and file != places.openssl_cafile):
        return None
    try:
        in_folder = sum(_BY_HASH.fullmatch(one.name) is not None for one in Path(folder).iterdir())
        in_file = Path(file).read_bytes().count(_BEGINNING) if file else 1
    except OSError:
        return None
    return folder if in_folder >= in_file else None
