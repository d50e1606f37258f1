"""The judge of a trial: healthy, unhealthy or undecided, from what was seen since the release was applied.

Compose's own verdict is not used: ``up --wait`` calls a crash loop a success and a finished one-shot a failure
(PEERS.md 4a, C6). Samples are folded one by one into a ``Watch``, so that a long soak costs no memory.
"""

from __future__ import annotations

from msgspec.structs import replace

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Container, Release, Sample, ServicePlan, Trial

MAX_BOOTS = 3
"""Starts of the machine that one trial survives; past it the release is held to be the cause."""
MAX_APPLIES = 5
"""Runs of Compose in one trial, whoever interrupted it."""
RECOVERED_S = 30.0
"""How long something must be well again before it is no longer held to be broken."""


class Finding(Value, frozen=True, kw_only=True):
    """What one sample says about one service or check: well, not yet, or beyond hope."""

    subject: str
    reason: str
    message: str
    hopeless: bool = False


class Watch(Value, frozen=True, kw_only=True):
    """What the samples of one application of one release came to."""

    steady_since_s: float | None = None
    identities: dict[str, tuple[int, str]] = {}
    """Container id -> restarts and start time when the soak began."""
    check_failures: dict[str, int] = {}
    """Failures in a row, by check."""
    waiting_for: Finding | None = None
    verdict: Finding | None = None
    """Set once the release is known to be bad; final."""
    engine_lost: bool = False
    outages: int | None = None
    """Those of the engine when the first sample was taken."""
    last_sample_s: float | None = None


class Ailments(Value, frozen=True, kw_only=True):
    """What of a release is not well outside of a trial: since when, and when it was last seen so."""

    since_s: dict[str, float] = {}
    last_s: dict[str, float] = {}


class Healthy(Value, frozen=True, kw_only=True):
    """Everything stayed well through the soak."""


class Unhealthy(Value, frozen=True, kw_only=True):
    """The release is bad, and why."""

    reason: str
    message: str


class Interrupted(Value, frozen=True, kw_only=True):
    """The engine went away and came back under the trial: apply again, the soak starts over."""


class Undecided(Value, frozen=True, kw_only=True):
    """Look again at ``until_s`` at the latest."""

    until_s: float
    message: str


Verdict = Healthy | Unhealthy | Interrupted | Undecided


def judge(trial: Trial, release: Release, watch: Watch, now_s: float) -> Verdict:
    """Return the verdict on an applied ``trial`` of ``release`` from its ``watch``.

    Every trial ends: at the latest ``start_deadline_s + 2 * soak_s`` after it was applied, or after
    ``MAX_BOOTS`` boots or ``MAX_APPLIES`` applications.
    """
    applied_s = trial.applied_s if trial.applied_s is not None else now_s
    policy = release.health
    if watch.verdict is not None:
        return Unhealthy(reason=watch.verdict.reason, message=watch.verdict.message)
    if watch.engine_lost and watch.waiting_for is None:
        return Interrupted()
    if watch.steady_since_s is not None:
        done_s = watch.steady_since_s + policy.soak_s
        if watch.last_sample_s is not None and watch.last_sample_s >= done_s:
            return Healthy()
        # Past the end only the next sample can decide, and it wakes the loop: this must not be a wait for now.
        until_s = done_s if now_s < done_s else now_s + 1
        return Undecided(until_s=until_s, message=f"healthy, soaking for {policy.soak_s:g} s")
    return _not_steady(release, watch, applied_s, now_s)


def _not_steady(release: Release, watch: Watch, applied_s: float, now_s: float) -> Verdict:
    policy = release.health
    fluttered = watch.identities != {}
    deadline_s = applied_s + policy.start_deadline_s + (2 * policy.soak_s if fluttered else 0)
    waiting = watch.waiting_for.message if watch.waiting_for else "nothing was seen of it yet"
    if now_s < deadline_s or watch.waiting_for is None or watch.engine_lost:
        return Undecided(until_s=max(deadline_s, now_s + 1), message=waiting)
    reason = f"{watch.waiting_for.reason}-at-deadline"
    return Unhealthy(reason=reason, message=f"not healthy within {deadline_s - applied_s:g} s: {waiting}")


def watched(watch: Watch, trial: Trial, release: Release, sample: Sample) -> Watch:
    """Return ``watch`` with one more ``sample`` taken into account; one from before the application counts nothing."""
    if watch.verdict is not None or trial.applied_s is None or sample.at_s < trial.applied_s:
        return watch
    if sample.containers is None:
        message = f"the container engine does not answer: {sample.trouble}"
        lost = Finding(subject="engine", reason="engine-unresponsive", message=message)
        return Watch(engine_lost=True, waiting_for=lost, last_sample_s=sample.at_s)
    if watch.engine_lost:
        return Watch(engine_lost=True, last_sample_s=sample.at_s)
    failures = _failures_in_a_row(watch.check_failures, sample)
    outages = sample.outages if watch.outages is None else watch.outages
    watch = replace(watch, check_failures=failures, outages=outages, last_sample_s=sample.at_s)
    findings = _findings(release, trial.excused, sample)
    if watch.steady_since_s is None:
        new = _starting(watch, sample, findings)
    else:
        new = _in_soak(watch, trial, release, sample, findings)
    if new.verdict is not None and sample.outages != outages:
        return Watch(engine_lost=True, last_sample_s=sample.at_s)  # an engine that ends takes containers along
    return new


def ailing(release: Release, sample: Sample, resting: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the services and checks of ``release`` that are not well: not held against the next trial.

    What rests is not ill. While anything does, no check is asked: it may be about that.
    """
    excused = (*resting, *(f"check:{check.name}" for check in release.checks)) if resting else ()
    return tuple(finding.subject for finding in _findings(release, excused, sample))


def noticed(ailments: Ailments, release: Release, sample: Sample, resting: tuple[str, ...] = ()) -> Ailments:
    """Return ``ailments`` with one more sample. Well is what was so for ``RECOVERED_S``: a crash loop is up too."""
    if sample.containers is None:
        return ailments
    last_s = ailments.last_s | dict.fromkeys(ailing(release, sample, resting), sample.at_s)
    last_s = {name: seen_s for name, seen_s in last_s.items() if sample.at_s < seen_s + RECOVERED_S}
    return Ailments(since_s={name: ailments.since_s.get(name, sample.at_s) for name in last_s}, last_s=last_s)


def _starting(watch: Watch, sample: Sample, findings: tuple[Finding, ...]) -> Watch:
    hopeless = next((finding for finding in findings if finding.hopeless), None)
    if hopeless is not None:
        return replace(watch, verdict=hopeless)
    if findings:
        return replace(watch, waiting_for=findings[0])
    return replace(watch, waiting_for=None, steady_since_s=sample.at_s, identities=_identities(sample))


def _in_soak(watch: Watch, trial: Trial, release: Release, sample: Sample, findings: tuple[Finding, ...]) -> Watch:
    judged = {service.name for service in release.services} - set(trial.excused)
    moved = _moved(watch, release, judged, sample)
    if moved is not None:
        return replace(watch, verdict=moved)
    forgiven = {
        f"check:{check.name}"
        for check in release.checks
        if watch.check_failures.get(check.name, 0) <= check.failures_allowed
    }
    serious = next((finding for finding in findings if finding.subject not in forgiven), None)
    if serious is None:
        return watch
    if release.health.restarts_allowed > 0 and not serious.hopeless and serious.reason in {"restarting", "starting"}:
        return replace(watch, steady_since_s=None, waiting_for=serious)
    return replace(watch, verdict=replace(serious, reason=f"{serious.reason}-in-soak"))


def _moved(watch: Watch, release: Release, judged: set[str], sample: Sample) -> Finding | None:
    """Return what restarted or was replaced since the soak began, beyond what the policy forgives."""
    for container in sample.containers or ():
        known = watch.identities.get(container.id)
        if known is None or container.service not in judged:
            continue
        restarts = container.restarts - known[0]
        if restarts == 0 and container.started_at != known[1]:
            restarts = 1
        if restarts > release.health.restarts_allowed:
            return Finding(
                subject=container.service,
                reason="restarted-in-soak",
                message=f'service "{container.service}" restarted during its soak'
                f" (last exit code {container.exit_code})",
            )
    return None


def _identities(sample: Sample) -> dict[str, tuple[int, str]]:
    return {container.id: (container.restarts, container.started_at) for container in sample.containers or ()}


def _failures_in_a_row(before: dict[str, int], sample: Sample) -> dict[str, int]:
    return {check.name: 0 if check.passed else before.get(check.name, 0) + 1 for check in sample.checks}


def _findings(release: Release, excused: tuple[str, ...], sample: Sample) -> tuple[Finding, ...]:
    """Return all that is not well, the hopeless first."""
    by_service: dict[str, list[Container]] = {}
    for container in sample.containers or ():
        by_service.setdefault(container.service, []).append(container)
    found = [_service_finding(service, by_service.get(service.name, [])) for service in release.services]
    answered = {check.name: check for check in sample.checks}
    for check in release.checks:
        answer = answered.get(check.name)
        if answer is None or not answer.passed:
            message = (
                f'check "{check.name}" failed: {answer.message}' if answer else f'check "{check.name}" has not run'
            )
            found.append(Finding(subject=f"check:{check.name}", reason="check-failed", message=message))
    kept = [finding for finding in found if finding is not None and finding.subject not in excused]
    return tuple(sorted(kept, key=lambda finding: not finding.hopeless))


def _service_finding(service: ServicePlan, containers: list[Container]) -> Finding | None:
    current = [container for container in containers if container.inputs == service.inputs]
    if len(current) < service.replicas:
        what = "still runs what it ran before" if containers and not current else "has no container"
        return Finding(subject=service.name, reason="missing", message=f'service "{service.name}" {what}')
    findings = (_container_finding(service, container) for container in current)
    return next((finding for finding in findings if finding is not None), None)


def _container_finding(service: ServicePlan, container: Container) -> Finding | None:
    name = f'service "{service.name}"'

    def finding(reason: str, message: str, *, hopeless: bool = False) -> Finding:
        return Finding(subject=service.name, reason=reason, message=f"{name} {message}", hopeless=hopeless)

    match container.state, container.health:
        case "running", "unhealthy":
            return finding("unhealthy", "is unhealthy by its own health check", hopeless=True)
        case "running", "starting":
            return finding("starting", "has not passed its health check yet")
        case "running", _:
            return None
        case "exited", _ if service.runs_once and container.exit_code == 0:
            return None
        case "exited" | "dead", _ if service.runs_once:
            return finding("exited", f"ended with exit code {container.exit_code}", hopeless=True)
        case "restarting" | "exited" | "dead", _:
            return finding("restarting", f"ended with exit code {container.exit_code} and is being restarted")
        case state, _:
            return finding("not-running", f"is {state}")
