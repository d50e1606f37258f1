"""A commit into the mirror, and how it stands to the one accepted last.

The first fetch is shallow, later ones are plain, so that "forward" can be seen (CONVENTIONS F7). Forward and behind
are often known without the network. What else the histories are is asked for once more, from the accepted commit
backwards; a remote that does not know that commit leaves the question open, and the answer is UNPROVEN.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from metrica_agent.adapters.git import troubles
from metrica_agent.adapters.git.leftovers import beside, locked, remove, sweep
from metrica_agent.adapters.git.packs import SwellsError, require_small
from metrica_agent.adapters.git.remote import Remote
from metrica_agent.adapters.git.store import (
    GARBAGE,
    IncompleteError,
    MirrorBrokenError,
    Store,
    made,
    name_of,
    opened,
    put_in_place,
)
from metrica_agent.adapters.git.transports import talk_to
from metrica_agent.adapters.git.trust import require_trust
from metrica_agent.decisions.lineage import Relation
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from collections.abc import Generator

    from metrica_agent.adapters.git.orders import Fetch
    from metrica_fleet.identity import CommitId

FIRST_DEPTH: Final = 1
AGAIN_DEPTH: Final = 50
"""How far back a mirror that is made anew knows what came before, so as to recognise a remote that lags."""
_REFUSED: Final = (Relation.DIVERGED, Relation.UNPROVEN)


def fetch(order: Fetch) -> Relation:
    """Bring the commit of ``order`` into the mirror; return how it stands to what the caller has.

    Raises:
        NotNow, Unusable: See ``GitMirror.fetch``.
    """
    remote = Remote(order.url)
    mirror = Path(order.mirror)
    with _bounded(remote), locked(mirror):
        sweep(mirror)
        try:
            with opened(mirror) as store:
                if not store.outgrown(most_bytes=order.bounds.mirror_bytes, most_packs=order.bounds.mirror_packs):
                    return _Fetcher(order, remote, store).run()
        except MirrorBrokenError:
            pass  # it is a cache: what follows makes it anew, or says why it can't
        return _anew(order, remote, mirror)


@contextmanager
def _bounded(remote: Remote) -> Generator[None]:
    """Say which bound of the device a fetch ran into."""
    try:
        yield
    except MemoryError as error:
        raise troubles.too_large(remote, "memory") from error
    except OSError as error:
        raise troubles.from_os_error(remote, error) from error


def _anew(order: Fetch, remote: Remote, mirror: Path) -> Relation:
    """Make a new mirror and put it in place when it is of use; until then an old one stays."""
    new = beside(mirror, "new")
    try:
        with made(new, order.branch) as store:
            relation = _Fetcher(order, remote, store).run()
            useful = bool(store.packs())
        if useful:
            put_in_place(mirror, new)
    except MirrorBrokenError as error:
        raise troubles.corrupt(remote, error) from error
    finally:
        remove(new)
    return relation


class _Fetcher:
    """One fetch into one open mirror."""

    def __init__(self, order: Fetch, remote: Remote, store: Store) -> None:
        self._order, self._remote, self._store = order, remote, store
        self._commit, self._have = order.commit, order.have

    def run(self) -> Relation:
        """Fetch what is needed, and judge. A failure leaves no pack behind.

        Raises:
            MirrorBrokenError: What was in the mirror before, or the pack that was added, does not hold together.
        """
        before = self._store.packs()
        try:
            return self._run()
        except BaseException as error:
            self._store.drop(self._store.packs() - before)
            if isinstance(error, (IncompleteError, *GARBAGE)):
                raise MirrorBrokenError(f"{error} ({type(error).__name__})") from error
            raise

    def _run(self) -> Relation:
        have = self._have
        relation = self._first() if have is None or have == self._commit else self._next(have)
        if relation in (Relation.FIRST, Relation.SAME, Relation.FORWARD):
            self._store.check_complete(self._commit)
            if self._order.signers is not None and relation is not Relation.SAME:
                bounds, signers = self._order.bounds, self._order.signers
                require_trust(self._store, self._commit, have=have, signers=signers, bounds=bounds)
            self._store.point(self._order.branch, self._commit)
        return relation

    def _first(self) -> Relation:
        if not self._store.holds(self._commit):
            self._receive(self._commit, have=None, depth=FIRST_DEPTH)
        return Relation.FIRST if self._have is None else Relation.SAME

    def _next(self, have: CommitId) -> Relation:
        if not self._store.holds(have) and not self._restored(have):
            return self._judged_alone(have)
        relation = self._seen(have)
        if relation is not None:
            return relation
        before = self._store.packs()
        self._receive(self._commit, have=have, depth=None)
        relation = self._seen(have) or self._looked_further_back(have)
        if relation in _REFUSED:
            self._store.drop(self._store.packs() - before)
        return relation

    def _restored(self, have: CommitId) -> bool:
        """Bring the accepted commit back into a mirror that lost it; False when the remote does not give it."""
        try:
            self._receive(have, have=None, depth=AGAIN_DEPTH)
        except NotNow as error:
            if error.reason != "commit-missing":
                raise
            return False
        return True

    def _judged_alone(self, have: CommitId) -> Relation:
        """Judge by the offered commit's whole history: neither mirror nor remote give the accepted one by name."""
        before = self._store.packs()
        if not self._store.holds(self._commit):
            self._receive(self._commit, have=None, depth=None)
        if name_of(have) in self._store.lineage(self._commit).known:
            return Relation.FORWARD
        self._store.drop(self._store.packs() - before)
        return Relation.UNPROVEN

    def _seen(self, have: CommitId) -> Relation | None:
        """Return what the commits that are here tell about the two; ``None`` when that is not enough."""
        mine = self._store.lineage(have)
        if name_of(self._commit) in mine.known:
            return Relation.BEHIND
        if not self._store.holds(self._commit):
            return None
        theirs = self._store.lineage(self._commit)
        if name_of(have) in theirs.known:
            return Relation.FORWARD
        return Relation.DIVERGED if mine.known & theirs.known or not mine.boundary else None

    def _looked_further_back(self, have: CommitId) -> Relation:
        """Ask the remote what came before the accepted commit: one that lags can't tell, one rewritten mostly can."""
        try:
            self._receive(have, have=None, depth=None)
        except NotNow as error:
            if error.reason not in ("commit-missing", "fetch-too-large"):
                raise
            return Relation.UNPROVEN
        return self._seen(have) or Relation.UNPROVEN

    def _receive(self, commit: CommitId, *, have: CommitId | None, depth: int | None) -> None:
        """Add to the mirror what ``commit`` needs beyond the history of ``have``."""
        objects = self._store.objects
        talk = talk_to(self._remote, ssh=self._order.ssh, ca_file=self._order.ca_file)
        missing = next((one for one in talk.needs() if not self._store.holds(one)), None)
        if missing is not None:
            raise troubles.builds_on(self._remote, missing)
        with tempfile.TemporaryFile(dir=objects.path, prefix="incoming-") as pack:
            talk.ask_for(commit, self._store.walker(have), self._metered(pack).write, depth)
            if pack.tell():
                pack.seek(0)
                self._require_small(pack)
                objects.add_thin_pack(pack.read, None)
        if not self._store.holds(commit):
            raise troubles.commit_missing(self._remote, commit)

    def _require_small(self, pack: IO[bytes]) -> None:
        try:
            require_small(pack, self._order.bounds)
        except SwellsError as error:
            raise troubles.too_large(self._remote, str(error)) from error

    def _metered(self, pack: IO[bytes]) -> _Metered:
        return _Metered(self._remote, pack, self._order.bounds.fetch_bytes)


class _Metered:
    """A file that takes no more than a bound."""

    def __init__(self, remote: Remote, pack: IO[bytes], most: int) -> None:
        self._remote, self._pack, self._most, self._left = remote, pack, most, most

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise troubles.too_large(self._remote, f"a pack of more than {self._most} bytes")
        return self._pack.write(data)
