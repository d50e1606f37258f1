"""How commits go through the fleets of a world: the hub's part, by the very functions that the real hub uses.

What stands in the database outlives the hub; the hub itself may be dead from the start, or be killed at any time. A
person sits at it, who ends planned pauses, and says whatever the world's mischief has them say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from metrica_fleet import rollout
from metrica_fleet.codec import decode, encode
from metrica_fleet.definition import DefinitionError, rollout_in
from metrica_fleet.gate import EVERYBODY, REPEATED_S, Gate, next_number, read, written
from metrica_fleet.messages import Presence, Status
from metrica_fleet.rollout import Course, DeviceState, Plan, Seen, advance, planned
from metrica_fleet.signed import GATES, Signed
from metrica_fleet.topics import GATE, PRESENCE, STATUS, Address, Channel, topic_of
from metrica_hub.errors import BusAway
from metrica_sim.virtual import pens
from metrica_sim.virtual.hub import EPOCH

if TYPE_CHECKING:
    from metrica_fleet.identity import CommitId, DeviceId, FleetId
    from metrica_fleet.messages import Message
    from metrica_fleet.records import Event
    from metrica_sim.virtual.bus import SimulatedBroker
    from metrica_sim.virtual.history import Commit
    from metrica_sim.virtual.story import Story

LOOK_S: Final = 60.0
"""Between looks at the repository."""
AGAIN_S: Final = 5.0
PERSON_S: Final = 300.0
"""After so long a person ends a planned pause."""
DUE: Final = frozenset({"gate-closed", "prefetch-spread", "in-progress"})
"""What a device may be waiting for that will begin as soon as its gate is open."""
TAKEN_OFF: Final = frozenset({"safe_mode.entered", "stop.obeyed"})
"""What may end a trial without a verdict: the commit is tried again later."""


@dataclass(slots=True)
class Rollout:
    """One commit's, as the database has it."""

    commit: CommitId
    previous: CommitId | None
    plan: Plan
    course: Course = field(default_factory=Course)
    changed_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing changes it any more."""
        return self.course.is_over


@dataclass(slots=True)
class Rollouts:
    """All of a world, and the hub that leads them."""

    fleet: FleetId
    broker: SimulatedBroker
    head: Callable[[], Commit | None]
    story: Story
    named: Callable[[CommitId], str]
    go_on_after_s: float | None = None
    """After so long a silence devices go on by time; ``None``: they wait."""
    all: dict[CommitId, Rollout] = field(default_factory=dict["CommitId", Rollout])
    said: dict[int, Gate] = field(default_factory=dict[int, Gate])
    """By their numbers: what the hub has said."""
    _states: dict[CommitId, dict[DeviceId, Seen]] = field(default_factory=dict["CommitId", "dict[DeviceId, Seen]"])
    _last: CommitId | None = None
    _said_s: float = -REPEATED_S
    _unsaid: bool = False
    _looked_s: float = -LOOK_S
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    # --- what the database knows --------------------------------------------------------------------------------

    def stored(self, device: DeviceId, event: Event) -> None:
        """Take note of an event that was just committed."""
        if event.kind in TAKEN_OFF:
            for states in self._states.values():
                if device in states and states[device].state is DeviceState.STARTED:
                    states[device] = Seen(DeviceState.WAITING, self._now_s())
        if event.commit is None:
            return
        states = self._states.setdefault(event.commit, {})
        before = states.get(device, Seen(DeviceState.WAITING, 0.0)).state
        state = _state_after(event, before)
        if state is not before:
            states[device] = Seen(state, self._now_s())
            self._news.set()

    def stage_of(self, commit: CommitId, device: DeviceId) -> int | None:
        """Return in which stage of ``commit`` a device is; ``None``: the hub does not roll that out."""
        known = self.all.get(commit)
        return None if known is None else known.plan.places().get(device)

    def has_stopped(self, commit: CommitId) -> bool:
        """Whether ``commit`` is halted or was aborted."""
        return commit in self.all and self.all[commit].course.state in {"halted", "aborted"}

    def is_said_now(self, signed: Signed) -> bool:
        """Whether that is the newest gate, said by the hub."""
        newest = self.said.get(max(self.said, default=0))
        if newest is None or signed != pens.signed(signed.text, GATES, "hub"):
            return False
        return replace(read(signed.text), issued_at=newest.issued_at) == newest

    # --- the hub ------------------------------------------------------------------------------------------------

    async def lead(self, is_up: Callable[[], bool]) -> None:
        """Advance the newest commit's rollout until cancelled, while the database is up."""
        self._unsaid, self._looked_s = True, -LOOK_S
        while True:
            self._news.clear()
            until_s = self._step() if is_up() else self._now_s() + AGAIN_S
            try:
                async with asyncio.timeout(max(0.1, until_s - self._now_s())):
                    await self._news.wait()
                await asyncio.sleep(AGAIN_S * 0.1)  # one look for all that comes at once
            except TimeoutError:
                continue

    def _step(self) -> float:
        """Look at everything, do what is to be done, and return when to look again."""
        now_s = self._now_s()
        if now_s >= self._looked_s + LOOK_S:
            self._looked_s = now_s
            self._begin(self.head())
        current = self.all.get(self._last) if self._last is not None else None
        if current is None:
            return self._looked_s + LOOK_S
        course = current.course
        if course.state == "paused" and course.reason == rollout.PLANNED and now_s >= current.changed_s + PERSON_S:
            self.say_go_on("a person looked at it")
        until_s = self._advance(current, now_s)
        if self._unsaid or now_s >= self._said_s + REPEATED_S:
            self._say(current, now_s)
        times = [self._looked_s + LOOK_S, self._said_s + REPEATED_S, *([until_s] if until_s is not None else [])]
        return now_s + AGAIN_S if self._unsaid else min(times)

    def _begin(self, head: Commit | None) -> None:
        """Let the newest commit be rolled out, unless it was already, or no device would take it."""
        if head is None or head.id == self._last or head.id in self.all:
            return
        try:
            found = rollout_in(head.files)
        except DefinitionError:
            return
        if found.policy is None:
            return
        if self._last is not None:
            before = self.all[self._last]
            before.course = rollout.superseded(before.course, head.id)
        self.all[head.id] = Rollout(head.id, self._last, planned(found.policy, head.id, found.devices))
        self._last = head.id
        self._changed(self.all[head.id], Course())

    def _advance(self, current: Rollout, now_s: float) -> float | None:
        while True:
            verdict = advance(current.plan, current.course, self._seen(current), now_s)
            if verdict.course == current.course:
                return verdict.until_s
            self._changed(current, verdict.course)

    def _changed(self, current: Rollout, course: Course) -> None:
        """Let the course be another; it has a number of its own, and is said."""
        current.course, current.changed_s = course, self._now_s()
        number = next_number(max(self.said, default=0), (EPOCH + timedelta(seconds=self._now_s())).timestamp())
        gate = rollout.gate_of(
            course,
            fleet=self.fleet,
            commit=current.commit,
            previous=current.previous,
            number=number,
            issued_at=EPOCH + timedelta(seconds=self._now_s()),
        )
        if gate is not None:
            self.said[number] = gate
            self._unsaid = True
        self.story.tell(
            "rollout", f"{self.named(current.commit)} {course.state}, stage {course.stage}: {course.message}"
        )

    def _say(self, current: Rollout, now_s: float) -> None:
        if current.course.state == "superseded":
            return
        gate = replace(self.said[max(self.said)], issued_at=EPOCH + timedelta(seconds=now_s))
        try:
            self.publish(gate, "hub")
        except BusAway:
            self._unsaid = True
        else:
            self._unsaid, self._said_s = False, now_s

    def publish(self, gate: Gate, by: str) -> None:
        """Let the broker have a gate, whoever signed it. Raises ``BusAway``."""
        topic = topic_of(Address(self.fleet, GATE))
        self.broker.say_all([(topic, encode(pens.signed(written(gate), GATES, by)))])

    def _seen(self, current: Rollout) -> dict[DeviceId, Seen]:
        """Return how far each device is, as events and the broker's retained words have it."""
        seen = dict(self._states.get(current.commit, {}))
        for stage in current.plan.stages[: current.course.stage + 1]:
            for device in stage.members:
                known = seen.get(device, Seen(DeviceState.WAITING, 0.0)).state
                if known is DeviceState.WAITING and self._is_due(device, current.commit):
                    seen[device] = Seen(DeviceState.DUE, 0.0)
        return seen

    def _is_due(self, device: DeviceId, commit: CommitId) -> bool:
        presence, status = self._retained(PRESENCE, device), self._retained(STATUS, device)
        online = isinstance(presence, Presence) and presence.state == "online"
        return online and isinstance(status, Status) and status.wanted_commit == commit and status.reason in DUE

    def _retained(self, channel: Channel, device: DeviceId) -> Message | None:
        payload = self.broker.retained.get(topic_of(Address(self.fleet, channel, device)))
        return None if payload is None else decode(channel, payload)

    # --- a person -----------------------------------------------------------------------------------------------

    def say_pause(self, why: str) -> None:
        """Pause the newest commit's rollout."""
        self._word(lambda current: rollout.paused(current.course, why))

    def say_go_on(self, why: str) -> None:
        """Go on with it."""
        now_s = self._now_s()
        self._word(lambda current: rollout.resumed(current.plan, current.course, self._seen(current), now_s, why))

    def say_abort(self, why: str, *, revert: bool) -> None:
        """Abort it."""
        self._word(lambda current: rollout.aborted(current.course, why, revert=revert))

    def _word(self, course_of: Callable[[Rollout], Course]) -> None:
        current = self.all.get(self._last) if self._last is not None else None
        if current is None:
            return
        after = course_of(current)
        if after != current.course:
            self._changed(current, after)
            self._news.set()

    def forgeries(self) -> Iterator[tuple[Gate, str]]:
        """Yield gates that must change nothing, each with who signs it."""
        if not self.said:
            return
        newest, oldest = self.said[max(self.said)], self.said[min(self.said)]
        wide = replace(newest, stage=len(self.all[newest.commit].plan.stages), threshold=EVERYBODY, state="open")
        yield replace(wide, number=newest.number + 1000), "mallory"
        yield replace(wide, fleet="elsewhere", number=newest.number + 1000), "hub"
        yield replace(wide, number=oldest.number - 1), "hub"

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _state_after(event: Event, before: DeviceState) -> DeviceState:
    match event.kind:
        case "release.trial_started":
            return DeviceState.STARTED
        case "release.confirmed":
            return DeviceState.UNCHANGED if event.reason == "unchanged" else DeviceState.CONFIRMED
        case "release.refused" | "commit.refused":
            return DeviceState.REFUSED
        case _:
            return before
