"""A repository's address: a client for it, and what of it may be told.

The HTTP pool is our own, because dulwich's has no timeout.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from dulwich.client import GitClient, get_transport_and_path

_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=10.0)
_WEB: Final = ("http://", "https://")
_MAX_SAID: Final = 300
_HIDDEN: Final = "***"
_SECRETS: Final = ("pass", "token", "secret", "key", "auth")
_IN_QUERY: Final = re.compile(r"([^=&?]+)(=)([^&]*)")
_IN_WORDS: Final = re.compile(r"([\w.-]+)(\s*=\s*)('(?:[^'\\]|\\.)*(?:'|$)|(?:\\.|[^\s\\])*)")


def client_of(url: str) -> tuple[GitClient, str]:
    """Return a client for ``url``, and the path to ask it for."""
    if url.startswith(_WEB):
        pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=1)
        return get_transport_and_path(url, operation="pull", pool_manager=pool)
    return get_transport_and_path(url, operation="pull")


def redacted(url: str) -> str:
    """Return ``url``, or a database's ``key=value`` words, without what may be a secret in it."""
    if "://" not in url:
        return _IN_WORDS.sub(_hidden, url)
    try:
        parts = urlsplit(url)
    except ValueError:
        return _HIDDEN
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return f"{parts.scheme}://{_HIDDEN}"  # a "/" or "#" in a password: nobody knows where it ends
    user, _, host = parts.netloc.rpartition("@")
    hidden = f"{_HIDDEN}@{host}" if user else host
    query = _IN_QUERY.sub(_hidden, parts.query)
    fragment = _HIDDEN if parts.fragment else ""
    return urlunsplit(parts._replace(netloc=hidden, query=query, fragment=fragment))


def _hidden(found: re.Match[str]) -> str:
    key, equals = found[1], found[2]
    is_secret = any(word in unquote(key).lower() for word in _SECRETS)
    return f"{key}{equals}{_HIDDEN}" if is_secret else found[0]


def said(error: Exception, url: str) -> str:
    """Return one line of what ``error`` says, without the secrets of ``url``, which a library may repeat."""
    text = " ".join(str(error).split()) or type(error).__name__
    if redacted(url) == url:
        return text[:_MAX_SAID]
    try:
        parts = urlsplit(url)
        repeated = (url, parts.netloc, parts.query, parts.password)
    except ValueError:
        return type(error).__name__
    for part in repeated:
        text = text.replace(part, _HIDDEN) if part else text
    return text[:_MAX_SAID]
