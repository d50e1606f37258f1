"""Which services of a release may rest before which others.

A service that another one needs is worth as much as that one: it never rests while who needs it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_fleet.policies import Priority, ServicePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metrica_agent.decisions.render import Model
    from metrica_agent.decisions.world import ServicePlan

_ORDER: Final[tuple[Priority, ...]] = ("low", "normal", "high")
_SHARED: Final = ("network_mode", "ipc", "pid")
"""``service:NAME`` in one of these: the service lives inside the other one's namespace."""


def written(policies: Mapping[str, ServicePolicy]) -> dict[str, Priority]:
    """Return the priorities that ``policies`` give, but for the ordinary one: what of them makes another release."""
    return {name: policy.priority for name, policy in policies.items() if policy.priority != ServicePolicy().priority}


def with_priorities(
    services: Sequence[ServicePlan], compose: Model, policies: Mapping[str, ServicePolicy]
) -> tuple[ServicePlan, ...]:
    """Return ``services``, each with its priority: its own, or the highest of those that need it."""
    priorities: dict[str, Priority] = {
        service.name: policies.get(service.name, ServicePolicy()).priority for service in services
    }
    models: Mapping[str, Model] = compose["services"]
    for _ in services:  # so often that the longest chain is through
        for name, model in models.items():
            for other in _needs(model) & priorities.keys():
                priorities[other] = _higher(priorities[other], priorities[name])
    return tuple(replace(service, priority=priorities[service.name]) for service in services)


def _higher(one: Priority, other: Priority) -> Priority:
    return one if _ORDER.index(one) >= _ORDER.index(other) else other


def _needs(service: Model) -> set[str]:
    """Return the services without which ``service`` can't run."""
    dependencies: Model | Sequence[str] = service.get("depends_on") or {}
    shared = [str(service.get(key) or "") for key in _SHARED]
    mounted = [str(one) for one in service.get("volumes_from") or ()]
    return {
        *dependencies,
        *(one.removeprefix("service:") for one in shared if one.startswith("service:")),
        *(one.partition(":")[0] for one in mounted if not one.startswith("container:")),
        *(str(one).partition(":")[0] for one in service.get("links") or ()),
    }
