"""What of a container can be changed behind Compose's back, as ``docker inspect`` tells it, made comparable.

Left out is all that differs between two containers made from one definition, or changes by itself: ids, addresses,
names of anonymous volumes, the order of lists, what a daemon writes as nothing and its successor as zero.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from metrica_agent.decisions.drift import IMAGE, LIMITS, MOUNTS, NETWORKS, RESTART

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ANONYMOUS: Final = re.compile(r"[0-9a-f]{64}")


class Mount(msgspec.Struct, frozen=True, rename="pascal"):
    """One mount."""

    type: str
    destination: str
    name: str = ""
    source: str = ""
    rw: bool = msgspec.field(name="RW", default=True)


class RestartPolicy(msgspec.Struct, frozen=True, rename="pascal"):
    """When the engine starts a container again."""

    name: str = ""
    maximum_retry_count: int = 0


class Host(msgspec.Struct, frozen=True, rename="pascal"):
    """What ``docker update`` can change; ``None`` and 0 mean the same."""

    restart_policy: RestartPolicy
    memory: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    nano_cpus: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpu_realtime_period: int | None = None
    cpu_realtime_runtime: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    blkio_weight: int | None = None
    pids_limit: int | None = None


def traits(image_id: str, mounts: Sequence[Mount], networks: Mapping[str, object] | None, host: Host) -> dict[str, str]:
    """Return the aspects of a container that drift compares, each as a short text."""
    policy = host.restart_policy
    name = policy.name if policy.name not in {"", "no"} else "no"
    limits = [f"{field}={value}" for field, value in sorted(msgspec.structs.asdict(host).items()) if _is_limit(value)]
    return {
        IMAGE: image_id,
        MOUNTS: sha256("\n".join(sorted(map(_mount, mounts))).encode()).hexdigest()[:16],
        NETWORKS: ",".join(sorted(networks or ())),
        RESTART: f"{name}:{policy.maximum_retry_count}",
        LIMITS: ",".join(limits),
    }


def _is_limit(value: object) -> bool:
    return isinstance(value, int | str) and value not in {0, -1, ""}


def _mount(mount: Mount) -> str:
    name = "" if _ANONYMOUS.fullmatch(mount.name) else mount.name
    what = name if mount.type == "volume" else mount.source
    return f"{mount.type} {what} {mount.destination} {'rw' if mount.rw else 'ro'}"
