"""SIGKILL at any moment: what was acknowledged is there, memory and events agree, no number means two things."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.broker import Broker, free_port
from tests.integration.agent.reporting import device, tiny_hub, until

from metrica_agent.adapters.bus import Patience
from metrica_agent.adapters.ledger import Ledger
from metrica_fleet.records import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


def counting(folder: Path, port: int, pause_s: float = 0.0) -> subprocess.Popen[str]:
    """Start the process that counts."""
    arguments = [sys.executable, "-m", "tests.integration.agent.counting", str(folder), str(port), str(pause_s)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(
        arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )


def killed_after(process: subprocess.Popen[str], numbers: int, more_s: float) -> list[tuple[int, int, str]]:
    """Kill ``process`` a moment after it said so many numbers; return all it said."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(numbers)]
    try:
        process.wait(more_s)
    except subprocess.TimeoutExpired:
        process.kill()
    rest, _ = process.communicate()
    lines = [line.split() for line in [*said, *rest.splitlines()]]
    return [(int(line[0]), int(line[1]), line[2]) for line in lines if len(line) == 3 and len(line[2]) == 32]


async def test_a_killed_ledger_is_whole(tmp_path: Path) -> None:
    chance = random.Random(4)
    meant: dict[tuple[str, int], str] = {}
    for _ in range(12):
        process = counting(tmp_path, free_port())
        said = killed_after(process, chance.randrange(1, 30), chance.random() * 0.02)
        ledger = await Ledger.open(tmp_path / "agent.sqlite")
        assert not ledger.opened.fresh
        records = await ledger.unsent(0, 100_000)
        remembered = int(ledger.memory().accepted or "0", 16)
        events = {r.seq: r for r in records if isinstance(r, Event) and r.kind == "commit.seen"}
        assert [event.message for event in events.values()] == [f"{number}" for number in range(1, remembered + 1)]
        assert remembered >= said[-1][0]
        for number, seq, stream in said:
            assert meant.setdefault((stream, seq), f"{number}") == f"{number}"
        for (stream, seq), text in meant.items():
            assert (events[seq].stream, events[seq].message) == (stream, text)
        await ledger.close()


async def test_an_agent_killed_again_and_again_tells_all_once_and_in_order(tmp_path: Path, broker: Broker) -> None:
    chance = random.Random(5)
    async with tiny_hub(broker.port) as hub:
        for _ in range(8):
            process = await asyncio.to_thread(counting, tmp_path, broker.port, 0.005)
            await asyncio.to_thread(killed_after, process, chance.randrange(10, 60), chance.random() * 0.05)
        async with device(tmp_path, broker.port) as pi:
            await until(lambda: pi.ledger.stored() == pi.ledger.last_seq())
            remembered = int(pi.ledger.memory().accepted or "0", 16)
        assert hub.said() == [f"{number}" for number in range(1, remembered + 1)]
        assert len(hub.watermarks) <= 9, "a stream for each start"


async def test_a_silent_death_is_told_by_the_will_after_its_delay(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        process = await asyncio.to_thread(counting, tmp_path, broker.port, 0.02)
        await until(hub.said)
        process.kill()
        await asyncio.to_thread(process.communicate)
        await until(lambda: hub.presences[-1].state == "offline")
        online, offline = hub.presences
        assert (online.reason, offline.reason) == ("connected", "connection-lost")
        assert (online.connection, online.boot_id) == (offline.connection, offline.boot_id)


async def test_a_link_that_is_back_before_the_delay_tells_nothing(tmp_path: Path, broker: Broker) -> None:
    async with tiny_hub(broker.port) as hub:
        process = await asyncio.to_thread(counting, tmp_path, broker.port, 0.02)
        await until(hub.said)
        process.kill()
        await asyncio.to_thread(process.communicate)
        async with device(tmp_path, broker.port, patience=Patience(will_delay_s=1)) as pi:
            await until(lambda: len(hub.presences) == 2)
            await asyncio.sleep(1.5)  # longer than the will's delay
            await pi.say("still here")
            await until(lambda: hub.said()[-1] == "still here")
        assert [presence.state for presence in hub.presences[:2]] == ["online", "online"]
        assert hub.presences[0].connection < hub.presences[1].connection
