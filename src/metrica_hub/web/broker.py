"""The broker's own figures in ``/metrics``, for as long as the hub is connected to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from metrica_hub.decisions.broker_figures import Figure, read_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric


class BrokerFigures(Collector):
    """What was heard last. What is not known is not shown: an old figure looks like a good one."""

    def __init__(self, *, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self._values: dict[Figure, float] = {}

    def heard(self, topic: str, payload: bytes) -> None:
        """Note what the broker says of itself."""
        found = read_figure(topic, payload)
        if found is not None:
            self._values[found[0]] = found[1]

    def forget(self) -> None:
        """Begin anew: another broker may answer from now on."""
        self._values.clear()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as a registry asks for them."""
        if not self._connected():
            return
        for figure, value in self._values.items():
            family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            yield family(figure.name, figure.about, value=value)
