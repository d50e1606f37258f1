"""Small worlds to decide in: one release of two services, and the samples that it may give."""

from __future__ import annotations

from msgspec.structs import replace

from metrica_agent.decisions.steps import Observed
from metrica_agent.decisions.trial import Watch
from metrica_agent.decisions.world import (
    CheckResult,
    Container,
    Deployed,
    Desired,
    Memory,
    Portrait,
    Release,
    Sample,
    ServicePlan,
    Trial,
    TrialKind,
)
from metrica_fleet.definition import Check, HealthPolicy, Limits
from metrica_fleet.identity import BootId, CommitId, DeviceId, FleetId, ReleaseDigest, RoleId

BOOT = BootId("boot-1")
OLD, NEW = ReleaseDigest("a" * 64), ReleaseDigest("b" * 64)
OLD_COMMIT, NEW_COMMIT = CommitId("1" * 40), CommitId("2" * 40)
POLICY = HealthPolicy(start_deadline_s=30, soak_s=10)


def release(digest: ReleaseDigest = NEW, *, checks: tuple[Check, ...] = (), health: HealthPolicy = POLICY) -> Release:
    return Release(
        digest=digest,
        role=RoleId("camera"),
        services=(
            ServicePlan(name="web", inputs=f"web-{digest[0]}", image="i"),
            ServicePlan(name="init", inputs=f"init-{digest[0]}", image="i", runs_once=True),
        ),
        checks=checks,
        health=health,
        limits=Limits(),
    )


def web(digest: ReleaseDigest = NEW, **changes: object) -> Container:
    running = Container(
        id=f"web-{digest[0]}",
        service="web",
        state="running",
        health="healthy",
        exit_code=0,
        restarts=0,
        started_at="t0",
        inputs=f"web-{digest[0]}",
    )
    return replace(running, **changes)


def init(digest: ReleaseDigest = NEW, **changes: object) -> Container:
    ended = Container(
        id=f"init-{digest[0]}",
        service="init",
        state="exited",
        health=None,
        exit_code=0,
        restarts=0,
        started_at="t0",
        inputs=f"init-{digest[0]}",
    )
    return replace(ended, **changes)


def sample(at_s: float, *containers: Container, checks: tuple[CheckResult, ...] = (), outages: int = 0) -> Sample:
    return Sample(at_s=at_s, taken_s=at_s, containers=containers or (web(), init()), checks=checks, outages=outages)


def silence(at_s: float) -> Sample:
    return Sample(at_s=at_s, taken_s=at_s, containers=None)


def trial(kind: TrialKind = TrialKind.FORWARD, **changes: object) -> Trial:
    begun = Trial(kind=kind, commit=NEW_COMMIT, release=NEW, boot_id=BOOT, begun_s=0, applied_s=0)
    return replace(begun, **changes)


def desired(commit: CommitId = NEW_COMMIT) -> Desired:
    return Desired(
        commit=commit,
        fleet=FleetId("demo"),
        device=DeviceId("pi-01"),
        role=RoleId("camera"),
        tags=(),
        variables={},
        health=POLICY,
        limits=Limits(),
        checks=(),
    )


def settled(commit: CommitId = OLD_COMMIT, digest: ReleaseDigest = OLD) -> Memory:
    deployed = Deployed(commit=commit, release=digest)
    portrait = Portrait(release=digest, boot_id=BOOT, containers=(), traits={})
    return Memory(accepted=commit, role=RoleId("camera"), confirmed=deployed, resolved=deployed, portrait=portrait)


def observed(memory: Memory, **changes: object) -> Observed:
    subject = memory.trial or memory.confirmed
    quiet = Observed(
        boot_id=BOOT,
        memory=memory,
        candidate=None,
        current=subject.release if subject else None,
        complete=frozenset({OLD, NEW}),
        release=release(subject.release) if subject else None,
        sample=sample(100, web(OLD), init(OLD)),
        watch=Watch(),
        preflighted=None,
    )
    return replace(quiet, **changes)
