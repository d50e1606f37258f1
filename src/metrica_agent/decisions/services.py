"""What of a release runs, for people: a line for each service, told when it changed and not oftener than it is read.

Whether that is as it should be is decided elsewhere (``decisions.trial``, ``decisions.drift``).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.pace import Pace
from metrica_agent.decisions.value import Value
from metrica_fleet.messages import IMAGE_CHARACTERS, MOST_SERVICES, SERVICE_CHARACTERS, Service

if TYPE_CHECKING:
    from metrica_agent.decisions.world import Container, Release, Sample, ServicePlan

PACE: Final = Pace(per_s=1 / 120, burst=30, tokens=30.0)
"""Enough for a person at work; of a service that crashes for ever every other minute is told, 720 times a day."""
_ID_CHARACTERS: Final = 12
_FIRST_YEAR: Final = 2020
"""A clock that says less was never set."""
_WORST_FIRST: Final = ("dead", "exited", "restarting", "removing", "created", "paused", "running")
_SICK_FIRST: Final = ("unhealthy", "starting")
_UP: Final = frozenset({"running", "paused"})
_ENDED: Final = frozenset({"exited", "dead", "restarting"})


class Shown(Value, frozen=True, kw_only=True):
    """What is told of the services of a device."""

    services: tuple[Service, ...]
    untold: int = 0
    """How many more there are."""
    engine_answers: bool = True
    """If it does not, the services are as they were seen last."""


def shown(
    before: Shown | None, sample: Sample | None, release: Release | None, resting: tuple[str, ...]
) -> Shown | None:
    """Return what to tell; ``None`` until the engine has answered once.

    Args:
        before: what there was to tell last.
        sample: the last look at what runs.
        release: what is to run: a service of it without a container is told, too.
        resting: services that were stopped to spare the machine.
    """
    if sample is None:
        return before
    if sample.containers is None:
        return before and Shown(services=before.services, untold=before.untold, engine_answers=False)
    plans = {plan.name: plan for plan in release.services} if release is not None else {}
    made: dict[str, list[Container]] = {name: [] for name in plans}
    for container in sample.containers:
        if not container.foreign:
            made.setdefault(container.service, []).append(container)
    services = [_service(name, plans.get(name), found, name in resting) for name, found in sorted(made.items())]
    return Shown(services=tuple(services[:MOST_SERVICES]), untold=max(0, len(services) - MOST_SERVICES))


def _service(name: str, plan: ServicePlan | None, containers: list[Container], rests: bool) -> Service:  # noqa: FBT001
    if not containers:
        image = plan.image if plan is not None else ""
        state = "resting" if rests else "missing"
        return Service(name=name[:SERVICE_CHARACTERS], state=state, containers=0, image=image[:IMAGE_CHARACTERS])
    worst = min(containers, key=_rank)
    ended = worst.state in _ENDED
    return Service(
        name=name[:SERVICE_CHARACTERS],
        state=_state(worst, plan, rests=rests),
        health=worst.health if worst.state in _UP else None,
        exit_code=worst.exit_code if ended else None,
        restarts=max(container.restarts for container in containers),
        containers=len(containers),
        image=worst.image[:IMAGE_CHARACTERS],
        image_id=worst.image_id.removeprefix("sha256:")[:_ID_CHARACTERS],
        since=_instant(worst.finished_at if ended else worst.started_at),
    )


def _state(container: Container, plan: ServicePlan | None, *, rests: bool) -> str:
    if container.state in _UP:
        return container.state
    if rests:
        return "resting"
    if container.state == "exited" and container.exit_code == 0 and plan is not None and plan.runs_once:
        return "done"
    return container.state


def _rank(container: Container) -> tuple[int, int, str]:
    return _place(_WORST_FIRST, container.state), _place(_SICK_FIRST, container.health), container.id


def _place(order: tuple[str, ...], word: str | None) -> int:
    return order.index(word) if word in order else len(order)


def _instant(text: str) -> datetime | None:
    """Return the time that the engine tells, to the second; ``None`` where it tells none, or no clock was set."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.replace(microsecond=0) if at.tzinfo is not None and at.year >= _FIRST_YEAR else None
