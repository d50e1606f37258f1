"""Values that the hub's tests are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from metrica_fleet.codec import encode
from metrica_fleet.identity import DeviceId, FleetId, StreamId
from metrica_fleet.messages import Presence, Service, Services, Status
from metrica_fleet.records import Event, Heartbeat, Record, Vitals
from metrica_fleet.topics import RECORDS, Address, Channel, topic_of
from metrica_hub.decisions.fleet_state import DeviceState, EventRow
from metrica_hub.decisions.intake import Arrival, Delivery, Said, read

FLEET = FleetId("home")
PI = DeviceId("pi-01")
STREAM = StreamId("a" * 32)
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Some seconds after the beginning."""
    return START + timedelta(seconds=seconds)


def event(seq: int, *, prev: int | None = None, stream: StreamId = STREAM, message: str = "") -> Event:
    """An event."""
    return Event(
        stream=stream,
        seq=seq,
        prev=seq - 1 if prev is None else prev,
        at=None,
        boot_id="boot",
        uptime_s=float(seq),
        kind="commit.seen",
        message=message,
    )


def heartbeat(seq: int, *, prev: int | None = None, uptime_s: float | None = None, boot: str = "boot") -> Heartbeat:
    """A heartbeat; its load is its number."""
    return Heartbeat(
        stream=STREAM,
        seq=seq,
        prev=seq - 1 if prev is None else prev,
        at=None,
        boot_id=boot,
        uptime_s=float(seq) if uptime_s is None else uptime_s,
        commit=None,
        release=None,
        mode="steady",
        phase=None,
        vitals=Vitals(load_1m=float(seq)),
    )


def status(*, mode: str = "steady", uptime_s: float = 1.0, boot: str = "boot", device: DeviceId = PI) -> Status:
    """A status."""
    return Status(
        device=device,
        role=None,
        mode=mode,
        commit=None,
        release=None,
        wanted_commit=None,
        phase=None,
        at=None,
        boot_id=boot,
        uptime_s=uptime_s,
        agent_version="1",
        stream=STREAM,
        last_seq=0,
        vitals=Vitals(),
    )


def services(*states: str, uptime_s: float = 1.0, boot: str = "boot", device: DeviceId = PI) -> Services:
    """What runs: services that are called by their place, each in one of ``states``."""
    them = tuple(Service(name=str(place), state=state) for place, state in enumerate(states))
    return Services(device=device, at=None, boot_id=boot, uptime_s=uptime_s, services=them)


def presence(state: str, connection: int, *, boot: str = "boot") -> Presence:
    """A presence."""
    return Presence(
        device=PI,
        state="online" if state == "online" else "offline",
        reason="connected",
        boot_id=boot,
        connection=connection,
        agent_version="1",
    )


def said(
    message: Record | Status | Services | Presence, *, device: DeviceId = PI, seconds: float = 0, replayed: bool = False
) -> Said:
    """A message, understood."""
    return Said(
        device=device, message=message, received_at=at(seconds), replayed=replayed, topic="t", payload=encode(message)
    )


def delivery(payload: bytes, *, channel: Channel = RECORDS, topic: str | None = None) -> Delivery:
    """Bytes as the broker hands them over."""
    return Delivery(topic_of(Address(FLEET, channel, PI)) if topic is None else topic, payload, False, 1, 1)  # noqa: FBT003 - a row


def arrival(payload: bytes, *, channel: Channel = RECORDS, topic: str | None = None) -> Arrival:
    """What bytes say."""
    return read(delivery(payload, channel=channel, topic=topic), FLEET, START)


def device_state(**changes: object) -> DeviceState:
    """A device of which little is known."""
    fields: dict[str, object] = {
        "device": "pi-01",
        "connection": "online",
        "connection_reason": None,
        "connection_at": None,
        "flapping_since": None,
        "claimed_since": None,
        "claimants": (),
        "role": "camera",
        "tags": (),
        "mode": "steady",
        "commit": "c" * 40,
        "release": "d" * 64,
        "wanted_commit": "c" * 40,
        "phase": "confirmed",
        "reason": None,
        "message": "",
        "refused": None,
        "agent_version": "1",
        "boot_id": "boot",
        "uptime_s": 1.0,
        "vitals": Vitals(),
        "status_at": None,
        "first_seen_at": START,
        "last_seen_at": START,
        "heartbeat_s": 60.0,
        "change": 1,
    }
    return DeviceState(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def event_row(number: int, kind: str, commit: str | None = "a" * 40, **changes: object) -> EventRow:
    """An event as it was stored, a second after the one before."""
    fields: dict[str, object] = {
        "cursor": number,
        "device": "pi-01",
        "stream": "0" * 32,
        "seq": number,
        "received_at": at(number),
        "at": at(number),
        "uptime_s": float(number),
        "boot_id": "boot",
        "kind": kind,
        "reason": None,
        "message": "",
        "commit": commit,
        "release": None,
        "detail": {},
    }
    return EventRow(**{**fields, **changes})  # pyright: ignore[reportArgumentType]
