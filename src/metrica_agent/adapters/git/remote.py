"""Where a remote is: its address in parts, and its name for people, which never holds a credential."""

from __future__ import annotations

import re
from base64 import b64encode
from enum import Enum
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from metrica_fleet.errors import Unusable

_SCP: Final = re.compile(r"^(?:(?P<user>[\w.+-]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+):(?P<path>(?!//).+)$")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "git": 9418, "ssh": 22}


class Kind(Enum):
    """The ways to reach a repository."""

    HTTP = "http"
    HTTPS = "https"
    SSH = "ssh"
    GIT = "git"
    FILE = "file"


class Remote:
    """One remote. ``str`` and ``repr`` are safe to print; ``authorization`` is not.

    Attributes:
        kind: How to reach it.
        host: Host name or address; empty for a folder.
        port: Port number; 0 for a folder.
        user: Login name over SSH; empty for ssh's own default.
        path: Path of the repository at the host; over HTTP without a slash at the end.
        label: The address as people may see it.
        authorization: The HTTP header that goes with it, or ``None``.
    """

    def __init__(self, url: str) -> None:
        """Take ``url`` apart.

        Raises:
            Unusable: ``bad-remote``, when it is none of https, http, ssh, git, file, ``user@host:path`` or a path.
        """
        self.user = ""
        self.authorization: str | None = None
        if "://" in url:
            self._take_url(url)
        elif url.startswith(("/", ".")):
            self.kind, self.host, self.port, self.path, self.label = Kind.FILE, "", 0, url, url
        else:
            self._take_scp(url)
        if self.host.startswith("-") or self.user.startswith("-") or any(ord(char) < ord(" ") for char in self.path):
            raise Unusable(f'remote "{self.label}" is no address; look for stray characters in it', reason="bad-remote")

    def _take_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
            self.kind = Kind("ssh" if parts.scheme == "git+ssh" else parts.scheme)
        except ValueError:
            raise Unusable(
                f'remote "{_masked(url)}" can\'t be read; use https://, ssh://, user@host:path, git:// or file://',
                reason="bad-remote",
            ) from None
        if self.kind is Kind.FILE:
            self.host, self.port, self.path = "", 0, unquote(parts.path)
            self.label = f"file://{self.path}"
            return
        if not parts.hostname:
            raise Unusable(
                f'remote "{_masked(url)}" names no host; use {self.kind.value}://host/path',
                reason="bad-remote",
            )
        self.host, self.port = parts.hostname, port or _DEFAULT_PORTS[self.kind.value]
        self._take_access(parts)
        shown = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        self.label = f"{self.kind.value}://{user}{shown}{f':{port}' if port else ''}{self.path}"

    def _take_access(self, parts: SplitResult) -> None:
        if self.kind in (Kind.HTTP, Kind.HTTPS):
            self.path = parts.path.rstrip("/")
            if parts.username is not None:
                secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                self.authorization = f"Basic {b64encode(secret).decode()}"
            return
        self.path = unquote(parts.path)
        if self.kind is Kind.SSH:
            self.user = unquote(parts.username or "")
            self.path = self.path.removeprefix("/") if self.path.startswith("/~") else self.path

    def _take_scp(self, url: str) -> None:
        found = _SCP.match(url)
        if found is None:
            raise Unusable(
                f'remote "{_masked(url)}" is no address; use https://, ssh://, user@host:path, git:// or file://',
                reason="bad-remote",
            )
        self.kind, self.host, self.port = Kind.SSH, found["host"].strip("[]"), _DEFAULT_PORTS["ssh"]
        self.user, self.path, self.label = found["user"] or "", found["path"], url

    @property
    def base_url(self) -> str:
        """The address over HTTP without credentials and query, no slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind.value}://{host}:{self.port}{self.path}"

    def __str__(self) -> str:
        return self.label

    def __repr__(self) -> str:
        return f"Remote({self.label!r})"


def _masked(url: str) -> str:
    """Return ``url`` without what may be a credential: everything before an ``@``, and the query."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
