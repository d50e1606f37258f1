from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from metrica_sim.demo.children import Household, output_of
from metrica_sim.demo.trouble import Trouble

STUBBORN = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "os.fork(); print('up', flush=True); time.sleep(600)"
)

# Who starts tests in the background of a shell has SIGINT ignored, and children inherit that.
SLEEPER = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('up', flush=True); time.sleep(600)"


def household(tmp_path: Path) -> Household:
    return Household(tmp_path, os.environ)


async def test_a_child_that_does_not_want_to_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    house = household(tmp_path)
    child = await house.start("stubborn", [sys.executable, "-c", STUBBORN])
    group = child.process.pid

    async def both_up() -> bool:
        return child.log.read_text(encoding="utf-8").count("up") == 2

    await child.ready(both_up, 20)
    began_s = time.monotonic()
    await house.end(["stubborn", "nobody"], 0.3)
    assert time.monotonic() - began_s < 30
    with pytest.raises(ProcessLookupError):
        _wait_for_group(group)


def _wait_for_group(group: int) -> None:
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        os.killpg(group, 0)


async def test_a_child_that_ends_too_soon_is_told_with_its_log(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    child = await household(tmp_path).start("short", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(Trouble, match="ended with exit code 3") as trouble:
        await child.ready(never, 20)
    assert trouble.value.log == tmp_path / "short.log"


async def test_a_child_gets_the_signal_that_it_wants(tmp_path: Path) -> None:
    house = household(tmp_path)
    child = await house.start("sleeper", [sys.executable, "-c", SLEEPER], end_by=signal.SIGINT)

    async def up() -> bool:
        return "up" in child.log.read_text(encoding="utf-8")

    await child.ready(up, 20)
    await house.end(["sleeper"], 5)
    assert child.process.returncode == -signal.SIGINT


async def test_a_command_that_is_not_there_or_hangs_is_told() -> None:
    with pytest.raises(Trouble, match="is not installed"):
        await output_of(["no-such-command"], within_s=5)
    with pytest.raises(Trouble, match="more than"):
        await output_of(["sleep", "600"], within_s=0.1)
    assert await output_of(["cat"], within_s=5, feed=b"x") == (0, "x")
