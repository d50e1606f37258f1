"""The fleet as last seen, in memory: kept current by the watcher, read by the page, the metrics and the streams."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from metrica_hub.decisions.fleet_state import EventRow, urgency
from metrica_hub.decisions.tidings import Tiding, Tidings
from metrica_hub.web.latest import Latest
from metrica_hub.web.ring import Notice, Ring

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metrica_hub.decisions.day import Day
    from metrica_hub.decisions.fleet_state import DeviceState

RECENT_EVENTS: Final = 40
SHOWN: Final = 8
"""Characters of a commit, in labels."""
_RING: Final = 4096
"""Events."""


class Board:
    """One entry a device, and what changed lately."""

    def __init__(self) -> None:
        self.notice = Notice()
        self.latest = Latest()
        self.event_ring: Ring[EventRow] = Ring(_RING, self.notice)
        self.tidings = Tidings()
        self.is_stale = True
        self.closing = False
        self._recent: deque[EventRow] = deque(maxlen=RECENT_EVENTS)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._commits: Counter[str] = Counter()
        self._days: Mapping[str, Day] = {}

    # What the watcher calls

    def show_devices(self, devices: Sequence[DeviceState]) -> None:
        """Put the newest state of these devices, in the order of their changes."""
        for device in devices:
            before = self.latest.put(device)
            group, commit = _group(device), _commit(device)
            if before is not None:
                if (group, commit) == (_group(before), _commit(before)):
                    continue
                self._counts[_group(before)] -= 1
                self._commits[_commit(before)] -= 1
            self._counts[group] += 1
            self._commits[commit] += 1
        self._counts, self._commits = +self._counts, +self._commits
        self.notice.give()

    def show_events(self, events: Sequence[EventRow]) -> None:
        """Put these events, oldest first."""
        if not self._recent and events:
            self.event_ring.begin(events[0].cursor - 1)
        self._recent.extend(events)
        self.tidings.heard(Tiding(event.device, event.kind, event.received_at) for event in events)
        self.event_ring.add((event.cursor, event) for event in events)

    def recall(self, tidings: Iterable[Tiding]) -> None:
        """Take in what was told before this hub began."""
        self.tidings.heard(tidings)

    def show_days(self, days: Mapping[str, Day]) -> None:
        """Put what the last 24 hours of each device were like."""
        self._days = days

    def stale(self, *, stale: bool) -> None:
        """Note whether the database can be asked."""
        if stale != self.is_stale:
            self.is_stale = stale
            self.notice.give()

    # What the web reads

    def devices(self) -> list[DeviceState]:
        """Return all devices, those with problems first."""
        return sorted(self.latest.all(), key=urgency)

    def device(self, name: str) -> DeviceState | None:
        """Return one device."""
        return self.latest.get(name)

    def day(self, name: str) -> Day | None:
        """Return what the last 24 hours of a device were like; ``None``: nothing is known of them."""
        return self._days.get(name)

    def unsorted_devices(self) -> list[DeviceState]:
        """Return all devices."""
        return self.latest.all()

    def recent_events(self) -> list[EventRow]:
        """Return the latest events, newest first."""
        return list(self._recent)[::-1]

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many devices there are by (mode, connection)."""
        return dict(self._counts)

    def commits(self, limit: int) -> list[tuple[str, int]]:
        """Return the ``limit`` commits that most devices confirmed, and how many did; "" is none."""
        return self._commits.most_common(limit)

    def close(self) -> None:
        """Let every stream end: the hub stops."""
        self.closing = True
        self.notice.give()


def _commit(device: DeviceState) -> str:
    return (device.commit or "")[:SHOWN]


def _group(device: DeviceState) -> tuple[str, str]:
    return device.mode or "unknown", device.connection
