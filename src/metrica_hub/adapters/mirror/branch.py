"""The branch: asks for one reference, in a thread, within a time.

No clone, no porcelain: one round trip by protocol v2 with a reference prefix (CONVENTIONS.md F6). dulwich's errors have
no base class, and what a server sends reaches its parser as it came: so whatever goes wrong there is ``NotNow``.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from dulwich.refs import Ref

from metrica_fleet.errors import NotNow
from metrica_fleet.identity import COMMIT_PATTERN, CommitId
from metrica_hub.adapters import aside
from metrica_hub.adapters.mirror.address import client_of, redacted, said

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from dulwich.client import GitClient

_DEADLINE_S: Final = 20.0
_MAX_THREADS: Final = 3


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
                self._made = client_of(self._url)
            client, path = self._made
            result = client.get_refs(path.encode(), ref_prefix=[self._ref])
            return {ref: sha for ref, sha in result.refs.items() if sha is not None}
        except TimeoutError as error:
            raise self._silent() from error
        except Exception as error:
            what = f"{redacted(self._url)} can't be asked: {said(error, self._url)}"
            raise NotNow(what, reason="git-unreachable") from error

    def _silent(self) -> NotNow:
        return NotNow(f"{redacted(self._url)} did not answer in time", reason="git-unreachable")
