"""Keeps the gate of the newest commit: takes in what became of devices, moves the rollout on, says how far it is open.

Only the hub that leads does. What is in Postgres is the truth: a hub that is killed anywhere goes on, or another does,
from what is written there, and says the gate that it finds. Numbers are taken with the change itself, so two hubs that
both think they lead can't say two gates of one number.

The gate is said when it changes, on each new connection, and again every minute: by that devices tell that the hub is
there. One that has not read the branch's commit does not say it again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from metrica_fleet import gate
from metrica_fleet.errors import NotNow
from metrica_fleet.rollout import gate_of
from metrica_fleet.signed import GATES, Signed, joined
from metrica_fleet.topics import GATE, Address, topic_of
from metrica_hub.decisions.progress import Devices
from metrica_hub.errors import Unstorable
from metrica_hub.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from metrica_fleet.identity import DeviceId, FleetId
    from metrica_fleet.rollout import Course
    from metrica_hub.decisions.outcome import Outcome
    from metrica_hub.decisions.progress import Entry, Moved, Progress, Rollout

LOOK_S: Final = 1.0
REPEAT_S: Final = 60.0
_REST_S: Final = 0.5
"""Between two looks, however often the hub is woken."""
_COUNT_EVERY_S: Final = 5.0
"""At least so often; sooner when a device has news, and when time alone may change something."""
_PAGE: Final = 2000

_log = structlog.get_logger()


class Store(Protocol):
    """What the gate's keeper asks of the database."""

    async def newest(self) -> Rollout | None:
        """Return the rollout that was begun last."""
        ...

    async def entries(self, rollout: int) -> Sequence[Entry]:
        """Return what became of each device of a rollout, as far as it is written down."""
        ...

    async def moved(self, *, after: int, limit: int) -> Sequence[Moved]:
        """Return devices that changed after a cursor, in order."""
        ...

    async def move_on(
        self,
        rollout: Rollout,
        news: Mapping[DeviceId, Outcome],
        decide: Callable[[Course, float], Progress],
    ) -> Rollout:
        """Write down what became of devices, and what is decided by it."""
        ...


class Bus(Protocol):
    """What the gate's keeper asks of the bus."""

    def say(self, topic: str, payload: bytes) -> None:
        """Publish a retained message."""
        ...


class Signer(Protocol):
    """The hub's own key."""

    async def sign(self, text: bytes, namespace: str) -> bytes:
        """Return the armoured signature of ``text``."""
        ...


class Hub(Protocol):
    """What the hub itself is like."""

    @property
    def leads(self) -> bool | None:
        """Whether it leads."""
        ...

    @property
    def listens(self) -> bool:
        """Whether it has heard devices for so long that silence means something."""
        ...

    @property
    def is_current(self) -> bool:
        """Whether it has read the branch's commit."""
        ...


class Meter(Protocol):
    """Who shows it."""

    def rolls_out(self, rollout: Rollout | None) -> None:
        """Note how far the rollout is; ``None``: it is not ours to say."""
        ...


class Gatekeeper:
    """The loop's surroundings."""

    def __init__(
        self,
        fleet: FleetId,
        *,
        store: Store,
        bus: Bus,
        signer: Signer,
        hub: Hub,
        meter: Meter,
        now: Callable[[], datetime],
        now_s: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._topic = topic_of(Address(fleet, GATE))
        self._store = store
        self._bus = bus
        self._signer = signer
        self._hub = hub
        self._meter = meter
        self._now = now
        self._now_s = now_s
        self._wake = Wake()
        self._known: tuple[int, Devices] | None = None
        """The newest rollout's number in the table, and its devices."""
        self._due_s = float("-inf")
        """When to count next."""
        self._counted: int | None = None
        """The number that the rollout had when it was counted last."""
        self._said: int | None = None
        """The number of the gate that was said last on this connection."""
        self._said_s = float("-inf")
        self._is_mute = False

    def wake(self) -> None:
        """Something was committed."""
        self._wake.nudge()

    def connected_anew(self) -> None:
        """The broker may have forgotten what it was told."""
        self._said = None
        self._wake.nudge()

    async def run(self) -> None:
        """Keep the gate for ever."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except (NotNow, Unstorable) as error:
                _log.info("rollout.deferred", error_kind=error.reason, error=error.message)
            await asyncio.sleep(_REST_S)
            await self._wake.wait(max(0.0, min(LOOK_S, self._due_s - self._now_s())))

    async def _look(self) -> None:
        rollout = await self._store.newest() if self._hub.leads is True else None
        if rollout is None:
            self._known = self._said = None
            self._meter.rolls_out(None)
            return
        try:
            rollout = await self._moved_on(rollout)
        except BaseException:
            self._known = None  # what was to be written may be written, or not
            raise
        self._meter.rolls_out(rollout)
        if self._hub.leads is True:
            await self._say(rollout)

    async def _moved_on(self, rollout: Rollout) -> Rollout:
        """Take in what devices said since the last look; return the rollout as it stands then."""
        devices = await self._devices(rollout)
        news: dict[DeviceId, Outcome] = {}
        while moved := await self._store.moved(after=devices.cursor, limit=_PAGE):
            devices.heard(moved, news)
        looked_s = self._now_s()
        is_steered = rollout.number != self._counted
        if not (news or is_steered or looked_s >= self._due_s):
            return rollout

        def decide(course: Course, now_s: float) -> Progress:
            devices.written(news, now_s)
            progress = devices.moved_on(course, now_s, listens=self._hub.listens)
            again_s = _COUNT_EVERY_S if progress.again_s is None else progress.again_s
            self._due_s = looked_s + min(_COUNT_EVERY_S, again_s)
            return progress

        after = await self._store.move_on(rollout, news, decide)
        self._counted = after.number
        if (after.id, after.number) != (rollout.id, rollout.number):
            tell = _log.warning if after.course.state == "halted" else _log.info
            tell(
                "rollout.moved",
                rollout=after.id,
                commit=after.commit,
                state=after.course.state,
                why=after.course.message,
            )
        return after

    async def _devices(self, rollout: Rollout) -> Devices:
        """Return the devices of ``rollout``, read once for as long as it is the newest and we lead."""
        if self._known is None or self._known[0] != rollout.id:
            self._known = rollout.id, Devices(rollout, await self._store.entries(rollout.id))
            self._due_s = float("-inf")
        return self._known[1]

    async def _say(self, rollout: Rollout) -> None:
        """Say the gate, when it is news or was not said for a while."""
        now_s = self._now_s()
        is_news = self._said != rollout.number
        is_due = now_s - self._said_s >= REPEAT_S and self._hub.is_current
        said = gate_of(
            rollout.course,
            fleet=self._fleet,
            commit=rollout.commit,
            previous=rollout.previous,
            number=rollout.number,
            issued_at=self._now(),
        )
        if said is None or not (is_news or is_due):
            return
        text = gate.written(said)
        try:
            signature = await self._signer.sign(text.encode(), GATES)
        except NotNow as error:
            if not self._is_mute:
                _log.error("gate.unsigned", error_kind=error.reason, error=error.message)
            self._is_mute = True
            return
        self._is_mute = False
        self._bus.say(self._topic, joined(Signed(text, signature.decode())))
        self._said, self._said_s = rollout.number, now_s
        if is_news:
            _log.info("gate.said", number=rollout.number, commit=rollout.commit, state=said.state)
