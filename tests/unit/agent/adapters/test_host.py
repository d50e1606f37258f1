from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from metrica_agent.adapters.host import Host, Sources
from metrica_agent.decisions.strain import StrainLimits
from metrica_fleet.errors import NotNow

if TYPE_CHECKING:
    from pathlib import Path


def host(tmp_path: Path, zones: dict[str, str], throttled: str | None = None) -> Host:
    thermal = tmp_path / "thermal"
    for name, text in zones.items():
        (thermal / name).mkdir(parents=True)
        (thermal / name / "temp").write_text(text, encoding="ascii")
    if throttled is not None:
        (tmp_path / "get_throttled").write_text(throttled, encoding="ascii")
    sources = Sources(thermal_zones=thermal, throttled=tmp_path / "get_throttled")
    return Host(tmp_path, synchronised=lambda: True, sources=sources)


async def test_this_machine_is_known(tmp_path: Path) -> None:
    vitals = await host(tmp_path, {}).vitals()
    assert vitals.load_1m is not None
    assert vitals.memory_available_bytes is not None
    assert vitals.memory_total_bytes is not None
    assert vitals.memory_available_bytes <= vitals.memory_total_bytes
    assert vitals.disk_free_bytes is not None
    assert vitals.disk_total_bytes is not None
    assert vitals.disk_free_bytes <= vitals.disk_total_bytes
    assert vitals.clock_synchronised is True


async def test_what_this_hardware_has_not_is_none(tmp_path: Path) -> None:
    vitals = await host(tmp_path, {}).vitals()
    assert (vitals.temperature_celsius, vitals.throttled) == (None, None)


async def test_the_hottest_sane_zone_counts(tmp_path: Path) -> None:
    zones = {"thermal_zone0": "48312\n", "thermal_zone1": "61000\n", "thermal_zone2": "999999\n", "thermal_zone3": "?"}
    assert (await host(tmp_path, zones).vitals()).temperature_celsius == 61.0


@pytest.mark.parametrize(
    ("bits", "facts"),
    [
        ("0", (False, False, False, False)),
        ("1", (True, False, False, False)),
        ("2", (False, True, False, False)),
        ("4", (False, False, True, False)),
        ("8", (False, False, False, True)),
        ("50005", (True, False, True, False)),
        ("0x5", (True, False, True, False)),
        ("f0000", (False, False, False, False)),
        ("?", (None, None, None, None)),
    ],
)
async def test_what_is_so_now_counts_and_what_was_since_boot_is_past(
    tmp_path: Path, bits: str, facts: tuple[bool | None, ...]
) -> None:
    seen = await host(tmp_path, {}, throttled=f"{bits}\n").vitals()
    assert (seen.under_voltage, seen.frequency_capped, seen.throttled, seen.soft_temperature_limit) == facts


async def test_where_only_vcgencmd_is_there_it_is_asked_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, calls = tmp_path / "bin" / "vcgencmd", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $1 >> {calls}\necho throttled=0x50005\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    machine = host(tmp_path, {})
    for _ in range(3):
        assert ((seen := await machine.vitals()).under_voltage, seen.throttled) == (True, True)
    assert calls.read_text() == "get_throttled\n"


async def test_memory_pressure_is_a_share(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_text("some avg10=41.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=12.00 avg60=0 avg300=0 total=1\n")
    vitals = await Host(tmp_path, synchronised=lambda: True, sources=Sources(memory_pressure=file)).vitals()
    assert (vitals.memory_pressure_some_ratio, vitals.memory_pressure_full_ratio) == (0.415, 0.12)


async def test_a_kernel_without_pressure_says_none(tmp_path: Path) -> None:
    sources = Sources(memory_pressure=tmp_path / "nowhere")
    vitals = await Host(tmp_path, synchronised=lambda: True, sources=sources).vitals()
    assert (vitals.memory_pressure_some_ratio, vitals.memory_pressure_full_ratio) == (None, None)


@pytest.mark.parametrize("scarce", ["bytes", "inodes"])
async def test_the_tightest_filesystem_counts_and_is_named(tmp_path: Path, scarce: str) -> None:
    async def engine() -> str:
        return "/dev"

    limits = StrainLimits(disk_low_ratio=float(scarce == "bytes"), inodes_low_ratio=float(scarce == "inodes"))
    paths = {str(tmp_path): os.statvfs(tmp_path), "/dev": os.statvfs("/dev")}
    shares = {
        path: one.f_bavail / min(one.f_blocks, limits.disk_low_bytes / one.f_frsize)
        if scarce == "bytes"
        else one.f_favail / one.f_files
        for path, one in paths.items()
    }
    vitals = await Host(tmp_path, synchronised=lambda: True, data_root=engine, limits=limits).vitals()
    tightest = min(shares, key=lambda path: shares[path])
    assert vitals.disk_path == tightest
    assert vitals.disk_total_bytes == paths[tightest].f_blocks * paths[tightest].f_frsize
    assert vitals.inodes_total == paths[tightest].f_files


async def test_an_engine_that_is_away_hides_no_disk(tmp_path: Path) -> None:
    asked: list[int] = []

    async def away() -> str:
        asked.append(1)
        raise NotNow("no engine", reason="engine-unresponsive")

    machine = Host(tmp_path, synchronised=lambda: True, data_root=away)
    for _ in range(3):
        assert (await machine.vitals()).disk_path == str(tmp_path)
    assert asked == [1]


async def test_a_folder_that_is_gone_is_none(tmp_path: Path) -> None:
    vitals = await Host(tmp_path / "gone", synchronised=lambda: False).vitals()
    assert (vitals.disk_total_bytes, vitals.disk_free_bytes) == (None, None)


async def test_firmware_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    sensor = tmp_path / "get_throttled"
    os.mkfifo(sensor)  # opening it for reading blocks until somebody writes
    silent = Host(tmp_path, synchronised=lambda: True, sources=Sources(thermal_zones=tmp_path, throttled=sensor))
    began = time.monotonic()
    assert (await silent.vitals()).throttled is None
    assert time.monotonic() - began < 30
    await asyncio.to_thread(sensor.write_text, "0\n", encoding="ascii")  # let the thread go
