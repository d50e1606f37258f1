"""What a simulated machine measures: plausible for a Raspberry Pi 4, slow to change, and the same for the same seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from metrica_fleet.records import Vitals

_MEMORY_BYTES: Final = (1 << 30, 2 << 30, 4 << 30, 8 << 30)
_DISK_BYTES: Final = (16 * 10**9, 32 * 10**9, 64 * 10**9)
_DAY_S: Final = 86_400.0
_STEP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedVitals:
    """The sensors of one machine."""

    seed: str
    now_s: Callable[[], float]

    async def __call__(self) -> Vitals:
        """Return what they say now."""
        made = random.Random(self.seed)  # plausible, not secret
        memory_bytes, disk_bytes = made.choice(_MEMORY_BYTES), made.choice(_DISK_BYTES)
        warm_c, busy, used = made.uniform(41, 54), made.uniform(0.1, 0.7), made.uniform(0.3, 0.7)
        now_s = self.now_s()
        shaken = random.Random(f"{self.seed} {int(now_s / _STEP_S)}")
        day = math.sin(2 * math.pi * (now_s / _DAY_S + made.random()))
        return Vitals(
            load_1m=round(busy + 0.2 * shaken.random(), 2),
            memory_total_bytes=memory_bytes,
            memory_available_bytes=int(memory_bytes * (0.6 + 0.05 * shaken.random())),
            memory_pressure_some_ratio=0.0,
            memory_pressure_full_ratio=0.0,
            disk_path="/var/lib/metrica",
            disk_total_bytes=disk_bytes,
            disk_free_bytes=int(disk_bytes * (1 - used)) - int(now_s) % 10**6,
            inodes_total=disk_bytes // 16_384,
            inodes_free=int(disk_bytes // 16_384 * (1 - used)),
            temperature_celsius=round(warm_c + 4 * day + shaken.random(), 1),
            under_voltage=False,
            frequency_capped=False,
            throttled=False,
            soft_temperature_limit=False,
            clock_synchronised=True,
        )
