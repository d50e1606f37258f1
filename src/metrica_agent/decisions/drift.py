"""What differs between the release that is to run and what runs. On a quiet device it finds nothing, twice in a row.

Compared are: which containers there are and what state they are in, the label over everything that a service reads,
and, of running containers, the traits that can be changed behind Compose's back (``docker update``, ``docker network
disconnect``, another image under the same name) with the portrait that was taken when all was well.
"""

from __future__ import annotations

from typing import Final

from metrica_agent.decisions.value import Value
from metrica_agent.decisions.world import Container, Portrait, Release, Sample, ServicePlan
from metrica_fleet.identity import BootId, ReleaseDigest

IMAGE: Final = "image"
LIMITS: Final = "limits"
MOUNTS: Final = "mounts"
NETWORKS: Final = "networks"
RESTART: Final = "restart policy"
ASPECTS: Final = (IMAGE, MOUNTS, NETWORKS, RESTART, LIMITS)
FILES: Final = "files"
"""The subject of what differs on disk."""
_CONTENT: Final = "content/"
_ALIVE: Final = frozenset({"running", "restarting", "paused"})
WAY_TO_STOP: Final = (
    "to stop something for good, take it out of the Compose file, or hold the device: metrica-agent hold on"
)


class Difference(Value, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    subject: str
    """A service, or the name of a container that belongs to none."""
    message: str
    recreate: bool = False
    """Compose sees no difference: it must be told to make the service's containers anew."""
    stranger: str = ""
    """The id of a container to remove."""


class Altered(Value, frozen=True, kw_only=True):
    """Files of a release are not as they were published."""

    release: ReleaseDigest
    differences: tuple[str, ...]

    @property
    def contents(self) -> tuple[str, ...]:
        """The digests under ``content/`` that are among them: what services mount."""
        mounted = (one.removeprefix(_CONTENT) for one in self.differences if one.startswith(_CONTENT))
        return tuple(one.partition(" ")[0].partition("/")[0] for one in mounted)


class Repair(Value, frozen=True, kw_only=True):
    """What to do about differences, and to nothing else."""

    services: tuple[str, ...] = ()
    """To be brought up as the release has them."""
    recreate: tuple[str, ...] = ()
    """Of those, to be made anew whatever Compose thinks."""
    strangers: tuple[str, ...] = ()
    """Ids of containers to remove."""
    images: dict[str, str] = {}
    """Image name -> id of the image that it meant when the release was confirmed."""
    contents: tuple[str, ...] = ()
    """Digests under ``content/`` whose readers are to be restarted."""


def differences(
    release: Release,
    sample: Sample,
    portrait: Portrait | None = None,
    boot_id: BootId | None = None,
    resting: tuple[str, ...] = (),
) -> tuple[Difference, ...]:
    """Return each thing that a repair would set right.

    A crash loop or an unhealthy container is no drift: it is what was deployed, misbehaving, and the engine already
    restarts it. Nothing is known while the engine does not answer, so nothing differs. Of a service that rests nothing
    is asked here (``awake``).
    """
    if sample.containers is None:
        return ()
    ours = [container for container in sample.containers if not container.foreign]
    found: list[Difference] = []
    for service in release.services:
        if service.name in resting:
            continue
        containers = [container for container in ours if container.service == service.name]
        found.extend(_service_differences(service, containers, _known(portrait, release), boot_id))
    planned = {service.name for service in release.services}
    found.extend(_stranger(container) for container in sample.containers if container.foreign)
    found.extend(_left_over(container) for container in ours if container.service not in planned)
    return tuple(found)


def awake(sample: Sample, resting: tuple[str, ...]) -> tuple[str, ...]:
    """Return those services that run although they are to rest: a reboot starts some, and people do."""
    running = {one.service for one in sample.containers or () if one.state in _ALIVE and not one.foreign}
    return tuple(sorted(running & set(resting)))


def repair_of(found: tuple[Difference, ...], release: Release, portrait: Portrait | None, *, anew: bool) -> Repair:
    """Return the repair of ``found``; ``anew``: make all of it anew, as a gentler try did not help."""
    planned = {service.name: service for service in release.services}
    services = tuple(sorted({one.subject for one in found if one.subject in planned and not one.stranger}))
    recreate = {one.subject for one in found if one.recreate or anew}
    known = _known(portrait, release)
    traits = known.traits if known is not None else {}
    images = {planned[name].image: traits[name][IMAGE] for name in services if IMAGE in traits.get(name, {})}
    return Repair(
        services=services,
        recreate=tuple(name for name in services if name in recreate),
        strangers=tuple(one.stranger for one in found if one.stranger),
        images=images,
    )


def portrayed(release: Release, sample: Sample | None, boot_id: BootId) -> Portrait | None:
    """Return what the containers of ``release`` are like now; ``None`` where that can't be known."""
    if sample is None or sample.containers is None:
        return None
    traits: dict[str, dict[str, str]] = {}
    ids: list[str] = []
    for service in release.services:
        containers = [one for one in sample.containers if one.service == service.name and not one.foreign]
        ids += [one.id for one in containers]
        every = [one.traits for one in containers if one.inputs == service.inputs]
        if every:
            first, *others = every
            traits[service.name] = {
                aspect: value for aspect, value in first.items() if all(one.get(aspect) == value for one in others)
            }
    return Portrait(release=release.digest, boot_id=boot_id, containers=tuple(sorted(ids)), traits=traits)


def is_stale(portrait: Portrait | None, release: Release, sample: Sample, boot_id: BootId) -> bool:
    """Whether another portrait is to be taken of a release that runs well: none is there, or it is of another boot.

    Limits of containers that were made since are compared within one boot only: what a kernel can limit may change with
    its command line, and then Docker leaves limits out.
    """
    known = _known(portrait, release)
    if known is None:
        return True
    if known.boot_id == boot_id:
        return False
    return any(one.id not in known.containers for one in sample.containers or () if not one.foreign)


def _known(portrait: Portrait | None, release: Release) -> Portrait | None:
    return portrait if portrait is not None and portrait.release == release.digest else None


def _service_differences(
    service: ServicePlan, containers: list[Container], portrait: Portrait | None, boot_id: BootId | None
) -> list[Difference]:
    name = f'service "{service.name}"'
    if any(container.inputs != service.inputs for container in containers):
        return [Difference(subject=service.name, message=f"{name} runs something else than the release")]
    if len(containers) != service.replicas:
        message = f"{name} has {len(containers)} of {service.replicas} containers"
        return [Difference(subject=service.name, message=message)]
    found = [
        Difference(subject=service.name, message=f"{name} is {container.state} (exit code {container.exit_code})")
        for container in containers
        if not _at_rest(service, container)
    ]
    return found or [
        Difference(subject=service.name, message=f"{name} has other {aspect} than when it was confirmed", recreate=True)
        for aspect in _changed_traits(service, containers, portrait, boot_id)
    ]


def _changed_traits(
    service: ServicePlan, containers: list[Container], portrait: Portrait | None, boot_id: BootId | None
) -> list[str]:
    if portrait is None:
        return []
    known = portrait.traits.get(service.name, {})
    changed: set[str] = set()
    for container in containers:
        if container.state not in _ALIVE or not container.traits:
            continue
        strict = portrait.boot_id == boot_id or container.id in portrait.containers
        compared = known if strict else {aspect: value for aspect, value in known.items() if aspect != LIMITS}
        changed |= {aspect for aspect, value in compared.items() if container.traits.get(aspect) != value}
    return [aspect for aspect in ASPECTS if aspect in changed]


def _stranger(container: Container) -> Difference:
    message = f'container "{container.name}" was started by hand into the project'
    return Difference(subject=container.name, message=message, stranger=container.id)


def _left_over(container: Container) -> Difference:
    message = f'service "{container.service}" runs and is not part of the release'
    return Difference(subject=container.service, message=message, stranger=container.id)


def _at_rest(service: ServicePlan, container: Container) -> bool:
    if container.state == "exited":
        return service.runs_once and container.exit_code == 0
    return container.state in {"running", "restarting"}
