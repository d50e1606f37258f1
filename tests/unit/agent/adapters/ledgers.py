"""Values that the ledger's tests write down."""

from __future__ import annotations

from typing import Any

from metrica_agent.decisions.world import Decision, Memory, Saying, Stamp
from metrica_fleet.identity import BootId, CommitId, DeviceId, RoleId, StreamId
from metrica_fleet.messages import Status
from metrica_fleet.records import Vitals

STAMP = Stamp(boot_id=BootId("boot-1"), uptime_s=12.5, at="2026-11-23T20:52:00.123Z")
LATER = Stamp(boot_id=BootId("boot-1"), uptime_s=99.0, at=None)


def commit(number: int) -> CommitId:
    return CommitId(f"{number:040x}")


def remembering(number: int) -> Memory:
    return Memory(accepted=commit(number))


def saying(message: str = "", **more: Any) -> Saying:
    return Saying(kind="commit.seen", message=message, **more)


def decision(number: int) -> Decision:
    return Decision(rule="wait", step="Wait", why=f"because {number}", facts={"number": number})


def status(**more: Any) -> Status:
    fields: dict[str, Any] = {
        "device": DeviceId("pi-01"),
        "role": RoleId("camera"),
        "mode": "steady",
        "commit": commit(7),
        "release": "b" * 64,
        "wanted_commit": commit(7),
        "phase": "confirmed",
        "at": None,
        "boot_id": "boot-1",
        "uptime_s": 1.0,
        "agent_version": "0.1.0",
        "stream": StreamId("0" * 32),
        "last_seq": 0,
        "vitals": Vitals(load_1m=0.25, memory_total_bytes=4_000_000_000, throttled=False),
    }
    return Status(**fields | more)
