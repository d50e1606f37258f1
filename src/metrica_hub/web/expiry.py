"""Certificates that end soon, in ``/metrics``: devices' by the hub that leads, and each hub's own by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from metrica_hub.decisions.expiry import Outlook

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from prometheus_client import CollectorRegistry, Metric


class ExpiryFigures(Collector):
    """A series for each certificate that ends soon, how many they are, and when the first of all ends."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._found: Outlook | None = None
        registry.register(self)

    def show(self, found: Outlook) -> None:
        """Show this until something else is found."""
        self._found = found

    def describe(self) -> Iterable[Metric]:
        """Return what may be shown, so that it is known before it is."""
        return _families(Outlook(None, {}))

    def collect(self) -> Iterable[Metric]:
        """Return what is known now; a fleet without certificates has no series."""
        if self._found is None or self._found.earliest is None:
            return []
        return [family for family in _families(self._found) if family.samples]


class OwnExpiryFigures(Collector):
    """When this hub's own certificate for the broker ends; no series where it has none, or none that can be read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: tuple[datetime, bool] | None = None
        registry.register(self)

    def show(self, ends: datetime | None, *, is_expiring: bool) -> None:
        """Show this until something else is found."""
        self._shown = None if ends is None else (ends, is_expiring)

    def describe(self) -> Iterable[Metric]:
        """Return what may be shown, so that it is known before it is."""
        return _own_families(None)

    def collect(self) -> Iterable[Metric]:
        """Return what is known now."""
        return () if self._shown is None else _own_families(self._shown)


def _own_families(shown: tuple[datetime, bool] | None) -> tuple[Metric, ...]:
    ends = GaugeMetricFamily(
        "metrica_hub_certificate_expiry_timestamp_seconds",
        "When this hub's own certificate for the broker ends; absent where it has none.",
    )
    expiring = GaugeMetricFamily(
        "metrica_hub_certificate_expiring",
        "1: this hub's own certificate for the broker ends within 14 days (a sixth of its life, if that is shorter), or"
        " has ended; absent where it has none.",
    )
    if shown is not None:
        ends.add_metric([], shown[0].timestamp())
        expiring.add_metric([], float(shown[1]))
    return ends, expiring


def _families(found: Outlook) -> tuple[Metric, ...]:
    each = GaugeMetricFamily(
        "metrica_device_certificate_expiry_timestamp_seconds",
        "When the device's certificate ends, where that is past or within 14 days (a sixth of its life, if that is"
        " shorter); absent otherwise, and once it was revoked.",
        labels=["device"],
    )
    count = GaugeMetricFamily(
        "metrica_devices_certificate_expiring",
        "Devices whose certificate ends within 14 days (a sixth of its life, if that is shorter), or has ended.",
    )
    earliest = GaugeMetricFamily(
        "metrica_devices_certificate_earliest_expiry_timestamp_seconds",
        "When the first of all devices' certificates ends; those that ended a year ago, or were revoked, do not count.",
    )
    for device, ends in sorted(found.expiring.items()):
        each.add_metric([device], ends.timestamp())
    if found.earliest is not None:
        count.add_metric([], len(found.expiring))
        earliest.add_metric([], found.earliest.timestamp())
    return each, count, earliest
