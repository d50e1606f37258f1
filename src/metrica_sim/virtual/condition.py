"""What a simulated machine may be strained by, and what its sensors say then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_fleet.records import Vitals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metrica_fleet.records import Scalar

GIB: Final = 2**30
WELL: Final = Vitals(
    load_1m=0.1,
    temperature_celsius=45.0,
    under_voltage=False,
    memory_pressure_some_ratio=0.0,
    memory_pressure_full_ratio=0.0,
    disk_total_bytes=32 * GIB,
    disk_free_bytes=20 * GIB,
)
CONDITIONS: Final[Mapping[str, tuple[Mapping[str, Scalar], ...]]] = {
    "heat": ({"temperature_celsius": 77.0}, {"temperature_celsius": 83.0}, {"temperature_celsius": 91.0}),
    "supply-weak": ({"under_voltage": True},),
    "memory-short": (
        {"memory_pressure_some_ratio": 0.6},
        {"memory_pressure_some_ratio": 0.9, "memory_pressure_full_ratio": 0.5},
    ),
    "disk-low": ({"disk_free_bytes": GIB // 2},),
}
"""Kind of fault -> what is other than well, by how bad it is."""
COOLS: Final = frozenset({"heat-1", "heat-2", "memory-short-1"})
"""Conditions in which services of low priority rest."""


def strains(lasting: Iterable[str]) -> frozenset[str]:
    """Return those of the lasting troubles that strain a machine."""
    return frozenset(name for name in lasting if name.rpartition("-")[0] in CONDITIONS)


def vitals(lasting: Iterable[str], *, disk_path: str, clock_synchronised: bool) -> Vitals:
    """Return what the sensors say under these troubles."""
    said = replace(WELL, disk_path=disk_path, clock_synchronised=clock_synchronised)
    for name in sorted(strains(lasting)):
        kind, _, amount = name.rpartition("-")
        said = replace(said, **CONDITIONS[kind][int(amount)])
    return said
