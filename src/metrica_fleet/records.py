"""Records: what a device says once and for all, numbered so that nothing is lost and nothing counts twice.

A *stream* is what one outbox says from one opening of its file to the next. Within it records are numbered by ``seq``,
upwards. ``prev`` is the seq of the record of the stream before this one that still exists on the device (0 for none): a
record that was thinned away on purpose leaves no gap, one that got lost on the way does. The hub's watermark of a
stream moves only over records without a gap (``advanced``), so a device may forget whatever the watermark covers.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from metrica_fleet.identity import Commit, Digest, Slug, Stream

Seq = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
Prev = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Bytes = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Scalar = str | int | float | bool | None
Detail = Annotated[dict[str, Scalar], msgspec.Meta(max_length=64)]


class Mode(StrEnum):
    """What a device is doing as a whole, one at a time (CONVENTIONS 3.1, 4)."""

    STEADY = "steady"
    TRIAL = "trial"
    ROLLING_BACK = "rolling-back"
    HELD = "held"
    DEGRADED = "degraded"
    SAFE = "safe"
    HALTED = "halted"


class Phase(StrEnum):
    """How far the commit that the device wants has come (DESIGN.md section 4)."""

    PENDING = "pending"
    STAGED = "staged"
    PREFLIGHTED = "preflighted"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine is like; ``None`` where it can't be known on this hardware."""

    load_1m: float | None = None
    memory_total_bytes: Bytes | None = None
    memory_available_bytes: Bytes | None = None
    memory_pressure_some_ratio: float | None = None
    """Share of the last 10 s in which some task waited for memory."""
    memory_pressure_full_ratio: float | None = None
    """Share of the last 10 s in which all tasks waited for memory."""
    disk_path: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    """A folder of the tightest filesystem of those that matter; the figures of disk and inodes are of that one."""
    disk_total_bytes: Bytes | None = None
    disk_free_bytes: Bytes | None = None
    inodes_total: Count | None = None
    inodes_free: Count | None = None
    temperature_celsius: float | None = None
    under_voltage: bool | None = None
    frequency_capped: bool | None = None
    throttled: bool | None = None
    soft_temperature_limit: bool | None = None
    """Whether the firmware slows the processor because it is warm, before it must."""
    clock_synchronised: bool | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """I live, this is what I run, and this is how the machine is. May be thinned while cut off."""

    stream: Stream
    """The stream of which it is a record."""
    seq: Seq
    """Its number within the stream."""
    prev: Prev
    """The number of the record before it that the device still had; 0: none."""
    at: Instant | None
    """The device's wall clock, ``None`` when it is not synchronised."""
    boot_id: str
    """The kernel's boot id."""
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    """Since the boot."""
    commit: Commit | None
    """The confirmed commit."""
    release: Digest | None
    """The confirmed release."""
    mode: Slug
    """What the device is doing as a whole."""
    phase: Slug | None
    """How far the wanted commit has come."""
    vitals: Vitals
    """What the machine is like."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="event"):
    """A decision or a finding, with its reason. Never thinned."""

    stream: Stream
    """The stream of which it is a record."""
    seq: Seq
    """Its number within the stream."""
    prev: Prev
    """The number of the record before it that the device still had; 0: none."""
    at: Instant | None
    """The device's wall clock, ``None`` when it is not synchronised."""
    boot_id: str
    """The kernel's boot id."""
    uptime_s: Annotated[float, msgspec.Meta(ge=0)]
    """Since the boot."""
    kind: Slug
    """Which event: docs/reference/events.md."""
    reason: Slug | None = None
    """A stable word for programs."""
    message: Annotated[str, msgspec.Meta(max_length=4000)] = ""
    """A sentence for people."""
    commit: Commit | None = None
    """The commit that it is about."""
    release: Digest | None = None
    """The release that it is about."""
    detail: Detail = {}
    """The facts."""


Record = Heartbeat | Event

EVENT_KINDS: dict[str, str] = {
    "agent.started": "The agent process began to work.",
    "agent.stuck": "An agent did not come round any more and was ended; the message says where its tasks stood.",
    "agent.stopped": "The agent process ended in good order.",
    "agent.update_staged": "Another version of the agent is installed beside the one that runs.",
    "agent.update_started": "Another version of the agent is put on trial.",
    "agent.updated": "A version of the agent proved itself on trial, and runs from now on.",
    "agent.update_refused": "A version of the agent is given up, and not tried again; the one before it runs.",
    "commit.seen": "A remote offered a commit that the device had not seen.",
    "commit.refused": "A commit will not be deployed: its content or its history is not acceptable.",
    "git.unreachable": "No remote could be asked for the branch's commit.",
    "git.reachable": "A remote answers again.",
    "git.switched": "Another remote serves than before: the ones ahead of it do not, or do again.",
    "git.refused": "A remote offers a commit that is refused, while another one serves.",
    "git.behind": "A remote offers a commit that is older than the one the device has; it changes nothing.",
    "history.allowed": "An operator allowed a commit to follow whatever its history.",
    "bundle.brought": "A commit was brought on a stick: it begins without a word of the hub; who signed it is told.",
    "signers.changed": "Others may sign commits from now on.",
    "release.staged": "The release's files and rendered Compose model are complete on disk.",
    "release.preflighted": "Everything that the release needs is here: images, bind sources, room.",
    "release.waiting": "The release cannot go on now; it will be tried again.",
    "release.trial_started": "The switch to the release was recorded and begun.",
    "release.confirmed": "What runs is the release, and it stayed healthy through its soak.",
    "release.refused": "The release failed its trial or could not be tried.",
    "trial.rebooted": "The machine was started during a trial: the release is applied anew, and the start counted.",
    "rollback.started": "The way back to the last confirmed release was begun.",
    "rollback.finished": "The last confirmed release runs again and stayed healthy through its soak.",
    "rollback.failed": "The release that was gone back to does not come up either.",
    "safe_mode.entered": "The stack that always works is to run: a crash loop, no release that comes up, or an order.",
    "safe_mode.running": "The safe-mode stack runs, and nothing else.",
    "safe_mode.left": "A newer commit was confirmed, or an order said so: safe mode is over.",
    "hold.begun": "Nothing changes any more, by order.",
    "hold.ended": "Changes go on, by order.",
    "stop.obeyed": "An emergency stop is in force here: from now on no step is begun, and what it asks for is done.",
    "stop.done": "All is done that the emergency stop asks for.",
    "stop.lifted": "No emergency stop is in force here any more; changes go on.",
    "stop.refused": "A stop order is not obeyed: whoever signed it may not, it is too old, or for another fleet.",
    "gate.refused": "What came as a rollout's gate changes nothing: forged, of another fleet, or older than the last.",
    "head.stale": "No remote gives the commit that the hub names, its stop order is missing, or the hub is silent.",
    "head.fresh": "The hub says again where the branch is, and a remote has given that commit.",
    "head.refused": "What came as the hub's word on the branch is not believed: forged, or of another fleet.",
    "task.failed": "A task of the agent failed; in safe mode it is started again by itself, so that the others go on.",
    "strain.entered": "The machine is strained further, by disk, heat, supply or memory: what follows waits or rests.",
    "strain.left": "The machine is strained less.",
    "services.rested": "Services were stopped to spare the machine, by their priority.",
    "services.resumed": "Services that rested run again.",
    "disk.cleaned": "Room was made on a disk that is low.",
    "reserve.used": "The reserve on disk was given up, so that the agent can write its own state.",
    "reserve.restored": "The reserve on disk is there again.",
    "drift.found": "Files, or what runs, are not as the release that is to run has them; it is being set right.",
    "drift.repaired": "What ran differed from the confirmed release and was set right.",
    "drift.contested": "Something was repaired again and again and did not stay so: it is touched once an hour.",
    "consent.overridden": "A release begins although a window is closed or a lock is held: its patience is over.",
    "command.done": "A command of an operator was done; the detail has its verb and number.",
    "command.failed": "A command of an operator was refused, or came to nothing; the reason says why.",
    "command.distrusted": "A command was not taken: nobody who may has signed it, or it is not for us, or long over.",
    "engine.unresponsive": "The container engine does not answer.",
    "engine.responsive": "The container engine answers again.",
    "network.lost": "Neither Git nor the bus could be reached for a while (10 minutes unless set otherwise).",
    "network.back": "Something outside answers again; how long nothing did is told.",
    "hub.set_back": "The hub lacks what it had said to have: its database was restored. What is still here goes again.",
    "bus.denied": "The broker refused a publication: its access rules are wrong.",
    "bus.taken_over": "Another machine connected under this device's name; both take turns, and nothing is lost.",
    "bus.untimely": "The broker's certificate is not valid by this device's clock: the bus waits for the right time.",
    "identity.renewed": "The broker took this device's new certificate; the one before, and its key, are gone.",
    "identity.unrenewed": "The hub gave no certificate to follow the present one; it is asked again, ever later.",
    "identity.refused": "The broker refuses this device's certificate: it has expired, or was revoked.",
    "outbox.thinned": "The outbox was full: heartbeats that could not be sent were dropped, events never are.",
    "ledger.renewed": "The ledger could not be read: it was kept aside and a new one begun.",
    "ledger.moved": "The ledger was written on another machine: its card was moved, or cloned.",
    "record.unreadable": "A record in the outbox could not be read by this agent; this stands in its place.",
}
"""Every kind of event there is, and what it means; docs/reference/events.md is made from it."""


def advanced(stored: int, record: Record) -> int:
    """Return the watermark of a stream after ``record`` was stored: moved only when there is no gap before it."""
    return record.seq if record.prev <= stored < record.seq else stored
