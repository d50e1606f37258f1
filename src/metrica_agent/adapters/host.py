"""What the machine is like: load, memory, disks, heat, supply. ``None`` where this hardware can't say."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from asyncio.subprocess import DEVNULL, PIPE
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiofiles
import msgspec

from metrica_agent.decisions.strain import StrainLimits, room
from metrica_fleet.errors import NotNow
from metrica_fleet.records import Vitals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SENSOR_S: Final = 2.0
"""The firmware may take its time to answer; longer than this it is not waited for."""
_SANE_CELSIUS: Final = (-60.0, 200.0)
_COMMAND_REST_S: Final = 60.0
"""Between calls of vcgencmd: a process each time."""
_ENGINE_REST_S: Final = 3600.0
"""How long it is believed where the engine keeps its data."""
_ENGINE_RETRY_S: Final = 300.0
_UNDER_VOLTAGE, _FREQUENCY_CAPPED, _THROTTLED, _SOFT_LIMIT = 1, 2, 4, 8
"""The bits of get_throttled that are about now; those from 0x10000 on are about the time since boot."""


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where this machine's sensors are."""

    thermal_zones: Path = Path("/sys/class/thermal")
    throttled: Path = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
    meminfo: Path = Path("/proc/meminfo")
    memory_pressure: Path = Path("/proc/pressure/memory")


class _Filesystem(NamedTuple):
    path: str
    total_bytes: int
    free_bytes: int
    inodes_total: int | None
    inodes_free: int | None


class Host:
    """The machine, seen from its folder of state."""

    def __init__(
        self,
        state: Path,
        *,
        synchronised: Callable[[], bool],
        sources: Sources | None = None,
        limits: StrainLimits | None = None,
        data_root: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """See the machine of ``state``.

        Args:
            state: the state directory.
            synchronised: whether the wall clock is.
            sources: where the sensors are.
            limits: by which the tightest of several filesystems is found.
            data_root: asks the container engine where it keeps its data; may raise NotNow.
        """
        self._state = state
        self._synchronised = synchronised
        self._sources = sources or Sources()
        self._limits = limits or StrainLimits()
        self._data_root = data_root
        self._engine_folder: str | None = None
        self._engine_again_s = 0.0
        self._command_bits: int | None = None
        self._command_again_s = 0.0
        self._sensors = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sensors")

    async def vitals(self) -> Vitals:
        """Return what the machine is like now."""
        memory = await self._memory()
        some, full = await self._memory_pressure()
        disk = await self._tightest()
        bits = await self._throttled_bits()
        return Vitals(
            load_1m=round(os.getloadavg()[0], 2),
            memory_total_bytes=memory.get("MemTotal"),
            memory_available_bytes=memory.get("MemAvailable"),
            memory_pressure_some_ratio=some,
            memory_pressure_full_ratio=full,
            disk_path=disk.path if disk else None,
            disk_total_bytes=disk.total_bytes if disk else None,
            disk_free_bytes=disk.free_bytes if disk else None,
            inodes_total=disk.inodes_total if disk else None,
            inodes_free=disk.inodes_free if disk else None,
            temperature_celsius=await self._temperature(),
            under_voltage=_is_set(bits, _UNDER_VOLTAGE),
            frequency_capped=_is_set(bits, _FREQUENCY_CAPPED),
            throttled=_is_set(bits, _THROTTLED),
            soft_temperature_limit=_is_set(bits, _SOFT_LIMIT),
            clock_synchronised=self._synchronised(),
        )

    # --- memory: the kernel answers these from memory, and never hangs ---------------------------------------

    async def _memory(self) -> dict[str, int]:
        """Return the lines of meminfo that are amounts, in bytes."""
        lines = await _lines(self._sources.meminfo)
        amounts = (line.replace(":", "").split() for line in lines if line.endswith(" kB"))
        return {words[0]: int(words[1]) * 1024 for words in amounts}

    async def _memory_pressure(self) -> tuple[float | None, float | None]:
        """Return the shares of the last 10 s in which some tasks, and all, waited for memory."""
        lines = await _lines(self._sources.memory_pressure)
        shares = {line.partition(" ")[0]: _avg10(line) for line in lines}
        return shares.get("some"), shares.get("full")

    # --- disks -------------------------------------------------------------------------------------------------

    async def _tightest(self) -> _Filesystem | None:
        """Return the filesystem that has the least room of those that matter, measured by what is low on each."""
        paths = [str(self._state)]
        engine = await self._where_the_engine_is()
        if engine is not None:
            paths.append(engine)
        known = [one for path in paths if (one := await asyncio.to_thread(_filesystem, path)) is not None]
        return min(known, key=lambda one: room(*one[1:], limits=self._limits), default=None)

    async def _where_the_engine_is(self) -> str | None:
        """Return the engine's folder; asked for once in a while, and believed while the engine is away."""
        if self._data_root is None or time.monotonic() < self._engine_again_s:
            return self._engine_folder
        self._engine_again_s = time.monotonic() + _ENGINE_RETRY_S
        try:
            self._engine_folder = await self._data_root() or None
        except NotNow:
            return self._engine_folder
        self._engine_again_s = time.monotonic() + _ENGINE_REST_S
        return self._engine_folder

    # --- heat and supply -----------------------------------------------------------------------------------------

    async def _temperature(self) -> float | None:
        """Return the hottest zone's temperature."""
        folder = self._sources.thermal_zones
        zones = await asyncio.to_thread(lambda: sorted(folder.glob("thermal_zone*/temp")))
        read = [await self._number(zone, 10) for zone in zones]
        low, high = _SANE_CELSIUS
        sane = [value / 1000 for value in read if value is not None and low <= value / 1000 <= high]
        return max(sane, default=None)

    async def _throttled_bits(self) -> int | None:
        if await asyncio.to_thread(self._sources.throttled.exists):
            return await self._number(self._sources.throttled, 16)
        return await self._bits_by_command()

    async def _bits_by_command(self) -> int | None:
        """Return what ``vcgencmd get_throttled`` says, where only that is there: once in a while."""
        program = shutil.which("vcgencmd")
        if program is None or time.monotonic() < self._command_again_s:
            return self._command_bits if program else None
        self._command_again_s = time.monotonic() + _COMMAND_REST_S
        process = await asyncio.create_subprocess_exec(
            program, "get_throttled", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
        try:
            async with asyncio.timeout(_SENSOR_S):
                answer, _ = await process.communicate()
            self._command_bits = int(answer.decode("ascii", "replace").strip().partition("=")[2], 16)
        except (TimeoutError, ValueError):
            self._command_bits = None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return self._command_bits

    async def _number(self, path: Path, base: int) -> int | None:
        """Return the number that ``path`` holds, or ``None`` where there is none, or none in time.

        A read that hangs in the firmware holds one thread of ours, and none that others need. aiofiles reads only what
        can't hang: a file that it opened after nobody waited any more would stay open.
        """
        reading: Any = partial(path.read_text, encoding="ascii")
        try:
            async with asyncio.timeout(_SENSOR_S):
                return int(await asyncio.get_running_loop().run_in_executor(self._sensors, reading), base)
        except (OSError, ValueError):
            return None


def _filesystem(path: str) -> _Filesystem | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    counted = status.f_files > 0
    return _Filesystem(
        path=path,
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        inodes_total=status.f_files if counted else None,
        inodes_free=status.f_favail if counted else None,
    )


async def _lines(path: Path) -> list[str]:
    try:
        async with aiofiles.open(path, encoding="ascii") as file:
            return (await file.read()).splitlines()
    except OSError:
        return []


def _avg10(line: str) -> float | None:
    """Return a line of ``/proc/pressure``'s average over 10 s, as a share."""
    word = next((word for word in line.split() if word.startswith("avg10=")), "")
    try:
        return round(float(word.removeprefix("avg10=")) / 100, 4)
    except ValueError:
        return None


def _is_set(bits: int | None, bit: int) -> bool | None:
    return None if bits is None else bits & bit != 0
