"""Heartbeats by the thousand: who publishes them (publisher.c), and what they look like."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fixtures.agent import FLEET

from metrica_fleet.codec import encode
from metrica_fleet.identity import CommitId, ReleaseDigest, StreamId
from metrica_fleet.records import Heartbeat, Vitals

if TYPE_CHECKING:
    from pathlib import Path

TOPIC = f"metrica/v1/{FLEET}/devices/+/records"


@dataclass(frozen=True, slots=True)
class Load:
    """What is published: beside it, one record of each device before, which is not measured."""

    devices: int
    records: int
    rate: float = 0
    """Records a second; 0: as fast as the broker takes them."""

    @property
    def rows(self) -> int:
        """How many records there are in all."""
        return self.devices + self.records // self.devices * self.devices


@dataclass(frozen=True, slots=True)
class Published:
    """What the publisher measured."""

    began_s: float
    """On the monotonic clock."""
    took_s: float
    delays_s: list[float]
    """From a publication to the ``stored`` that covers it, as its device hears it."""


def compiled(source: Path, folder: Path, *libraries: str) -> Path:
    """Compile a program that stands beside this file."""
    program = folder / source.stem
    command = ["gcc", "-O2", "-o", str(program), str(source), *(f"-l{name}" for name in libraries)]
    subprocess.run(command, check=True)
    return program


def publish(publisher: Path, port: int, load: Load, *, answered: bool) -> Published:
    """Publish ``load``; return when all is acknowledged by the broker, or ``answered`` by a hub."""
    numbers = (load.devices, load.records, load.rate, int(answered))
    command = [str(publisher), str(port), FLEET, *map(str, numbers), template()]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900).stdout.split()
    began_s, took_s, *delays_s = map(float, said)
    return Published(began_s, took_s, delays_s)


def template() -> str:
    """Return a heartbeat as an agent writes it, with places for what differs."""
    heartbeat = Heartbeat(
        stream=StreamId("@STREAM@"),
        seq=1,
        prev=1,
        at=None,
        boot_id="11111111-2222-3333-4444-555555555555",
        uptime_s=1.0,
        commit=CommitId("a" * 40),
        release=ReleaseDigest("b" * 64),
        mode="steady",
        phase="confirmed",
        vitals=Vitals(
            load_1m=0.12,
            memory_total_bytes=906_000_000,
            memory_available_bytes=612_345_678,
            disk_total_bytes=31_000_000_000,
            disk_free_bytes=20_123_456_789,
            temperature_celsius=48.5,
            throttled=False,
            clock_synchronised=True,
        ),
    )
    places = {'"seq":1': '"seq":@SEQ@', '"prev":1': '"prev":@PREV@', '"at":null': '"at":"@AT@"', "1.0": "@SEQ@.0"}
    text = encode(heartbeat).decode()
    for value, place in places.items():
        assert text.count(value) == 1
        text = text.replace(value, place)
    return text
