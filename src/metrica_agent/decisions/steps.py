"""What the converge loop sees in one look, and the steps it may take.

Steps are data: a new one without an executor is a type error.
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from metrica_agent.decisions.drift import Altered, Difference
from metrica_agent.decisions.orders import Failed, Given, Work
from metrica_agent.decisions.strain import Need
from metrica_agent.decisions.trial import Watch
from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import (
    Desired,
    HeadMark,
    Heard,
    Memory,
    Release,
    Sample,
    Saying,
    Strain,
    Unacceptable,
)
from metrica_fleet.agent_versions import AgentVersion
from metrica_fleet.errors import NotNow
from metrica_fleet.gate import Gate
from metrica_fleet.identity import BootId, CommitId, DeviceId, ReleaseDigest

REST_S = 300.0
"""How long a quiet device goes without looking again; everything that happens wakes it earlier."""


class ApplyFailed(NotNow):
    """Compose could not make what runs equal to the release. ``output``: the last it said, at most 8 KiB."""

    def __init__(self, message: str, *, reason: str, output: str) -> None:
        super().__init__(message, reason=reason)
        self.output = output


class Setback(Value, frozen=True, kw_only=True):
    """An effect that could not be done, or did not last: how often, and when it may be tried again."""

    reason: str
    message: str
    first_s: float
    attempts: int
    not_before_s: float


class WallTime(Value, frozen=True, kw_only=True):
    """The time of day in some zone."""

    weekday: int
    """0 is Monday."""
    minute: int
    """Of the day, from 0."""


class OnTrial(Value, frozen=True, kw_only=True):
    """The trial of the agent that looks at this: what it is measured by."""

    began_s: float
    within_s: float
    needs_git: bool
    """Whether the agent before it reached Git."""


class AgentVersions(Value, frozen=True, kw_only=True):
    """The agents on this disk, as one that its launcher started knows them."""

    running: str
    """The one that looks, by its name on disk; empty: the one that was installed by hand."""
    trial: OnTrial | None = None
    """Set where the one that looks is on trial."""
    doubted: str | None = None
    """Given up because it did not reach Git, or could fetch nothing; not known yet whether this one does."""
    doubted_fetch: bool = False
    """Whether Git answered the one in doubt, and it could fetch nothing."""
    complete: frozenset[str] = frozenset()
    refused: dict[str, tuple[str, str]] = {}
    """Name -> reason and message of those that are not tried again."""


class Observed(Value, frozen=True, kw_only=True):
    """One look at everything that is true."""

    boot_id: BootId
    memory: Memory
    candidate: Desired | Unacceptable | None
    current: ReleaseDigest | None
    complete: frozenset[ReleaseDigest]
    release: Release | None
    """What is on trial, or else confirmed; ``None`` when there is neither, or it is not on this disk."""
    sample: Sample | None
    watch: Watch
    preflighted: ReleaseDigest | None
    ailing_since_s: dict[str, float] = {}
    """Services and checks of the confirmed release that are not well, and since when."""
    differs: tuple[Difference, ...] = ()
    differs_since_s: float | None = None
    setbacks: dict[str, Setback] = {}
    given: Given | None = None
    """The oldest order that is not obeyed yet."""
    altered: Altered | None = None
    """What was found to be wrong with the files of the release that is to run."""
    offered: Release | None = None
    """What the wanted commit means, once it is staged."""
    preflighted_s: float = 0.0
    """When ``preflighted`` was found out."""
    locks: frozenset[str] = frozenset()
    """Services that hold their lock."""
    wall: WallTime | None = None
    """The time in the zone of the candidate's windows; ``None`` while it can't be trusted."""
    strain: Strain = Strain()
    """As it is felt now; ``memory`` has what was told of it."""
    need: Need | None = None
    """What is to be freed, on a disk that is low."""
    awake: tuple[str, ...] = ()
    """Services that run although they are to rest."""
    unwritten: bool = False
    """The ledger could not be written the last time."""
    device: DeviceId = DeviceId("")
    heard: Heard | None = None
    """The newest stop order whose signature is good."""
    halted: bool = False
    """Whether this process has stopped the workloads since they were to be stopped."""
    running: tuple[str, ...] = ()
    """What was seen to run since."""
    gate: Gate | None = None
    """The newest gate that this process heard and whose signature is good."""
    gate_heard_s: float | None = None
    """When the hub last said a gate, a new one or one again; ``None``: not since this process began."""
    head: HeadMark | None = None
    """The newest word of the hub about the branch whose signature is good."""
    began_s: float = 0.0
    """When this process began."""
    agents: AgentVersions | None = None
    """``None``: this agent was not started by the launcher, and can't be changed."""
    git_answered_s: float | None = None
    """When a remote last answered this process; ``None``: none did yet."""


class Stage(Value, frozen=True, kw_only=True, tag=True):
    """Export the commit, have Compose resolve it, render it, and make it durable."""

    desired: Desired


class StageSafe(Value, frozen=True, kw_only=True, tag=True):
    """Make the safe-mode stack complete on disk."""


class Preflight(Value, frozen=True, kw_only=True, tag=True):
    """Make sure that everything the release needs is here, images pulled."""

    desired: Desired
    release: ReleaseDigest


class Switch(Value, frozen=True, kw_only=True, tag=True):
    """Point ``current`` at the release: one rename."""

    release: ReleaseDigest


class Apply(Value, frozen=True, kw_only=True, tag=True):
    """Have Compose make what runs equal to the release."""

    release: ReleaseDigest
    trial: bool
    differences: tuple[Difference, ...] = ()
    """What to set right, and nothing else; none: all of it."""
    resting: tuple[str, ...] = ()
    """Services that are left as they are."""


class Mend(Value, frozen=True, kw_only=True, tag=True):
    """Make the files of a release what was published, and restart who read what was altered."""

    altered: Altered


class Rest(Value, frozen=True, kw_only=True, tag=True):
    """Stop exactly these services, and leave everything else as it is."""

    release: ReleaseDigest
    services: tuple[str, ...]


class Halt(Value, frozen=True, kw_only=True, tag=True):
    """Stop every workload: nothing of the project runs any more."""


class Cleaning(StrEnum):
    """What may be cleaned, in the order in which it is."""

    RELEASES = "releases"
    DANGLING_IMAGES = "dangling-images"
    SPARE_IMAGES = "spare-images"
    BUILD_CACHE = "build-cache"
    ROTATED_LOGS = "rotated-logs"
    JOURNAL = "journal"


class Clean(Value, frozen=True, kw_only=True, tag=True):
    """Make room by one kind of cleaning, no more of it than ``need`` asks for."""

    what: Cleaning
    need: Need
    keep: frozenset[ReleaseDigest]
    """Releases that stay, with all that they need."""
    keep_images: frozenset[str] = frozenset()
    """Ids of images that stay, whatever names them."""
    spare_images: tuple[str, ...] = ()
    """Images of releases that were removed."""


class Cleaned(Value, frozen=True, kw_only=True):
    """What came of one cleaning."""

    freed_bytes: int
    removed: int = 0
    """How many releases, images or files went."""
    images: tuple[str, ...] = ()
    """Of ``Clean.spare_images``, those that are gone."""


class StageAgent(Value, frozen=True, kw_only=True, tag=True):
    """Get the wheels of a version of the agent, and install it beside the one that runs."""

    commit: CommitId
    agent: AgentVersion
    in_place: bool
    """Whether the commit is confirmed here already: then it is not refused for its agent."""


class SwitchAgent(Value, frozen=True, kw_only=True, tag=True):
    """Put a version of the agent on trial, and end: the launcher starts it."""

    agent: AgentVersion
    needs_git: bool


class Sweep(Value, frozen=True, kw_only=True, tag=True):
    """Remove releases that nothing needs any more."""

    keep: frozenset[ReleaseDigest]


class Obey(Value, frozen=True, kw_only=True, tag=True):
    """Do to what runs what an order asks for; whatever comes of it, once."""

    given: Given
    work: Work
    release: ReleaseDigest


class Settle(Value, frozen=True, kw_only=True, tag=True):
    """Change what is remembered, and say it. Has no effect beyond being written down."""

    memory: Memory
    sayings: tuple[Saying, ...] = ()
    obeyed: str | None = None
    """The order that this obeys."""
    failed: Failed | None = None
    """Why it could not be obeyed."""


class Wait(Value, frozen=True, kw_only=True, tag=True):
    """Nothing to do until ``until_s``, or until something happens."""

    until_s: float


SETBACK = "setback."
"""How the rules begin by which a step waits that could not be taken."""
Step = (
    Stage
    | StageSafe
    | StageAgent
    | SwitchAgent
    | Preflight
    | Switch
    | Apply
    | Mend
    | Rest
    | Halt
    | Clean
    | Sweep
    | Obey
    | Settle
    | Wait
)


class Choice(Value, frozen=True, kw_only=True):
    """A step, the rule that gave it, and why in words."""

    rule: str
    step: Step
    why: str


def step_key(step: Step) -> str:
    """Return the name under which setbacks of ``step`` are counted: one for each kind of effect and its object."""
    match step:
        case Stage() | Preflight():
            return f"{type(step).__name__.lower()}:{step.desired.commit}"
        case Apply(trial=False):
            return f"repair:{step.release}"
        case Clean():
            return f"clean-{step.what}"
        case Mend():
            return f"mend:{step.altered.release}"
        case StageAgent():
            return f"stageagent:{step.commit}"
        case Switch() | Apply() | Rest():
            return f"{type(step).__name__.lower()}:{step.release}"
        case StageSafe() | SwitchAgent() | Halt() | Sweep() | Obey() | Settle() | Wait():
            return type(step).__name__.lower()
        case _:
            assert_never(step)


def held_up(observed: Observed, step: Step, now_s: float) -> Choice | None:
    """Return a wait when ``step`` had a setback and its time has not come.

    It waits no longer at once than who has nothing to do: what is in the way is to be said, not that all is well.
    """
    setback = observed.setbacks.get(step_key(step))
    if setback is None or now_s >= setback.not_before_s:
        return None
    why = f"{setback.message} (tried {setback.attempts} times)"
    until_s = min(setback.not_before_s, now_s + REST_S)
    return Choice(rule=f"{SETBACK}{setback.reason}", step=Wait(until_s=until_s), why=why)
