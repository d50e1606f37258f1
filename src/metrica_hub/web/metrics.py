"""``/metrics``: the hub's own by prometheus_client and prometheus-async, and every device's as it was last seen."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_async.aio import time as timed
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from metrica_hub.decisions.fleet_state import CONNECTIONS, MODES
from metrica_hub.decisions.loudness import LOUD_PER_S, MOST_LOUD, OTHERS, WINDOW_S, Loudness
from metrica_hub.decisions.stop import by_level
from metrica_hub.web.routing import Route
from metrica_hub.web.series import bounded_mode, families, told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from metrica_hub.decisions.intake import Arrival
    from metrica_hub.decisions.plan import Writes
    from metrica_hub.web.board import Board

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MOST_COMMITS: Final = 50
MOST_CULPRITS: Final = 100
NOBODY: Final = "_none"
"""No device has such a name: ``metrica_fleet.identity``."""
_SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    """What the hub counts of itself."""

    def __init__(self, board: Board, *, each_device: bool, now: Callable[[], datetime]) -> None:
        """Count from zero; ``each_device``: whether a scrape has the series of every device, too."""
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._board = board
        self._each_device = each_device
        self._now = now
        own = self.registry
        self._records = Counter("metrica_hub_records", "Records stored, each counted once.", ["kind"], registry=own)
        for kind in ("heartbeat", "event"):
            self._records.labels(kind)
        self._duplicates = Counter(
            "metrica_hub_duplicate_records", "Records that came again after they were stored.", registry=own
        )
        self._left = Counter(
            "metrica_hub_left_records",
            "Records beyond too many gaps of their stream: not stored, so that their device sends them again.",
            registry=own,
        )
        self._dead = Counter("metrica_hub_dead_letters", "Messages set aside, by reason.", ["reason"], registry=own)
        self._culprits = Counter(
            "metrica_hub_dead_letters_by_device",
            f"The same by the device of the topic: the first {MOST_CULPRITS}, then {OTHERS}, and {NOBODY} without one.",
            ["device"],
            registry=own,
        )
        self._unkept = Counter(
            "metrica_hub_dead_letters_unkept",
            "Those of them that are only counted: their sender, or all senders, had too many in the minute.",
            registry=own,
        )
        self._named: set[str] = set()
        self._loudness = Loudness(time.monotonic())
        self._loud = Gauge(
            "metrica_bus_loud_device_messages_per_second",
            f"Who said more than {LOUD_PER_S:.0f} messages a second, over {WINDOW_S:.0f} s; the {MOST_LOUD} loudest.",
            ["device"],
            registry=own,
        )
        self._failures = Counter(
            "metrica_hub_commit_failures",
            "Attempts to commit that failed because the database was away.",
            registry=own,
        )
        self._retention_failures = Counter(
            "metrica_hub_retention_failures",
            "Attempts to make and drop partitions and to sum up heartbeats that failed.",
            registry=own,
        )
        self._retained_at = Gauge(
            "metrica_hub_retention_last_success_timestamp_seconds",
            "When partitions were last made and dropped and heartbeats summed up.",
            registry=own,
        )
        self._batch = Histogram("metrica_hub_batch_size", "Records a transaction.", buckets=_SIZES, registry=own)
        self._commit = Histogram(
            "metrica_hub_commit_duration_seconds", "Time a transaction took.", buckets=_SECONDS, registry=own
        )
        self._lag = Histogram(
            "metrica_hub_ingest_lag_seconds",
            "Time from taking a message off the queue to its commit.",
            buckets=_SECONDS,
            registry=own,
        )
        self._loop_lag = Gauge("metrica_hub_loop_lag_seconds", "How late the event loop is.", registry=own)
        self._devices = Gauge(
            "metrica_devices", "Devices by mode and connection.", ["mode", "connection"], registry=own
        )
        self._stopped = Gauge(
            "metrica_stop_in_force", "Devices that an emergency stop has stopped, by how far.", ["level"], registry=own
        )
        self._commits = Gauge(
            "metrica_devices_of_commit",
            f"Devices by the commit that they confirmed; the {MOST_COMMITS} that most devices have.",
            ["commit"],
            registry=own,
        )

    def watch_bus(self, *, connected: Callable[[], bool], unacknowledged: Callable[[], int], broker: Collector) -> None:
        """Ask the bus, and for what the broker says of itself, at each scrape."""
        self.registry.register(broker)
        Gauge(
            "metrica_bus_connected", "Whether the hub is connected to the broker.", registry=self.registry
        ).set_function(connected)
        Gauge(
            "metrica_hub_unacknowledged_messages",
            "Messages received from the broker and not yet acknowledged.",
            registry=self.registry,
        ).set_function(unacknowledged)

    def watch_damage(self, times: Callable[[], int]) -> None:
        """Ask at each scrape how often Postgres met a damaged page."""
        Gauge(
            "metrica_hub_database_damage",
            "How often Postgres met a damaged page in a statement of this hub since it began: restore the database.",
            registry=self.registry,
        ).set_function(times)

    def watch_lead(self, leads: Callable[[], bool]) -> None:
        """Ask at each scrape whether this hub leads."""
        Gauge(
            "metrica_hub_leads",
            "Whether this hub leads: holds the bus, where there are several.",
            registry=self.registry,
        ).set_function(leads)

    def watch_share(self, connected: Callable[[], bool] | None) -> None:
        """Ask at each scrape whether our part of the records reaches us; ``None``: they are not shared."""
        Gauge("metrica_hub_shares", "Whether this hub shares the records with others.", registry=self.registry).set(
            connected is not None
        )
        if connected is not None:
            Gauge(
                "metrica_bus_share_connected",
                "Whether this hub is connected to the broker for its part of the records.",
                registry=self.registry,
            ).set_function(connected)

    # What the tasks call

    async def timed(self, commit: Awaitable[Writes]) -> Writes:
        """Await ``commit`` and remember how long it took."""
        return await timed(self._commit, commit)

    def arrived(self, batch: Sequence[Arrival]) -> None:
        """Count what came, by who said it."""
        self._loudness.heard((arrival.device or NOBODY for arrival in batch), time.monotonic())

    def committed(self, writes: Writes, oldest: datetime) -> None:
        """Count what one transaction wrote."""
        self._records.labels("heartbeat").inc(len(writes.heartbeats))
        self._records.labels("event").inc(len(writes.events))
        self._duplicates.inc(writes.repeated)
        self._left.inc(writes.left)
        self._unkept.inc(len(writes.unkept))
        for letter in (*writes.dead_letters, *writes.unkept):
            self._dead.labels(letter.reason).inc()
            self._culprits.labels(self._culprit(letter.device)).inc()
        if new := len(writes.heartbeats) + len(writes.events):
            self._batch.observe(new)
        self._lag.observe(max(0.0, (self._now() - oldest).total_seconds()))

    def _culprit(self, device: str | None) -> str:
        """Return a name for a label: whoever writes bad messages may invent as many topics."""
        if device is None:
            return NOBODY
        if device not in self._named and len(self._named) >= MOST_CULPRITS:
            return OTHERS
        self._named.add(device)
        return device

    def store_away(self) -> None:
        """Count a failed attempt to write."""
        self._failures.inc()

    def retained(self) -> None:
        """Note that the database was kept in shape."""
        self._retained_at.set(self._now().timestamp())

    def retention_failed(self) -> None:
        """Count an attempt that failed."""
        self._retention_failures.inc()

    def loop_lag(self, seconds: float) -> None:
        """Note how late the loop is."""
        self._loop_lag.set(seconds)

    # What the web serves

    def routes(self) -> tuple[Route, ...]:
        """Return its part of the route table."""
        about = "Metrics in Prometheus' text format."
        kind = "text/plain"
        return (Route("GET", "/metrics", "getMetrics", self.get, about, role=None, answers=str, answers_as=kind),)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer a scrape."""
        del request
        self._count_devices()
        self._name_the_loud()
        response = web.Response(body=b"".join([generate_latest(self.registry), *await self._of_devices()]))
        response.headers["Content-Type"] = CONTENT_TYPE_PLAIN_0_0_4
        response.enable_compression()
        return response

    async def _of_devices(self) -> list[bytes]:
        parts: list[bytes] = []
        if self._each_device:
            for family in families(self._board.unsorted_devices()):
                parts.append(family)
                await asyncio.sleep(0)
            parts.append(told(self._board.tidings.since(self._now())))
        return parts

    def _name_the_loud(self) -> None:
        self._loud.clear()
        for device, per_s in self._loudness.loud(time.monotonic()):
            self._loud.labels(device).set(per_s)

    def _count_devices(self) -> None:
        for mode in MODES:
            for connection in CONNECTIONS:
                self._devices.labels(mode, connection).set(0)
        groups: dict[tuple[str, str], int] = {}
        for (mode, connection), count in self._board.counts().items():
            group = (bounded_mode(mode if mode != "unknown" else None), connection)
            groups[group] = groups.get(group, 0) + count
        for group, count in groups.items():
            self._devices.labels(*group).set(count)
        for level, count in by_level(self._board.unsorted_devices()).items():
            self._stopped.labels(level).set(count)
        self._commits.clear()
        for commit, count in self._board.commits(MOST_COMMITS):
            self._commits.labels(commit).set(count)
