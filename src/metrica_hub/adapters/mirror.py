"""The Git repository whose branch the fleet follows: asks for one reference, in a thread, within a time.

No clone, no porcelain: one round trip by protocol v2 with a reference prefix (CONVENTIONS.md F6). The HTTP pool is our
own, because dulwich's has no timeout. dulwich's errors have no base class, and what a server sends reaches its parser
as it came: so whatever goes wrong there is ``NotNow``.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from dulwich.client import GitClient, get_transport_and_path
from dulwich.refs import Ref

from metrica_fleet.errors import NotNow
from metrica_fleet.identity import COMMIT_PATTERN, CommitId
from metrica_hub.adapters import aside

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=10.0)
_DEADLINE_S: Final = 20.0
_WEB: Final = ("http://", "https://")
_MAX_THREADS: Final = 3
_MAX_SAID: Final = 300
_HIDDEN: Final = "***"
_SECRETS: Final = ("pass", "token", "secret", "key", "auth")
_IN_QUERY: Final = re.compile(r"([^=&?]+)(=)([^&]*)")
_IN_WORDS: Final = re.compile(r"([\w.-]+)(\s*=\s*)('(?:[^'\\]|\\.)*(?:'|$)|(?:\\.|[^\s\\])*)")


class Mirror:
    """One branch of one repository. One question at a time."""

    def __init__(self, url: str, branch: str, *, deadline_s: float = _DEADLINE_S) -> None:
        self._url = url
        self._ref = Ref(f"refs/heads/{branch}".encode())
        self._branch = branch
        self._deadline_s = deadline_s
        self._threads: list[threading.Thread] = []
        self._made: tuple[GitClient, str] | None = None

    async def head(self) -> CommitId:
        """Return the branch's commit.

        Raises:
            NotNow: ``git-unreachable`` or ``no-such-branch``.
        """
        # A server that trickles, or one that is silent over git:// or ssh, holds its thread longer than the deadline.
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= _MAX_THREADS:
            raise NotNow(
                f"{redacted(self._url)} has left the last {_MAX_THREADS} questions open; no other until one ends",
                reason="git-unreachable",
            )
        question, thread = aside(self._ask, "mirror")
        self._threads.append(thread)
        try:
            async with asyncio.timeout(self._deadline_s):
                refs = await question
        except TimeoutError as error:
            raise self._silent() from error
        commit = (refs.get(self._ref) or b"").decode("ascii", "replace")
        if re.fullmatch(COMMIT_PATTERN, commit) is None:
            raise NotNow(f'{redacted(self._url)} has no branch "{self._branch}"', reason="no-such-branch")
        return CommitId(commit)

    def _ask(self) -> Mapping[Ref, bytes]:
        try:
            if self._made is None:
                self._made = _client(self._url)
            client, path = self._made
            result = client.get_refs(path.encode(), ref_prefix=[self._ref])
            return {ref: sha for ref, sha in result.refs.items() if sha is not None}
        except TimeoutError as error:
            raise self._silent() from error
        except Exception as error:
            what = f"{redacted(self._url)} can't be asked: {_said(error, self._url)}"
            raise NotNow(what, reason="git-unreachable") from error

    def _silent(self) -> NotNow:
        return NotNow(f"{redacted(self._url)} did not answer in time", reason="git-unreachable")


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


def _said(error: Exception, url: str) -> str:
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


def _client(url: str) -> tuple[GitClient, str]:
    if url.startswith(_WEB):
        pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=1)
        return get_transport_and_path(url, operation="pull", pool_manager=pool)
    return get_transport_and_path(url, operation="pull")
