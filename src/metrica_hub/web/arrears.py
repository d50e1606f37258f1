"""Records that do not arrive, in ``/metrics``: told by the hub that leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import CollectorRegistry, Metric


class ArrearFigures(Collector):
    """A series for each device whose stream has a gap that does not close."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._missing: Mapping[str, int] = {}
        registry.register(self)

    def show(self, missing: Mapping[str, int]) -> None:
        """Show these until others are found."""
        self._missing = dict(missing)

    def describe(self) -> Iterable[Metric]:
        """Return what may be shown, so that it is known before it is."""
        return [self._family({})]

    def collect(self) -> Iterable[Metric]:
        """Return what is known now."""
        return [self._family(self._missing)] if self._missing else []

    def _family(self, missing: Mapping[str, int]) -> Metric:
        family = GaugeMetricFamily(
            "metrica_device_records_missing",
            "Records that the device has said and that do not arrive although it is heard; absent otherwise.",
            labels=["device"],
        )
        for device, count in sorted(missing.items()):
            family.add_metric([device], count)
        return family
