"""What the agent knows, wants and may do, as frozen values.

All times ``*_s`` are seconds on the boot clock (CLOCK_BOOTTIME) and mean something only beside the boot id they were
taken in.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, assert_never

from metrica_agent.decisions.value import Value
from metrica_fleet.definition import (
    AgentVersion,
    Check,
    HealthPolicy,
    Limits,
    RolloutPolicy,
    ServicePolicy,
    UpdatePolicy,
)
from metrica_fleet.gate import Gate
from metrica_fleet.identity import BootId, CommitId, DeviceId, FleetId, ReleaseDigest, RoleId
from metrica_fleet.policies import Priority
from metrica_fleet.records import Scalar
from metrica_fleet.stop import Stop, StopOrder

# --- what is wanted -------------------------------------------------------------------------------------------


class Desired(Value, frozen=True, kw_only=True):
    """A commit of the fleet repository, as far as it concerns this device. Parsed, so it can be staged."""

    commit: CommitId
    fleet: FleetId
    device: DeviceId
    role: RoleId
    tags: tuple[str, ...]
    variables: dict[str, str]
    health: HealthPolicy
    limits: Limits
    checks: tuple[Check, ...]
    update: UpdatePolicy = UpdatePolicy()
    services: dict[str, ServicePolicy] = {}
    rollout: RolloutPolicy | None = None
    """``None``: it may begin at once."""
    signers: str | None = None
    """The ``allowed_signers`` that it brings; ``None`` where it has none."""
    stops: tuple[Stop, ...] | None = None
    """What its file ``STOP`` stops, if it has one; ``None``: that says nothing here."""
    agent: AgentVersion | None = None
    """The agent that it wants to run here; ``None``: it does not say."""


class Unacceptable(Value, frozen=True, kw_only=True):
    """A commit that will not be deployed, found out before anything was staged."""

    commit: CommitId
    reason: str
    message: str
    stops: tuple[Stop, ...] | None = None
    """What its file ``STOP`` stops, however bad the rest is; ``None``: it is not trusted, or was not looked at."""


class Deployed(Value, frozen=True, kw_only=True):
    """A release and the newest commit that means it."""

    commit: CommitId
    release: ReleaseDigest


# --- what a release is made of --------------------------------------------------------------------------------


class ServicePlan(Value, frozen=True, kw_only=True):
    """One service of a release's rendered model."""

    name: str
    inputs: str
    """SHA-256 over everything the service reads; the label ``fleet.metrica.inputs`` of its containers."""
    image: str
    replicas: int = 1
    runs_once: bool = False
    """May end well: its restart policy is "no" or "on-failure", so exit code 0 is done, not failed."""
    priority: Priority = "normal"
    """Its own, or that of a service which needs it, whichever is higher."""


class Release(Value, frozen=True, kw_only=True):
    """A complete release on disk: what the judge of a trial must know about it."""

    digest: ReleaseDigest
    role: RoleId
    services: tuple[ServicePlan, ...]
    checks: tuple[Check, ...]
    health: HealthPolicy
    limits: Limits
    commit: CommitId | None = None
    """That it was first made of, for the day on which the ledger is lost; others may mean the same release."""


# --- what runs ------------------------------------------------------------------------------------------------


class Container(Value, frozen=True, kw_only=True):
    """One container of the project, as the engine tells it."""

    id: str
    service: str
    state: str
    """created, running, paused, restarting, removing, exited or dead."""
    health: Literal["healthy", "unhealthy", "starting"] | None
    exit_code: int
    restarts: int
    started_at: str
    """The engine's own time stamp: compared for equality only."""
    inputs: str
    """Label ``fleet.metrica.inputs``; empty where somebody else made the container."""
    image_id: str = ""
    image: str = ""
    """Its name, as Compose was given it."""
    finished_at: str = ""
    """When it last ended, as the engine tells it; while it runs, of no meaning."""
    name: str = ""
    traits: dict[str, str] = {}
    """What can be changed of a container behind Compose's back, aspect by aspect (see ``decisions.drift``)."""
    foreign: bool = False
    """In the project, and not made by Compose for one of its services."""


class CheckResult(Value, frozen=True, kw_only=True):
    """One answer of one of the role's own checks."""

    name: str
    passed: bool
    message: str = ""


class Sample(Value, frozen=True, kw_only=True):
    """One look at everything that runs. ``containers`` is ``None`` when the engine did not answer."""

    at_s: float
    containers: tuple[Container, ...] | None
    checks: tuple[CheckResult, ...] = ()
    taken_s: float = 0.0
    """When the last answer had come; ``at_s`` is when the first was asked for."""
    trouble: str = ""
    """Why the engine did not answer."""
    outages: int = 0
    """How often the engine has hung up on the agent since that started. One that is restarted need not be missed:
    where systemd holds its socket, who asks meanwhile is answered by the next."""


# --- what is remembered ---------------------------------------------------------------------------------------


class TrialKind(StrEnum):
    """Which way a trial goes; both ways are judged by the same rules."""

    FORWARD = "forward"
    BACK = "back"


class Trial(Value, frozen=True, kw_only=True):
    """A switch that was begun and is not yet judged."""

    kind: TrialKind
    commit: CommitId
    release: ReleaseDigest
    boot_id: BootId
    begun_s: float
    applied_s: float | None = None
    """When Compose had applied it; ``None`` until then, and again after a reboot."""
    boots: int = 0
    """How often the machine was started during the trial."""
    applies: int = 0
    """How often Compose was run for it, whatever interrupted the one before."""
    excused: tuple[str, ...] = ()
    """Services and checks that were broken before, and are not held against it."""


class Refused(Value, frozen=True, kw_only=True):
    """A commit that is not tried again by itself."""

    commit: CommitId
    reason: str
    message: str
    release: ReleaseDigest | None = None
    """Set when the release failed its trial: then another commit that means the same release is refused as well."""


class Start(Value, frozen=True, kw_only=True):
    """A start of the agent that has not been followed by steadiness yet."""

    boot_id: BootId
    at_s: float
    agent: str = ""
    """Which version was started, by its name on disk: the crashes of one say nothing of another."""


class Upgrading(Value, frozen=True, kw_only=True):
    """A version of the agent that is about to be put on trial, or is: part of what a commit wants."""

    name: str
    """Of the version, on disk."""
    commit: CommitId
    boot_id: BootId
    since_s: float


class SafeMode(Value, frozen=True, kw_only=True):
    """The device runs the stack that always works, until something leads out."""

    reason: str
    message: str
    commit: CommitId | None
    """What was accepted when it was entered: another commit that goes forward leads out, this one does not."""
    release: ReleaseDigest | None = None
    """The safe-mode stack, once it is complete on disk."""
    applied: bool = False
    """Whether Compose has made it run since it was entered, or since a trial was taken back to it."""


class Held(Value, frozen=True, kw_only=True):
    """Somebody said that nothing is to change."""

    reason: str
    message: str


class Portrait(Value, frozen=True, kw_only=True):
    """What the containers of a release were like when it was found to run well: drift is measured against it."""

    release: ReleaseDigest
    boot_id: BootId
    containers: tuple[str, ...]
    """Their ids."""
    traits: dict[str, dict[str, str]]
    """Service -> aspect -> value, where all its containers agreed."""


class Contest(Value, frozen=True, kw_only=True):
    """How often something was repaired of late. Past a bound it is contested, and touched once an hour."""

    subject: str
    """A service, a container's name, or ``files``."""
    repairs: int
    boot_id: BootId
    last_s: float
    contested: bool = False


class Mending(Value, frozen=True, kw_only=True):
    """The files of a release were found altered; their readers were not restarted yet."""

    release: ReleaseDigest
    contents: tuple[str, ...]
    """Digests under ``content/`` whose readers are to be restarted."""


class Waiting(Value, frozen=True, kw_only=True):
    """A release that is ready, and waits for the consent of the role's windows or of a service's lock."""

    release: ReleaseDigest
    reason: str
    boot_id: BootId
    since_s: float
    """Since when for this reason, or since the figures below were brought up to date."""
    total_s: float = 0.0
    """Waited before ``since_s``, for whatever reason."""
    locked_s: float = 0.0
    """Of that, for locks."""
    told: tuple[str, ...] = ()
    """Reasons that were said already."""
    aside: bool = False
    """Whether something else is waited for now: since ``since_s`` nothing is counted. (An older agent counts it.)"""


class HeadMark(Value, frozen=True, kw_only=True):
    """Where the hub said that the branch is, signed (metrica_fleet.head)."""

    number: int
    """Of that word; older ones are history."""
    commit: CommitId
    lifetime_s: float
    """For how long such a word is good."""


class Asking(Value, frozen=True, kw_only=True):
    """A commit that is to wait for the gate of its rollout, and how long the hub has been silent meanwhile."""

    commit: CommitId
    boot_id: BootId
    since_s: float
    """Since when, or since ``silent_s`` was brought up to date."""
    silent_s: float = 0.0
    """Of the hub, before ``since_s``."""
    told: tuple[str, ...] = ()
    """Reasons that were said already."""


class Trust(Value, frozen=True, kw_only=True):
    """Who may sign commits. In the memory, so that it changes in one transaction with the commit that changes it."""

    signers: str
    """The ``allowed_signers`` in force."""
    since: CommitId | None
    """The commit that brought it; ``None``: it is the device's own file."""
    root: str
    """SHA-256 of the device's own file: when that is changed, by somebody on the device, trust begins with it anew."""


class Heard(Value, frozen=True, kw_only=True):
    """A stop order whose signature is good."""

    order: StopOrder
    by: str


class InForce(Value, frozen=True, kw_only=True):
    """The one stop that counts for this device."""

    stop: Stop
    source: Literal["order", "git"]
    number: int
    """Of the newest order that is known, whichever of the two counts."""
    by: str
    """Who signed it, or the commit."""


class Stopped(Value, frozen=True, kw_only=True):
    """All that is stopped as far as this device knows, whomever it concerns, and how far it was obeyed."""

    number: int = 0
    """Of the newest order; older ones, and this one again, are not listened to."""
    by: str = ""
    ordered: tuple[Stop, ...] = ()
    in_git: tuple[Stop, ...] = ()
    commit: CommitId | None = None
    """Whose ``STOP`` it is."""
    obeyed: InForce | None = None
    """What of it counts for this device, as it was told."""
    done: bool = False
    """Whether all is done that it asks for."""


class Cause(StrEnum):
    """What a machine may be strained by."""

    DISK = "disk"
    HEAT = "heat"
    SUPPLY = "supply"
    MEMORY = "memory"


class Felt(Value, frozen=True, kw_only=True):
    """How far one cause has come."""

    level: int = 0
    """0 is well; from 1 up they have names (``strain.STAGES``)."""
    since_s: float | None = None
    """When it came to this level."""
    last_s: float = 0.0
    """When the machine last was as bad as this level says."""
    figures: str = ""
    """What was measured when it came to this level."""


class Strain(Value, frozen=True, kw_only=True):
    """How far the machine is strained, by each cause."""

    boot_id: BootId | None = None
    """Of the boot that the times belong to."""
    disk: Felt = Felt()
    heat: Felt = Felt()
    supply: Felt = Felt()
    memory: Felt = Felt()

    def of(self, cause: Cause) -> Felt:
        """Return one cause."""
        match cause:
            case Cause.DISK:
                return self.disk
            case Cause.HEAT:
                return self.heat
            case Cause.SUPPLY:
                return self.supply
            case Cause.MEMORY:
                return self.memory
            case _:
                assert_never(cause)

    @property
    def levels(self) -> tuple[int, ...]:
        """The level of each cause: what is worth remembering."""
        return (self.disk.level, self.heat.level, self.supply.level, self.memory.level)


class Memory(Value, frozen=True, kw_only=True):
    """Everything that must outlive a power cut. Replaced as a whole, in the transaction of the events that tell why."""

    accepted: CommitId | None = None
    """The newest commit that was taken from Git; history must go forward from here."""
    role: RoleId | None = None
    tags: tuple[str, ...] = ()
    resolved: Deployed | None = None
    """The release that the newest staged commit means."""
    confirmed: Deployed | None = None
    earlier: tuple[Deployed, ...] = ()
    """Confirmed before ``confirmed``, newest first, other releases only."""
    trial: Trial | None = None
    refused: tuple[Refused, ...] = ()
    """Newest first, bounded."""
    last_refused: Refused | None = None
    """Refused since the last confirmation."""
    starts: tuple[Start, ...] = ()
    """Of the agent, since it was last steady; oldest first."""
    safe: SafeMode | None = None
    held: Held | None = None
    waiting: Waiting | None = None
    portrait: Portrait | None = None
    contests: tuple[Contest, ...] = ()
    mending: Mending | None = None
    brought: CommitId | None = None
    """The commit that a stick brought last: it waits for no word of the hub, unless that says no."""
    allowed: tuple[CommitId, ...] = ()
    """Commits that an operator allowed to follow whatever their history, newest first; each good for once."""
    trust: Trust | None = None
    """``None`` until signatures are asked for."""
    signers: str | None = None
    """The ``allowed_signers`` of the accepted commit where commits need no signature: orders need one all the same."""
    strain: Strain = Strain()
    """As it was last told."""
    resting: tuple[str, ...] = ()
    """Services of the confirmed release that were stopped to spare the machine."""
    gate: Gate | None = None
    """The last word of the hub about rollouts: the one of the highest number."""
    head: HeadMark | None = None
    """What the hub vouched for, as it was when its commit was first named; ``None``: never anything."""
    asking: Asking | None = None
    arrived: CommitId | None = None
    """The commit whose trial brought ``confirmed``; ``None``: it was gone back to, or is older than this field."""
    spare_images: tuple[str, ...] = ()
    """Names of the images of releases that were removed: what cleaning may take; newest last, bounded."""
    stop: Stopped | None = None
    """``None`` until anything was stopped."""
    upgrading: Upgrading | None = None
    """The agent that was begun to be put on trial, until the verdict."""

    @property
    def standing(self) -> ReleaseDigest | None:
        """What is to run while nothing is on trial: the safe-mode stack in safe mode, else the confirmed release."""
        if self.safe is not None:
            return self.safe.release
        return self.confirmed.release if self.confirmed is not None else None

    def refusal_of(self, commit: CommitId) -> Refused | None:
        """Return why ``commit`` is not tried again, or ``None``."""
        return next((refused for refused in self.refused if refused.commit == commit), None)


# --- what is said ---------------------------------------------------------------------------------------------


class Saying(Value, frozen=True, kw_only=True):
    """An event before the ledger gives it its number. ``kind`` is one of ``metrica_fleet.records.EVENT_KINDS``."""

    kind: str
    reason: str | None = None
    message: str = ""
    commit: CommitId | None = None
    release: ReleaseDigest | None = None
    detail: dict[str, Scalar] = {}


class Decision(Value, frozen=True, kw_only=True):
    """One answer of the converge loop, with the rule that gave it and the facts it saw; for ``explain``."""

    rule: str
    step: str
    why: str
    facts: dict[str, Scalar]


class Stamp(Value, frozen=True, kw_only=True):
    """When something happened, as well as a machine without a clock can say."""

    boot_id: BootId
    uptime_s: float
    at: str | None
    """RFC 3339, UTC; ``None`` while the wall clock is not synchronised."""
