"""Attends to who is there: the hub that leads listens to every device, and writes down what no device says of itself.

``heed`` takes in each batch once it is stored; every few seconds, and at once where it may matter, all are judged. Only
what changed is written. Nothing is concluded from silence while the hub itself did not listen: when it does not lead,
has no broker or no database, is behind, or was frozen.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_hub.decisions.attendance import Attended, judged, noted, recall, settle
from metrica_hub.decisions.intake import Said
from metrica_hub.decisions.listening import LOOK_S, Look, listens
from metrica_hub.errors import StoreAway, Unstorable
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId
    from metrica_hub.decisions.attendance import Known, Verdict
    from metrica_hub.decisions.intake import Arrival
    from metrica_hub.decisions.silence import Ear

_REST_S: Final = 0.2
"""Between two looks: a fleet that comes back is written down in few transactions."""

_log = structlog.get_logger()


class Store(Protocol):
    """What attending asks of the database."""

    async def attended(self) -> Sequence[Known]:
        """Return what is known of every device."""
        ...

    async def put_verdicts(self, verdicts: Mapping[DeviceId, Verdict]) -> None:
        """Write down what was concluded."""
        ...


class Surroundings(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads; ``None``: nobody knows."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the broker has welcomed it."""
        ...

    @property
    def waiting(self) -> int:
        """How many messages were received and are not stored."""
        ...

    @property
    def braked(self) -> bool:
        """Whether it reads no more for now."""
        ...


class Attendant:
    """The loop's surroundings."""

    def __init__(
        self,
        store: Store,
        hub: Surroundings,
        *,
        now_s: Callable[[], float],
        now: Callable[[], datetime],
        ear: Ear,
    ) -> None:
        """``ear``: how the hub listens; deaf at first."""
        self._store = store
        self._hub = hub
        self._now_s = now_s
        self._now = now
        self._ear = self._deaf = ear
        self._devices: dict[DeviceId, Attended] = {}
        self._recalled = False
        self._urgent: set[DeviceId] = set()
        self._wake = Wake()
        self._batches = 0
        self._looked = self._look()

    @property
    def listens(self) -> bool:
        """Whether the hub has heard devices for so long that one which says nothing is silent."""
        return self._ear.is_settled(self._now_s())

    def heed(self, batch: Iterable[Arrival]) -> None:
        """Take in what was said, once it is stored."""
        self._batches += 1
        now_s, ear = self._now_s(), self._ear
        for arrival in batch:
            if isinstance(arrival, Said):
                attended = self._devices.get(arrival.device)
                if attended is None:
                    attended = self._devices[arrival.device] = Attended()
                if noted(attended, arrival, ear, now_s):
                    self._urgent.add(arrival.device)
        if self._urgent:
            self._wake.nudge()

    def connected_anew(self) -> None:
        """A connection to the broker stands: there was none before it."""
        self._ear = self._deaf

    async def run(self) -> None:
        """Attend for ever."""
        self._looked = self._look()
        while True:
            try:
                await self._attend()
            except (StoreAway, Unstorable) as error:
                self._ear = self._deaf
                _log.info("attend.deferred", error_kind=error.reason, error=error.message)
            await asyncio.sleep(_REST_S)
            await self._wake.wait(max(0.0, self._looked.at_s + LOOK_S - self._now_s()))

    async def _attend(self) -> None:
        self._wake.clear()
        is_due = self._now_s() >= self._looked.at_s + LOOK_S
        if is_due:
            self._listen()
        urgent, self._urgent = self._urgent, set()
        if self._hub.leads is not True:
            if self._hub.leads is False:
                self._devices.clear()
                self._recalled = False
            return
        if not self._recalled:
            await self._recall()
            is_due = True
        await self._judge(list(self._devices) if is_due else urgent)

    def _look(self) -> Look:
        hub = self._hub
        return Look(
            at_s=self._now_s(),
            leads=hub.leads is True,
            connected=hub.connected,
            waiting=hub.waiting,
            braked=hub.braked,
            batches=self._batches,
        )

    def _listen(self) -> None:
        """Find out whether the hub listens, and since when."""
        before, self._looked = self._looked, self._look()
        if not listens(before, self._looked):
            self._ear = self._deaf
        elif self._ear.since_s is None:
            self._ear = replace(self._deaf, since_s=self._looked.at_s)

    async def _recall(self) -> None:
        found = await self._store.attended()
        now_s = self._now_s()
        for known in found:
            recall(self._devices.setdefault(known.device, Attended()), known, now_s)
        self._recalled = True

    async def _judge(self, devices: Iterable[DeviceId]) -> None:
        now_s, at = self._now_s(), self._now()
        changed: dict[DeviceId, Verdict] = {}
        for device in devices:
            attended = self._devices[device]
            verdict = judged(attended, self._ear, now_s, at)
            if verdict is not attended.verdict:
                changed[device] = verdict
        if not changed:
            return
        await self._store.put_verdicts(changed)
        for device, verdict in changed.items():
            self._tell(device, self._devices[device].verdict, verdict)
            settle(self._devices[device], verdict, now_s)

    def _tell(self, device: DeviceId, before: Verdict, after: Verdict) -> None:
        if after.hearing != before.hearing:
            _log.info("device.hearing", device=device, hearing=after.hearing or "as-told")
        if (after.flapping_since is None) != (before.flapping_since is None):
            _log.warning("device.flapping", device=device, flapping=after.flapping_since is not None)
        if (after.claimed_since is None) != (before.claimed_since is None):
            boots = [one.boot_id for one in after.claimants]
            _log.warning("device.claimed", device=device, claimed=after.claimed_since is not None, boots=boots)
