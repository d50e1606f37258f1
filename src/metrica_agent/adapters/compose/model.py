"""What a rendered model says about its services and networks, as far as applying it needs to know."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from metrica_agent.decisions.render import INPUTS_LABEL

if TYPE_CHECKING:
    from collections.abc import Collection


def services_of(compose: bytes) -> dict[str, Any]:
    """Return the services of the model that ``compose`` is."""
    model: dict[str, Any] = msgspec.json.decode(compose, type=dict[str, Any])
    services: dict[str, Any] = model["services"]
    return services


def is_of(source: str, contents: Collection[str]) -> bool:
    """Whether ``source`` is, or lies in, ``content/<digest>`` of one of ``contents``."""
    parts = source.split("/")
    return any(parent == "content" and name in contents for parent, name in pairwise(parts))


def linked(services: dict[str, Any], names: Collection[str]) -> bool:
    """Whether one of ``names`` needs another of them: then Compose has to see to their order."""
    return any({*(services[name].get("depends_on") or ()), *_shared(services[name])} & {*names} for name in names)


def sharing(services: dict[str, Any], names: Collection[str]) -> set[str]:
    """Return the services that live in namespaces or volumes of containers of ``names``, and so end with them."""
    found: set[str] = set()
    while more := {name for name in services if _shared(services[name]) & {*names, *found}} - found:
        found |= more
    return found


def _shared(service: dict[str, Any]) -> set[str]:
    """Return the services whose containers this one is made to use."""
    modes = (str(service.get(key) or "") for key in ("network_mode", "ipc", "pid"))
    others = {mode.removeprefix("service:") for mode in modes if mode.startswith("service:")}
    sources: list[str] = service.get("volumes_from") or []
    return others | {source.partition(":")[0] for source in sources if not source.startswith("container:")}


def network_labels(compose: bytes) -> dict[str, str]:
    """Return by its name the label of each network that the rendered model makes itself."""
    model: dict[str, Any] = msgspec.json.decode(compose, type=dict[str, Any])
    networks: dict[str, dict[str, Any]] = model.get("networks", {})
    return {one["name"]: one["labels"][INPUTS_LABEL] for one in networks.values() if not one.get("external")}
