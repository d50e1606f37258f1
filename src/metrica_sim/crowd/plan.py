"""What a crowd is to do: one value, handed to each process with its share of the devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from metrica_fleet.identity import DeviceId, Name

A_PROCESS: Final = 1500
"""Devices: more, and one process has too many open files and one processor too much to do."""

Share = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A crowd."""

    fleet: Name
    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    state: str
    """The folder of ledgers and diaries."""
    username: str | None = None
    password_file: str | None = None
    devices: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    first: int = 1
    """The number of the first one; of a process' share."""
    of: int = 0
    """How many there are in all processes; 0: ``devices``."""
    duration_s: Seconds = 60.0
    ramp_s: Share = 10.0
    """Over which the devices are switched on."""
    patience_s: Share = 300.0
    """How long what was told may take to be stored, after the end."""
    heartbeat_s: Seconds = 60.0
    event_every_s: Seconds = 600.0
    """The mean, of one device."""
    backlog: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """Heartbeats that each has waiting when it is switched on."""
    cuts_an_hour: Share = 0.0
    """Of one device's network."""
    cut_s: Seconds = 30.0
    """How long a cut lasts, in the mean."""
    reboots_an_hour: Share = 0.0
    """Of one device; every second one is a power cut as far as the broker can tell."""
    poison_per_s: Share = 0.0
    """Messages that no device would send."""
    haste: Annotated[float, msgspec.Meta(ge=1, le=100)] = 1.0
    """How many times shorter the telemetry's own waits are than a device's: for tests that have little time."""
    seed: int = 0

    @property
    def names(self) -> tuple[DeviceId, ...]:
        """The devices of this part, as ``crowd-00001``."""
        digits = max(2, len(str(self.of or self.devices)))
        return tuple(DeviceId(f"crowd-{self.first + number:0{digits}d}") for number in range(self.devices))

    @property
    def diary(self) -> Path:
        """Where this part's devices write what they told."""
        return Path(self.state) / f"diary-{self.first:06d}.txt"

    def shares(self, processes: int) -> tuple[Plan, ...]:
        """Return the parts, one for each process."""
        parts: list[Plan] = []
        first = self.first
        for number in range(processes):
            devices = self.devices // processes + (number < self.devices % processes)
            if devices:
                parts.append(
                    msgspec.structs.replace(
                        self,
                        devices=devices,
                        first=first,
                        of=self.devices,
                        poison_per_s=self.poison_per_s / processes,
                        seed=self.seed + number,
                    )
                )
            first += devices
        return tuple(parts)
