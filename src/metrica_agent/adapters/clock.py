"""The device's clocks: seconds since boot for every decision, the wall clock for people only.

A Pi has no battery for its clock: until it is synchronised it may say 1970 or last Tuesday, so ``wall`` says
nothing then. Durations are measured on CLOCK_BOOTTIME, which nobody sets and which goes on while the machine
is suspended.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metrica_agent.decisions.steps import WallTime
from metrica_agent.decisions.world import Stamp
from metrica_fleet.identity import BootId

if TYPE_CHECKING:
    from collections.abc import Callable

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TIMESYNCD: Final = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the kernel holds its clock for unsynchronised."""
_TIMEX_BYTES: Final = 512
"""More than ``struct timex`` takes on any machine; all zero it asks and sets nothing."""
_SANE_YEARS: Final = range(2025, 2100)


def boot_clock_s() -> float:
    """Return the seconds since boot; the monotonic clock where the kernel has no CLOCK_BOOTTIME."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def kernel_boot_id(path: Path = _BOOT_ID) -> BootId:
    """Return the id that the kernel drew at this boot."""
    return BootId(path.read_text(encoding="ascii").strip())


def utc_now() -> datetime:
    """Return what the wall clock says, right or wrong."""
    return datetime.now(UTC)


def kernel_synchronised(marker: Path = _TIMESYNCD) -> bool:
    """Whether the wall clock is kept in step: systemd-timesyncd has been at it, or the kernel says so."""
    if marker.exists():
        return True
    import ctypes  # noqa: PLC0415 - 0.3 MiB that a Pi with systemd-timesyncd does not need

    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    return adjtimex is not None and 0 <= adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) < _TIME_ERROR


def _zone(name: str) -> tzinfo:
    import zoneinfo  # noqa: PLC0415 - few roles name a zone, and an agent has little room

    return zoneinfo.ZoneInfo(name)


class Clock:
    """The clocks of one boot. The sources are arguments, so that a test or a simulation brings its own."""

    def __init__(
        self,
        *,
        boot_id: BootId,
        boot_s: Callable[[], float] = boot_clock_s,
        utc: Callable[[], datetime] = utc_now,
        synchronised: Callable[[], bool] = kernel_synchronised,
    ) -> None:
        self.boot_id = boot_id
        self._boot_s = boot_s
        self._utc = utc
        self._synchronised = synchronised

    @classmethod
    def of_this_machine(cls) -> Clock:
        """Return the clocks of the running kernel."""
        return cls(boot_id=kernel_boot_id())

    def now_s(self) -> float:
        """Return the seconds since boot: what every decision and deadline is measured on."""
        return self._boot_s()

    def wall(self) -> str | None:
        """Return the time as RFC 3339 in UTC to the millisecond, or ``None`` while it can't be trusted."""
        now = self._trusted()
        if now is None:
            return None
        return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def time(self) -> datetime | None:
        """Return the time in UTC, or ``None`` while it can't be trusted."""
        return self._trusted()

    def time_in(self, zone: str) -> WallTime | None:
        """Return the time of day in ``zone``; ``None`` while it can't be trusted, or for a zone not known here."""
        now = self._trusted()
        if now is None:
            return None
        try:
            there = now.astimezone(UTC if zone == "UTC" else _zone(zone))
        except (LookupError, ValueError, OSError):
            return None
        return WallTime(weekday=there.weekday(), minute=there.hour * 60 + there.minute)

    def _trusted(self) -> datetime | None:
        if not self._synchronised():
            return None
        now = self._utc()
        return now if now.year in _SANE_YEARS else None

    def stamp(self) -> Stamp:
        """Return when it is now, for a record."""
        return Stamp(boot_id=self.boot_id, uptime_s=self.now_s(), at=self.wall())
