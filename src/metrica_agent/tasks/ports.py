"""What the converge loop asks of everybody else: each a small protocol, to be met by a task or an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from metrica_agent.decisions.drift import Altered, Repair
from metrica_agent.decisions.orders import Failed, Given
from metrica_agent.decisions.steps import AgentVersions, Clean, Cleaned, WallTime
from metrica_agent.decisions.strain import Need
from metrica_agent.decisions.trial import Watch
from metrica_agent.decisions.trust import Proof
from metrica_agent.decisions.world import (
    Decision,
    Deployed,
    Desired,
    HeadMark,
    Heard,
    Memory,
    Release,
    Sample,
    Saying,
    Stamp,
    Strain,
    Trial,
    Unacceptable,
)
from metrica_agent.tasks import telling
from metrica_fleet.agent_versions import AgentVersion
from metrica_fleet.gate import Gate
from metrica_fleet.identity import CommitId, ReleaseDigest, RoleId


class Clock(telling.Clock, Protocol):
    """The boot clock, and the time of day."""

    def time_in(self, zone: str) -> WallTime | None:
        """Return the time of day in ``zone``; ``None`` while it can't be trusted."""
        ...


class Ledger(Protocol):
    """Where memory, events and decisions are written down, in one transaction."""

    async def record(
        self,
        stamp: Stamp,
        *,
        memory: Memory | None = None,
        sayings: Sequence[Saying] = (),
        decision: Decision | None = None,
    ) -> tuple[int, ...]: ...


class Releases(Protocol):
    """The releases on disk and the link that says which is current."""

    async def current(self) -> ReleaseDigest | None: ...
    async def complete(self) -> frozenset[ReleaseDigest]: ...
    async def load(self, digest: ReleaseDigest) -> Release | None: ...
    async def verify(self, digest: ReleaseDigest) -> tuple[str, ...]: ...
    async def switch(self, digest: ReleaseDigest) -> None: ...
    async def locks(self, role: RoleId) -> frozenset[str]:
        """Return the services of ``role`` that hold their lock."""
        ...


class Runtime(Protocol):
    """What makes releases run."""

    async def stage(self, desired: Desired) -> Deployed:
        """Make the commit's release complete on disk. Raises Unusable or NotNow."""
        ...

    async def preflight(self, desired: Desired, release: Release) -> None:
        """Make everything that ``release`` needs be here. Raises Unusable or NotNow."""
        ...

    async def apply(self, release: Release, resting: tuple[str, ...] = (), *, pull_s: float | None = None) -> None:
        """Make what runs equal to ``release``, but for what rests. Raises Unusable or NotNow.

        ``pull_s``: how long images that are gone may take to come again; its ``pull_deadline_s`` by default.
        """
        ...

    async def rest(self, services: tuple[str, ...]) -> None:
        """Stop these services, and nothing else. Raises NotNow."""
        ...

    async def halt(self) -> None:
        """Stop every workload, whatever made it. Raises NotNow."""
        ...

    async def clean(self, step: Clean) -> Cleaned:
        """Make room by one kind of cleaning. Raises NotNow."""
        ...

    async def images(self, releases: frozenset[ReleaseDigest]) -> frozenset[str]:
        """Return the names of the images that these releases on disk need. Raises NotNow."""
        ...

    async def repair(self, release: Release, repair: Repair) -> None:
        """Set right what ``repair`` names of what runs, and nothing else. Raises Unusable or NotNow."""
        ...

    async def restart(self, release: Release, service: str) -> None:
        """Restart the containers of one service of ``release``, which runs. Raises NotNow."""
        ...

    async def mend(self, digest: ReleaseDigest, desired: Desired | None) -> None:
        """Make the files of a release what was published; ``desired`` is its commit. Raises Unusable or NotNow."""
        ...

    async def stage_safe(self) -> ReleaseDigest:
        """Make the safe-mode stack complete on disk. Raises Unusable or NotNow."""
        ...

    async def sweep(self, keep: frozenset[ReleaseDigest]) -> None:
        """Remove releases not in ``keep`` that no container uses. Raises NotNow."""
        ...


class Versions(Protocol):
    """The agents on this disk, for one that its launcher started."""

    @property
    def seen(self) -> AgentVersions: ...
    def news(self) -> tuple[Saying, ...]:
        """Return what came of trials and was not told yet."""
        ...

    async def told(self) -> None:
        """All news are written down. Raises NotNow."""
        ...

    async def stage(self, wanted: AgentVersion, commit: CommitId) -> None:
        """Install ``wanted`` beside what runs. Raises Unusable or NotNow."""
        ...

    async def begin(self, name: str, *, within_s: float, needs_git: bool) -> None:
        """Have ``name`` tried at the next start. Raises NotNow."""
        ...

    async def confirm(self) -> None:
        """This one has proven itself. Raises NotNow."""
        ...

    async def doubt(self, reason: str, message: str) -> None:
        """This one did not reach Git, or fetched nothing; the one before finds out whether it does. Raises NotNow."""
        ...

    async def doubt_ended(self, *, bad: bool) -> None:
        """It is known whether the version in doubt is bad. Raises NotNow."""
        ...

    async def refuse(self, name: str, reason: str, message: str) -> None:
        """Do not try ``name`` again. Raises NotNow."""
        ...

    async def steady(self) -> None:
        """This one has lived long enough: its starts do not count any more. Raises NotNow."""
        ...


class TryFetch(Protocol):
    """Fetches what a remote has now as a new commit is fetched, and throws it away."""

    async def __call__(
        self, url: str, have: CommitId | None, /, *, proof: Proof | None = None, within_s: float
    ) -> object:
        """Fetch what came after ``have``, and verify whose it is by ``proof``. Raises FleetError."""
        ...


class Agents(Protocol):
    """What the upgrade task knows of Git, and may do."""

    @property
    def answered_s(self) -> float | None: ...
    @property
    def versions(self) -> Versions | None: ...
    def restart(self) -> None:
        """End this process, so that the launcher starts what is to run."""
        ...


class Stops(Protocol):
    """What the stop task heard."""

    @property
    def heard(self) -> Heard | None: ...


class Gates(Protocol):
    """What the gate task heard."""

    @property
    def heard(self) -> Gate | None: ...
    @property
    def heard_s(self) -> float | None: ...


class Heads(Protocol):
    """What the head task heard."""

    @property
    def heard(self) -> HeadMark | None: ...


class Vigil(Protocol):
    """What the health task sees."""

    @property
    def sample(self) -> Sample | None: ...
    @property
    def watch(self) -> Watch: ...
    def look_at(self, release: Release | None, trial: Trial | None, *, closely: bool) -> None: ...


class Machine(Protocol):
    """What the guard sees of the machine."""

    @property
    def strain(self) -> Strain: ...
    @property
    def need(self) -> Need | None: ...
    async def look(self) -> None:
        """Look at the machine now."""
        ...


class Files(Protocol):
    """What the files task sees of the release that is to run."""

    @property
    def altered(self) -> Altered | None: ...
    def look_at(self, digest: ReleaseDigest | None) -> None: ...
    def mended(self) -> None:
        """The files were restored: what was seen of them is of no use any more."""
        ...


class Candidates(Protocol):
    """The newest commit that Git offers, as the sync task understood it."""

    @property
    def candidate(self) -> Desired | Unacceptable | None: ...
    def forget(self) -> None: ...


class Orders(Protocol):
    """What people ordered and the device has not obeyed yet."""

    @property
    def given(self) -> Given | None: ...
    async def done(self, order_id: str, failed: Failed | None) -> None:
        """Forget an order: it is obeyed, and that is written down; or it could not be."""
        ...
