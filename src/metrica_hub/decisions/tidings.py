"""What devices told of late, as far as alerts ask for it: of each kind of event the last time.

An event says what happened, an alert asks what is: so the metrics have the time of the last one, which a hub that
starts anew reads from the database, and no count, which would begin at nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LASTS: Final = timedelta(hours=24)
"""After that a tiding is history, and has no series any more."""
TOLD: Final = frozenset(
    {
        "agent.stuck",
        "bus.denied",
        "command.distrusted",
        "drift.contested",
        "drift.found",
        "drift.repaired",
        "engine.unresponsive",
        "gate.refused",
        "git.reachable",
        "git.refused",
        "git.unreachable",
        "ledger.moved",
        "ledger.renewed",
        "network.back",
        "network.lost",
        "outbox.thinned",
        "release.refused",
        "reserve.used",
        "rollback.failed",
        "safe_mode.entered",
        "stop.refused",
        "strain.entered",
        "task.failed",
    }
)
"""The kinds that are kept: few, so that the number of series stays within bounds whatever a device says."""


class Tiding(NamedTuple):
    """That a device told of something, and when it was stored last."""

    device: str
    kind: str
    at: datetime


class Tidings:
    """The last one of each device and kind. No more than the devices there are, times the kinds that are kept."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], datetime] = {}

    def heard(self, tidings: Iterable[Tiding]) -> None:
        """Take in what was told, in any order."""
        for device, kind, at in tidings:
            if kind in TOLD:
                before = self._last.get((device, kind))
                self._last[device, kind] = at if before is None else max(before, at)

    def since(self, now: datetime) -> Iterator[Tiding]:
        """Yield those that are no history yet; forget the others."""
        oldest = now - LASTS
        self._last = {place: at for place, at in self._last.items() if at > oldest}
        for (device, kind), at in self._last.items():
            yield Tiding(device, kind, at)
