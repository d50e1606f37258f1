"""The agent's side of Git: polls in a thread, everything that touches a pack in a child that can be killed."""

from __future__ import annotations

import asyncio
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

from msgspec import structs

from metrica_agent.adapters.git import leftovers, orders, troubles
from metrica_agent.adapters.git.nursery import Nursery
from metrica_agent.adapters.git.poll import line_to
from metrica_agent.adapters.git.remote import Remote
from metrica_agent.decisions.lineage import Relation
from metrica_agent.decisions.trust import DISTRUSTED
from metrica_agent.durable import in_thread
from metrica_fleet.errors import NotNow, Ours, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metrica_agent.adapters.git.poll import Line
    from metrica_agent.decisions.trust import Proof
    from metrica_fleet.identity import CommitId

Isolation = Literal["process", "thread"]
_T = TypeVar("_T")
_NOT_SO_MUCH: Final = frozenset({"commit-missing", "fetch-too-large"})
"""Said by a remote or a bound where only the newest commit can be had."""


class GitMirror:
    """A bare, shallow mirror of one branch, and the remotes that it is filled from.

    The mirror is a cache, not a record: what it can't prove is asked from the remote again, and when it is broken, too
    large or lost, it is made anew, shallow, at the commit that the caller has. Calls that touch it run one at a time.
    """

    def __init__(
        self,
        path: Path,
        *,
        branch: str = "main",
        ssh: orders.SshOptions | None = None,
        ca_file: Path | None = None,
        bounds: orders.Bounds | None = None,
        isolation: Isolation = "process",
    ) -> None:
        """Describe the mirror; nothing is touched before the first call.

        Args:
            path: Folder of the bare repository; made when it is missing. Its parent must exist.
            branch: The one branch that is followed.
            ssh: Key and known hosts for ssh remotes.
            ca_file: Certificates to trust for https, in place of the system's.
            bounds: What polls, fetches and exports may cost.
            isolation: ``process`` for remotes that may be hostile; ``thread``, without deadline and memory bound, for
                many simulated devices on a repository that is trusted.
        """
        self._path = path
        self._branch = branch
        self._ssh = ssh or orders.SshOptions()
        self._ca_file = str(ca_file) if ca_file else None
        self._bounds = bounds or orders.Bounds()
        self._isolation: Isolation = isolation
        self._nursery = Nursery()
        self._one_at_a_time = asyncio.Lock()
        self._polls: dict[str, _Poll] = {}
        self._behind: dict[str, tuple[CommitId, CommitId | None]] = {}

    async def head(self, url: str) -> CommitId:
        """Return the branch's commit at ``url``: one round trip, within ``poll_s`` whatever the server does.

        Raises:
            NotNow: ``git-*``, ``rate-limited`` or ``branch-missing``.
            Unusable: ``bad-remote``.
        """
        poll = self._polls.get(url)
        if poll is None:
            poll = self._polls[url] = _Poll(Remote(url), self._new_line)
        found = await poll.head(self._branch, self._bounds.poll_s)
        if found is None:
            raise troubles.branch_missing(poll.remote, self._branch)
        return found

    def _new_line(self, remote: Remote) -> Line:
        return line_to(remote, ssh=self._ssh, seconds=self._bounds.poll_s, ca_file=self._ca_file)

    async def fetch(
        self,
        url: str,
        commit: CommitId,
        have: CommitId | None,
        *,
        signers: str | None = None,
        within_s: float | None = None,
    ) -> Relation:
        """Bring ``commit`` into the mirror and return how it stands to ``have``, the commit accepted last.

        After FIRST, SAME and FORWARD the commit is complete in the mirror. After BEHIND it need not be there; after
        DIVERGED and UNPROVEN it is not: a refused history leaves nothing behind. To take such a commit all the same
        (an operator allowed it), fetch it with ``have=None``.

        Args:
            url: The remote.
            commit: What its branch points at.
            have: The commit accepted last, if any.
            signers: The ``allowed_signers`` in force, when FIRST and FORWARD are to be signed by one of them.
            within_s: The deadline, where it is not ``fetch_s``.

        Raises:
            NotNow: ``git-*``, ``commit-missing``, ``fetch-too-large``, ``mirror-busy``, ``disk-full`` or
                ``signatures-unverifiable``.
            Unusable: ``bad-remote``, ``signature-missing``, ``signature-bad``, ``signer-unknown`` or
                ``signers-unusable``; nothing of the commit is left.
        """
        bounds = self._bounds if within_s is None else structs.replace(self._bounds, fetch_s=within_s)
        if self._behind.get(url) == (commit, have):
            return Relation.BEHIND  # for ever true; a remote that lags for days costs no child at every poll
        answer = await self._carried_out(
            orders.Fetch(
                mirror=str(self._path),
                branch=self._branch,
                url=url,
                commit=commit,
                have=have,
                signers=signers,
                ssh=self._ssh,
                ca_file=self._ca_file,
                bounds=bounds,
            ),
            f"{Remote(url)} for {commit[:8]}",
        )
        if isinstance(answer, orders.Related):
            if answer.relation is Relation.BEHIND:
                self._behind[url] = (commit, have)
            return answer.relation
        raise _unexpected(answer)

    async def try_fetch(
        self, url: str, have: CommitId | None, *, proof: Proof | None = None, within_s: float
    ) -> CommitId:
        """Fetch what ``url`` has now, as any new commit is fetched, into a mirror that is thrown away; return it.

        That shows that this agent can be brought another commit. With ``have`` it is that commit first, and then what
        came after it; a remote that does not give so much gives the newest commit alone. With ``proof`` it shows that
        this agent can tell whose a commit is: what came is signed by whom ``proof`` asks for, or where it is not, and
        so will be refused, the accepted commit is. The mirror stays as it is. At most half of what is free on the disk
        is taken.

        Args:
            url: The remote.
            have: A commit that came before, if one is known.
            proof: What signatures are measured by; ``None``: commits need none.
            within_s: The deadline, for all of it.

        Raises:
            NotNow, Unusable, Ours: See ``fetch``.
        """
        try:
            async with asyncio.timeout(within_s):
                commit = await self.head(url)
                async with self._one_at_a_time:
                    await self._fetch_in_vain(url, commit, have if have != commit else None, proof, within_s)
        except TimeoutError:
            raise troubles.timed_out(Remote(url), "a fetch", within_s) from None
        return commit

    async def _fetch_in_vain(
        self, url: str, commit: CommitId, have: CommitId | None, proof: Proof | None, within_s: float
    ) -> None:
        # An agent of any age clears this place before it fetches: it is where a mirror is made anew.
        scratch = leftovers.beside(self._path, "new")
        try:
            free_bytes = await _in_thread(lambda: _emptied(scratch))
            most = min(self._bounds.fetch_bytes, free_bytes // 4)  # what comes in is there twice for a moment
            order = orders.Fetch(
                mirror=str(scratch / self._path.name),
                branch=self._branch,
                url=url,
                commit=commit,
                have=have,
                signers=None,  # what comes after ``have`` may be signed by those before the ones of ``proof``
                ssh=self._ssh,
                ca_file=self._ca_file,
                bounds=structs.replace(self._bounds, fetch_s=within_s, fetch_bytes=most),
            )
            what = f"{Remote(url)} for {commit[:8]}"
            try:
                await self._answered(order, what)
            except NotNow as error:
                if have is None or error.reason not in _NOT_SO_MUCH:
                    raise
                await _in_thread(lambda: _emptied(scratch))
                await self._answered(structs.replace(order, have=None), what)
            if proof is not None:
                await self._proven(order, proof, what)
        except OSError as error:
            raise troubles.from_os_error(Remote(url), error) from error
        finally:
            with suppress(OSError):  # the next fetch clears it, and says what is in the way
                await _in_thread(lambda: leftovers.remove(scratch))

    async def _proven(self, order: orders.Fetch, proof: Proof, what: str) -> None:
        """Verify what ``order`` brought, in its mirror; where that will not do, the commit accepted before it."""
        before = proof.accepted if proof.accepted != order.commit else None
        signed = structs.replace(order, have=before, signers=proof.signers)
        if before is not None:
            try:
                answer = await self._answered(signed, what)
            except Unusable as error:
                if error.reason not in DISTRUSTED:
                    raise
            else:
                if isinstance(answer, orders.Related) and answer.relation is Relation.FORWARD:
                    return
            signed = structs.replace(signed, commit=before, have=None)
        try:
            await self._answered(signed, what)
        except Unusable as error:
            if not (proof.is_handover and error.reason == "signer-unknown"):
                raise

    async def read(self, commit: CommitId, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the content of those of ``paths`` that are in ``commit``.

        Raises:
            NotNow: ``commit-missing``: fetch it again.
            Unusable: ``not-a-file``, ``too-large`` or ``tree-broken``.
        """
        order = orders.Read(mirror=str(self._path), commit=commit, paths=tuple(paths), bounds=self._bounds)
        answer = await self._carried_out(order, f"the reading of {commit[:8]}")
        if isinstance(answer, orders.Files):
            return answer.contents
        raise _unexpected(answer)

    async def export(self, commit: CommitId, folder: str, into: Path) -> orders.Exported:
        """Write ``folder`` of ``commit`` below ``into``, which must not exist; fsync and rename are the caller's.

        When it raises, ``into`` is gone again, except after a power cut or a cancelled call.

        Raises:
            NotNow: ``commit-missing``, ``git-timeout`` or ``disk-full``.
            Unusable: ``folder-missing``, ``path-unsafe``, ``name-not-utf8``, ``case-collision``, ``submodule``,
                ``mode-unsupported``, ``symlink-escapes``, ``too-many-files``, ``too-large``, ``too-deep``,
                ``tree-broken``, ``compose-invalid``, ``compose-too-large`` or ``reads-outside``.
        """
        order = orders.Export(mirror=str(self._path), commit=commit, folder=folder, into=str(into), bounds=self._bounds)
        answer = await self._carried_out(order, f"the export of {commit[:8]}")
        if isinstance(answer, orders.Exported):
            return answer
        raise _unexpected(answer)

    async def clear_leftovers(self) -> None:
        """Remove what an interrupted fetch left behind. To be done at the start.

        A child of an agent that was killed may still be dying: then the next fetch does it.

        Raises:
            NotNow: ``disk-full``, ``disk-failed``.
        """
        await in_thread(self._clear_leftovers)

    def _clear_leftovers(self) -> None:
        with suppress(NotNow), leftovers.locked(self._path):
            leftovers.sweep(self._path)

    async def aclose(self) -> None:
        """Let go of kept connections, and of the child that waits for an order."""
        for poll in self._polls.values():
            poll.close()
        self._polls.clear()
        await self._nursery.aclose()

    async def _carried_out(self, order: orders.Order, what: str) -> orders.Answer:
        async with self._one_at_a_time:
            return await self._answered(order, what)

    async def _answered(self, order: orders.Order, what: str) -> orders.Answer:
        if self._isolation == "process":
            answer = await self._nursery.answer(order, what)
        else:
            answer = await _in_thread(lambda: _here(order))
        match answer:
            case orders.NotNowAnswer():
                raise NotNow(answer.message, reason=answer.reason, retry_after_s=answer.retry_after_s)
            case orders.UnusableAnswer():
                raise Unusable(answer.message, reason=answer.reason)
            case _:
                return answer


def _here(order: orders.Order) -> orders.Answer:
    from metrica_agent.adapters.git.child import carried_out  # noqa: PLC0415 dulwich stays out of the agent's process

    return carried_out(order)


def _emptied(scratch: Path) -> int:
    """Make ``scratch`` an empty folder; return how many bytes are free where it is."""
    leftovers.remove(scratch)
    scratch.mkdir()
    return shutil.disk_usage(scratch).free


def _unexpected(answer: orders.Answer) -> Ours:
    return Ours(f"the Git child answered with {type(answer).__name__}", reason="git-child-answer")


class _Poll:
    """The polls of one remote: never two at a time, each with a deadline that holds."""

    def __init__(self, remote: Remote, new_line: Callable[[Remote], Line]) -> None:
        self.remote = remote
        self._new_line = new_line
        self._line: Line | None = None
        self._running: asyncio.Future[CommitId | None] | None = None

    async def head(self, branch: str, seconds: float) -> CommitId | None:
        try:
            async with asyncio.timeout(seconds):
                return await self._asked(branch)
        except TimeoutError:
            raise troubles.timed_out(self.remote, "a poll", seconds) from None

    async def _asked(self, branch: str) -> CommitId | None:
        while (earlier := self._running) is not None and not earlier.done():
            await asyncio.wait([earlier])
        line = self._line = self._line or self._new_line(self.remote)
        running = self._running = _in_thread(lambda: line.head(branch))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._line = None
            line.abort()
            running.add_done_callback(lambda ended: _let_go(line, ended))
            raise

    def close(self) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        if self._running is not None and not self._running.done():
            line.abort()
        else:
            line.close()


def _let_go(line: Line, ended: asyncio.Future[CommitId | None]) -> None:
    """Close a line whose poll nobody waits for any more; how that poll ended is of no interest."""
    if not ended.cancelled():
        ended.exception()
    line.close()


def _in_thread(call: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run ``call`` in a thread of its own that keeps neither the loop nor the process from ending.

    The default executor's threads are joined at exit: one that hangs in the resolver would hold up a shutdown.
    """
    loop = asyncio.get_running_loop()
    promise: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if promise.cancelled():
            return
        if error is None:
            promise.set_result(cast("_T", result))
        else:
            promise.set_exception(error)

    def work() -> None:
        try:
            result, failure = call(), None
        except BaseException as error:  # noqa: BLE001 it is handed on, to be raised where it is awaited
            result, failure = None, error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="git", daemon=True).start()
    return promise
