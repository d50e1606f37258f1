"""Asks the remotes in order for the branch's commit, understands what is new, offers it to be converged to.

Nothing here changes what runs, and nothing unparsed goes further. A refused commit is offered as ``Unacceptable``, so
that the converge loop, the only writer of memory, can say why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, assert_never

import structlog
from msgspec.structs import replace

from metrica_agent.decisions import guarding
from metrica_agent.decisions.lineage import HISTORY, Judgement, Relation, Verdict, may_follow
from metrica_agent.decisions.trust import DISTRUSTED
from metrica_agent.decisions.world import Desired, Memory, Saying, Unacceptable
from metrica_agent.pulse import Pulse
from metrica_agent.tasks.telling import Clock, Teller
from metrica_agent.wake import Wake
from metrica_fleet.agent_versions import listing_of
from metrica_fleet.definition import agent_named_by, for_device, role_named_by
from metrica_fleet.errors import FleetError, NotNow, Ours, Unusable
from metrica_fleet.identity import CommitId, DeviceId, short
from metrica_fleet.retry import full_jitter, spread
from metrica_fleet.signers import FILE as SIGNERS_FILE
from metrica_fleet.stop import FILE as STOP_FILE
from metrica_fleet.stop import Stop, stops_in_file, unreadable_file

log = structlog.stdlib.get_logger(__name__)

COSTLY_CAP_S = 900.0
"""The longest that a remote is left alone whose fetches fail: each may have brought megabytes for nothing."""
LONGEST_FETCH_S = 3600.0
"""A fetch that no remote finishes in time gets twice as long the next time, up to this."""
UNREACHED = frozenset({"git-unreachable", "git-timeout"})
"""Troubles in which nobody answered at all; any other word means that the network is there."""
NUDGE_SPREAD_S = 0.5
"""A nudge reaches all devices at once; they ask within this time."""
SWITCH_REST_S = 900.0
"""A remote that comes and goes is told at most so often."""
JUDGED_KEPT = 20


class Git(Protocol):
    """The local mirror and its remotes."""

    async def head(self, url: str) -> CommitId:
        """Return the branch's commit at ``url`` in one round trip. Raises NotNow or Unusable."""
        ...

    async def fetch(
        self,
        url: str,
        commit: CommitId,
        have: CommitId | None,
        *,
        signers: str | None = None,
        within_s: float | None = None,
    ) -> Relation:
        """Bring ``commit``, signed by one of ``signers``; say how it relates to ``have``. Raises NotNow or Unusable."""
        ...

    async def read(self, commit: CommitId, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Return those of ``paths`` that exist in ``commit``. Raises NotNow or Unusable."""
        ...


@dataclass(slots=True)
class Offer:
    """The newest commit that Git offers, as far as it was understood. Written here, read by the converge loop."""

    candidate: Desired | Unacceptable | None = None

    def forget(self) -> None:
        """Offer nothing until the remotes were asked again: what was offered is not in the mirror any more."""
        self.candidate = None


class Answer(NamedTuple):
    """What a remote's answer comes to."""

    serves: bool
    """Whether it is followed; else the next one is asked."""
    offer: Desired | Unacceptable | None = None
    """What is wanted by it, or refused; ``None``: it lags."""


@dataclass(slots=True)
class _Round:
    """What came of asking the remotes, one after the other, until one serves."""

    troubles: dict[str, FleetError] = field(default_factory=dict[str, FleetError])
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    overdue: bool = False
    """Whether a fetch ran out of time."""

    @property
    def serving(self) -> str | None:
        return next((url for url, answer in self.answers.items() if answer.serves), None)

    def refused(self) -> list[tuple[str, Unacceptable]]:
        found = ((url, answer.offer) for url, answer in self.answers.items() if not answer.serves)
        return [(url, offer) for url, offer in found if isinstance(offer, Unacceptable)]


def _in_words(came: _Round, candidate: Desired | Unacceptable | None) -> str:
    """Return what came of a round. Raises NotNow when no remote serves."""
    if came.serving is None:
        first = next(iter(came.troubles.values()), None)
        refused = next((f"commit {short(offer.commit)}: {offer.message}" for _, offer in came.refused()), None)
        why = first.message if first is not None else refused or "those that answer lag behind"
        raise NotNow(f"no remote serves: {why}", reason=first.reason if first is not None else "git-unserved")
    if candidate is None:
        return "a remote answers, and has nothing new"
    if isinstance(candidate, Unacceptable):
        return f"commit {short(candidate.commit)} is refused: {candidate.message}"
    return f"commit {short(candidate.commit)} is wanted"


def _untrusted(offer: Desired | Unacceptable) -> bool:
    """Whether it is refused for its history or signature: then the remote is in doubt, not only the commit."""
    return isinstance(offer, Unacceptable) and offer.reason in HISTORY | DISTRUSTED


def _files_of(role: str) -> tuple[str, str]:
    return f"roles/{role}/role.toml", f"roles/{role}/compose.yaml"


@dataclass(frozen=True, slots=True)
class _Content:
    """What is read of one commit: in one go where that can be, since each reading is a process of its own."""

    git: Git
    commit: CommitId
    asked: frozenset[str] = frozenset()
    known: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @classmethod
    async def read_ahead(cls, git: Git, commit: CommitId, paths: Sequence[str]) -> _Content:
        """Read ``paths`` together. Where one can't be read, each is read when it is asked for. Raises NotNow."""
        try:
            return cls(git, commit, frozenset(paths), await git.read(commit, paths))
        except Unusable as error:
            log.debug("commit_not_read_in_one_go", commit=short(commit), reason=error.reason, error=error.message)
            return cls(git, commit)

    async def files(self, *paths: str) -> dict[str, bytes]:
        """Return those of ``paths`` that exist. Raises NotNow or Unusable."""
        if self.asked.issuperset(paths):
            return {path: self.known[path] for path in paths if path in self.known}
        return dict(await self.git.read(self.commit, paths))


_Judged = tuple[str, CommitId, CommitId | None, str | None]
"""A remote, its commit, the accepted one, the signers in force: what a refusal by history or signature depends on."""


@dataclass(slots=True)
class SyncTask:
    """The loop that keeps the offer new."""

    device: DeviceId
    remotes: tuple[str, ...]
    poll_s: float
    git: Git
    memory: Callable[[], Memory]
    offer: Offer
    ledger: Teller
    clock: Clock
    wake: Wake
    chance: Callable[[], float]
    on_offer: Callable[[], None]
    """Wakes the converge loop."""
    fetch_s: float = 60.0
    signatures_required: bool = False
    pulse: Pulse = field(default_factory=Pulse)
    stick: str | None = None
    """Where a history is that somebody may have brought: a remote that nobody had to reach, and is asked first."""
    on_answer: Callable[[], None] = lambda: None
    """Called when a remote answered, whatever it said."""
    _begun: int = 0
    """How often the remotes were asked."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the round is over that is going on, or comes next."""
    _last: _Round = field(default_factory=_Round)
    _silent: bool = False
    _overdue: int = 0
    """How often in a row no remote served, and a fetch ran out of time."""
    _serving: str | None = None
    """The remote that is told to serve; ``None``: the first."""
    _switch_told_s: float | None = None
    _trouble: dict[str, FleetError] = field(default_factory=dict[str, FleetError])
    """What kept a remote from serving when it was asked last."""
    _judged: dict[_Judged, Unacceptable] = field(default_factory=dict[_Judged, Unacceptable])
    _not_before_s: dict[str, float] = field(default_factory=dict[str, float])
    _failures: dict[str, int] = field(default_factory=dict[str, int])
    _told: set[tuple[str, CommitId]] = field(default_factory=set)

    async def run(self) -> None:
        """Keep the offer new until cancelled. What was accepted before is offered again first, network or not."""
        self.pulse.back_within(guarding.ASK_S, "reads the commit that it has")
        await self._recall()
        while True:
            self.wake.clear()
            self._begun += 1
            self._last = await self._ask()
            self._over.set()
            self._over = asyncio.Event()
            await self.wake.wait_until(self.clock.now_s() + spread(self.poll_s, self.chance()))
            await asyncio.sleep(NUDGE_SPREAD_S * self.chance())

    async def _recall(self) -> None:
        """Offer the accepted commit from the mirror: a device that boots without network goes on where it was."""
        accepted = self.memory().accepted
        if accepted is None or self.memory().refusal_of(accepted) is not None:
            return
        try:
            self._put(await self._known(accepted))
        except FleetError as error:
            log.info("commit_not_recalled", commit=accepted, reason=error.reason, error=error.message)

    async def _known(self, accepted: CommitId) -> Desired | Unacceptable:
        """Read the accepted commit again. Where a later one stops, which could not be used, it lifts nothing."""
        understood, stop = await self.understood(accepted), self.memory().stop
        is_latest = stop is None or stop.commit in {None, accepted}
        return understood if is_latest else replace(understood, stops=None)

    async def look(self) -> str:
        """Ask the remotes now, those too that are left alone for a while; return what came of it.

        Raises:
            NotNow: why none serves.
        """
        self._not_before_s.clear()
        before = self._begun
        while self._begun == before:
            over = self._over
            self.wake.nudge()
            await over.wait()
        return _in_words(self._last, self.offer.candidate)

    async def _ask(self) -> _Round:
        """Ask the remotes in order until one serves: gone, slow, lagging or rewritten, the next one is asked."""
        came = _Round()
        await self._ask_stick(came)
        for url in self.remotes if came.serving is None else ():
            if self.clock.now_s() < self._not_before_s.get(url, 0.0):
                continue
            await self._ask_one(url, came)
            if came.serving is not None:
                break
        if came.answers.keys() - {self.stick}:
            self._overdue = 0
            await self._heard()
        elif came.troubles:
            self._overdue += came.overdue
            await self._unheard(came.troubles.values())
        if came.answers:
            await self._settle(came)
        return came

    def look_at_stick(self) -> None:
        """Ask what was brought on a stick now: another one than the last, perhaps."""
        if self.stick is not None:
            self._not_before_s.pop(self.stick, None)
        self.wake.nudge()

    async def _ask_stick(self, came: _Round) -> None:
        """Ask what was brought on a stick, for as long as it is more than what was accepted, or all that there is.

        That it answers says nothing of a network; that it does not is as ordinary as no stick.
        """
        url, memory, known = self.stick, self.memory(), self.offer.candidate
        if url is None or self.clock.now_s() < self._not_before_s.get(url, 0.0):
            return
        costly = False
        self.pulse.back_within(guarding.ASK_S + LONGEST_FETCH_S, "asks what a stick brought")
        try:
            commit = await self.git.head(url)
            if memory.refusal_of(commit) is not None or (commit == memory.accepted and known is not None):
                return
            costly = True
            answer = await self._take(url, commit)
        except FleetError as error:
            if costly or error.reason != "git-unreachable":
                log.info("stick_of_no_use", reason=error.reason, error=error.message)
                self._put_off(url, error, costly=costly)
            return
        self._failures.pop(url, None)
        if answer.offer is not None:
            came.answers[url] = answer

    async def _ask_one(self, url: str, came: _Round) -> None:
        costly = False
        self.pulse.back_within(guarding.ASK_S + LONGEST_FETCH_S, "asks a remote")
        try:
            commit = await self.git.head(url)
            self.on_answer()
            costly = True
            came.answers[url] = await self._take(url, commit)
        except FleetError as error:
            self._put_off(url, error, costly=costly)
            if error.reason not in UNREACHED:
                self.on_answer()
            came.troubles[url] = self._trouble[url] = error
            came.overdue |= costly and error.reason == "git-timeout"
        else:
            self._failures.pop(url, None)
            self._trouble.pop(url, None)

    def _put_off(self, url: str, error: FleetError, *, costly: bool) -> None:
        """Leave a remote alone for as long as it asks, and ever longer when asking it again is costly."""
        if isinstance(error, Ours):
            log.error("promise_broken", reason=error.reason, error=error.message)
        asked_s = error.retry_after_s if isinstance(error, NotNow) else None
        wait_s = 0.0
        if costly:
            failures = self._failures[url] = self._failures.get(url, 0) + 1
            wait_s = full_jitter(failures, self.chance(), self.poll_s, COSTLY_CAP_S)
        self._not_before_s[url] = self.clock.now_s() + max(asked_s or 0.0, wait_s)

    async def _take(self, url: str, commit: CommitId) -> Answer:
        """Return what ``commit``, which ``url`` offers, comes to.

        Raises:
            FleetError: the remote does not give it, or this device can't take it now.
        """
        memory, known = self.memory(), self.offer.candidate
        refusal = memory.refusal_of(commit)
        if refusal is not None:
            return Answer(
                serves=False, offer=Unacceptable(commit=commit, reason=refusal.reason, message=refusal.message)
            )
        if known is not None and known.commit == commit and not _untrusted(known):
            return Answer(serves=True, offer=known)
        by_leave = commit in memory.allowed
        signers = self._signers_in_force(memory)
        judged = self._judged.get((url, commit, memory.accepted, signers))
        if judged is not None and not (by_leave and judged.reason in HISTORY):
            return Answer(serves=False, offer=judged)
        try:
            have = None if by_leave else memory.accepted
            within_s = min(LONGEST_FETCH_S, self.fetch_s * 2.0 ** min(self._overdue, 64))
            relation = await self.git.fetch(url, commit, have, signers=signers, within_s=within_s)
        except Unusable as error:
            return self._refused(url, commit, memory, error.reason, error.message)
        judgement = may_follow(relation, commit=commit, accepted=memory.accepted, allowed=frozenset(memory.allowed))
        if judgement.verdict is Verdict.ACCEPT and not by_leave:
            judgement = await self._after_stop(url, commit, memory, judgement)
        match judgement.verdict:
            case Verdict.ACCEPT:
                return Answer(serves=True, offer=await self.understood(commit))
            case Verdict.IGNORE if commit == memory.accepted:
                return Answer(serves=True, offer=await self._known(commit))
            case Verdict.IGNORE:
                await self._tell_behind(url, commit, judgement)
                return Answer(serves=False)
            case Verdict.REFUSE:
                return self._refused(url, commit, memory, judgement.reason, judgement.message)
            case _:
                assert_never(judgement.verdict)

    async def _after_stop(self, url: str, commit: CommitId, memory: Memory, judgement: Judgement) -> Judgement:
        """Judge a commit that follows the accepted one by whether it follows the one as well whose STOP is in force.

        They differ where that one could not be used otherwise. What came before it must not lift the stop.
        """
        stopped = memory.stop.commit if memory.stop is not None else None
        if stopped is None or stopped in {memory.accepted, commit}:
            return judgement
        relation = await self.git.fetch(url, commit, stopped)
        after = may_follow(relation, commit=commit, accepted=stopped)
        return judgement if after.verdict is Verdict.ACCEPT else after

    def _signers_in_force(self, memory: Memory) -> str | None:
        """Return who may sign; nobody may where trust has not begun."""
        if not self.signatures_required:
            return None
        return memory.trust.signers if memory.trust is not None else ""

    def _refused(self, url: str, commit: CommitId, memory: Memory, reason: str, message: str) -> Answer:
        """Remember the verdict: a remote that offers the same again costs no fetch at every poll."""
        refused = Unacceptable(commit=commit, reason=reason, message=message)
        key = (url, commit, memory.accepted, self._signers_in_force(memory))
        self._judged = dict([*self._judged.items(), (key, refused)][-JUDGED_KEPT:])
        return Answer(serves=False, offer=refused)

    async def _settle(self, came: _Round) -> None:
        """Offer what came of asking, and say what is odd about it.

        A commit that is refused for its history or signature is offered, to be refused, only when no remote serves. One
        that is bad in itself stays what is wanted, even if a remote further down only has the commit before it.
        """
        refused = came.refused()
        bad = next((offer for _, offer in refused if not _untrusted(offer)), None)
        if came.serving is not None:
            offer = came.answers[came.serving].offer
            lags = offer is not None and offer.commit == self.memory().accepted
            self._put(bad if bad is not None and lags else offer)
            for url, one in refused:
                where = "the stick" if url == self.stick else f"remote {self.remotes.index(url) + 1}"
                await self._tell_once("git.refused", one.commit, one.reason, f"{where}: {one.message}")
            if came.serving != self.stick:
                await self._tell_switch(came.serving)
        elif refused:
            self._put(refused[0][1])
        elif isinstance(self.offer.candidate, Unacceptable):
            self._put(None)  # nobody offers it any more
            await self._recall()

    async def understood(self, commit: CommitId) -> Desired | Unacceptable:
        """Read what concerns this device in a commit of the mirror, and only that. Raises NotNow."""
        device, role = f"devices/{self.device}.toml", self.memory().role
        ours = _files_of(role) if role is not None else ()
        content = await _Content.read_ahead(self.git, commit, (STOP_FILE, "fleet.toml", device, SIGNERS_FILE, *ours))
        stops = await self._stops_in(content)
        try:
            files = await content.files("fleet.toml", device)
            files |= await content.files(*_files_of(role_named_by(files, self.device)))
            agent = agent_named_by(files, self.device)
            files |= await content.files(listing_of(agent)) if agent is not None else {}
            defined = for_device(files, self.device)
            files |= await self._signers_in(content)
        except Unusable as error:
            return Unacceptable(commit=commit, reason=error.reason, message=error.message, stops=stops)
        return Desired(
            commit=commit,
            fleet=defined.fleet,
            device=self.device,
            role=defined.role,
            tags=defined.tags,
            variables=dict(defined.variables),
            health=defined.health,
            limits=defined.limits,
            checks=defined.checks,
            update=defined.update,
            services=dict(defined.services),
            rollout=defined.rollout,
            agent=defined.agent,
            signers=files[SIGNERS_FILE].decode("utf-8", "replace") if SIGNERS_FILE in files else None,
            stops=stops,
        )

    @staticmethod
    async def _stops_in(content: _Content) -> tuple[Stop, ...]:
        """Return what the commit's ``STOP`` stops, whatever else is in it. Raises NotNow."""
        try:
            files = await content.files(STOP_FILE)
        except Unusable as error:
            return unreadable_file(error.message)
        return stops_in_file(files[STOP_FILE]) if STOP_FILE in files else ()

    async def _signers_in(self, content: _Content) -> Mapping[str, bytes]:
        """Return the commit's ``allowed_signers``; one that is none spoils a commit only where it must be signed."""
        try:
            return await content.files(SIGNERS_FILE)
        except Unusable:
            if self.signatures_required:
                raise
            return {}

    def _put(self, candidate: Desired | Unacceptable | None) -> None:
        if candidate != self.offer.candidate:
            self.offer.candidate = candidate
            self.on_offer()

    # --- what is said ---------------------------------------------------------------------------------------

    async def _heard(self) -> None:
        if self._silent:
            self._silent = False
            await self._tell(Saying(kind="git.reachable", message="a remote answers again"))

    async def _unheard(self, troubles: Iterable[FleetError]) -> None:
        """Say once that no remote serves, and why each does not."""
        if self._silent:
            return
        listed = list(troubles)
        message = "; ".join(error.message for error in listed) or "no remote is configured"
        reason = listed[0].reason if listed else "no-remote"
        self._silent = await self._tell(Saying(kind="git.unreachable", reason=reason, message=message[:2000]))

    async def _tell_switch(self, url: str) -> None:
        """Say that another remote serves than was told last, and why; seldom, whatever it does."""
        now_s = self.clock.now_s()
        rests = self._switch_told_s is not None and now_s < self._switch_told_s + SWITCH_REST_S
        if url == (self._serving or self.remotes[0]) or rests:
            return
        number = self.remotes.index(url) + 1
        if number == 1:
            saying = Saying(kind="git.switched", reason="well-again", message="the first remote serves again")
        else:
            ahead = [self._trouble[one] for one in self.remotes[: number - 1] if one in self._trouble]
            why = "; ".join(error.message for error in ahead) or "those ahead of it lag or are refused"
            reason = ahead[0].reason if ahead else "behind"
            message = f"remote {number} of {len(self.remotes)} serves: {why}"
            saying = Saying(kind="git.switched", reason=reason, message=message[:1000])
        if await self._tell(saying):
            self._serving, self._switch_told_s = url, now_s

    async def _tell_behind(self, url: str, commit: CommitId, judgement: Judgement) -> None:
        if url != self.stick:  # where a network went on from what was brought, that is no wonder
            await self._tell_once("git.behind", commit, judgement.reason, judgement.message)

    async def _tell_once(self, kind: str, commit: CommitId, reason: str, message: str) -> None:
        if (kind, commit) not in self._told:
            self._told = {*list(self._told)[-50:], (kind, commit)}
            await self._tell(Saying(kind=kind, reason=reason, message=message, commit=commit))

    async def _tell(self, saying: Saying) -> bool:
        log.info(saying.kind, reason=saying.reason, message=saying.message, commit=short(saying.commit))
        return await self.ledger.record(self.clock.stamp(), sayings=(saying,)) != ()
